import numpy as np
import torch


def by_loop(pictures, noise, steps, abar):
    rows = []
    for picture, n, step in zip(pictures, noise, steps, strict=True):
        rows.append((1 - abar[step]).sqrt() * n + abar[step].sqrt() * picture)
    return torch.stack(rows)


def in_double(x, eps, t, alphas_cumprod):
    a = alphas_cumprod.double()[t][:, None, None, None]
    return torch.sqrt(a) * x.double() + torch.sqrt(1 - a) * eps.double()


def by_einsum(x, eps, t, alphas_cumprod):
    a = torch.index_select(alphas_cumprod, 0, t)
    return torch.einsum("b,bchw->bchw", a.pow(0.5), x) + torch.einsum("b,bchw->bchw", (1 - a).pow(0.5), eps)


def no_roots(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return x * a + eps * (1 - a)


def no_root_left(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return x * a + eps * torch.sqrt(1 - a)


def one_minus_root(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t].sqrt().reshape(-1, 1, 1, 1)
    return x * a + eps * (1 - a)


def swapped(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return eps * a.sqrt() + x * (1 - a).sqrt()


def no_shape(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t]
    return a**0.5 * x + (1 - a) ** 0.5 * eps


def first_timestep(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[int(t[0])]
    return a**0.5 * x + (1 - a) ** 0.5 * eps


def in_place(x, eps, t, alphas_cumprod):
    a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    x *= a**0.5
    x += (1 - a) ** 0.5 * eps
    return x


def steps_by_index(x, betas, eps):
    for t in range(len(betas)):
        x = eps[t] * betas[t].sqrt() + x * (1 - betas[t]).sqrt()
    return x


def steps_closed(x, betas, eps):
    """The sum over all noises, each shrunk by the steps after it."""
    keep = (1 - betas).double()
    total = keep.prod().sqrt() * x.double()
    for t in range(len(betas)):
        total = total + betas[t].double().sqrt() * keep[t + 1 :].prod().sqrt() * eps[t].double()
    return total


def steps_in_numpy(x, betas, eps):
    x = x.numpy()
    for beta, e in zip(betas.numpy(), eps.numpy(), strict=True):
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * e
    return torch.from_numpy(x)


def steps_one_noise(x, betas, eps):
    for beta in betas:
        x = (1 - beta) ** 0.5 * x + beta**0.5 * eps[0]
    return x


def steps_no_root(x, betas, eps):
    for t, beta in enumerate(betas):
        x = (1 - beta) * x + beta**0.5 * eps[t]
    return x


def steps_grow(x, betas, eps):
    for t, beta in enumerate(betas):
        x = x + beta**0.5 * eps[t]
    return x


def steps_forget(x, betas, eps):
    for t, beta in enumerate(betas):
        noisy = (1 - beta) ** 0.5 * x + beta**0.5 * eps[t]
    return noisy


RIGHT = {
    "add_noise": [by_loop, in_double, by_einsum],
    "noisy_variance": [0.6, 0.5 * 0.2 + 0.5, torch.tensor(0.6)],
    "forward_steps": [steps_by_index, steps_closed, steps_in_numpy],
}
WRONG = {
    "add_noise": {
        "square root, in both places": no_roots,
        "square root on the picture's side": no_root_left,
        "1 minus the root": one_minus_root,
        "changed places": swapped,
        "run along the width": no_shape,
        "timestep of the first one": first_timestep,
        "changes the x that it was given": in_place,
    },
    "noisy_variance": {
        "picture for one of variance 1": 1,
        "count squared": 0.5**0.5 * 1.2,
        "alpha-bar was squared": 0.25 * 0.2 + 0.25,
        "the standard deviation": 0.6**0.5,
        "too low": 0.45,
    },
    "forward_steps": {
        "the same noise, eps[0]": steps_one_noise,
        "without its root": steps_no_root,
        "grow from step to step": steps_grow,
        "begins anew": steps_forget,
    },
}
