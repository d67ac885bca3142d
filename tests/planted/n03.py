import numpy as np
import torch

from ldm_tutorial.practice.n03 import hidden_mug


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


def batches_by_comprehension(latents, alphas_cumprod, steps, size, seed):
    stream = torch.Generator()
    stream.manual_seed(seed)

    def one():
        x = latents[torch.randint(0, len(latents), (size,), generator=stream)]
        t = torch.randint(0, len(alphas_cumprod), (size,), generator=stream)
        noise = torch.randn(x.shape, generator=stream)
        share = alphas_cumprod[t].reshape(size, 1, 1, 1)
        return [share.sqrt() * x + (1 - share).sqrt() * noise, t, noise]

    return [one() for _ in range(steps)]


def batches(latents, alphas_cumprod, steps, size, seed, begins=lambda seed, step: None, shape=None):
    generator, made = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        if begins(seed, step) is not None:
            generator.manual_seed(begins(seed, step))
        chosen = torch.randint(len(latents), (size,), generator=generator)
        t = torch.randint(len(alphas_cumprod), (size,), generator=generator)
        eps = torch.randn(shape or (size, *latents.shape[1:]), generator=generator)
        a = alphas_cumprod[t][:, None, None, None]
        made.append((a**0.5 * latents[chosen] + (1 - a) ** 0.5 * eps, t, eps))
    return made


def without_generator(latents, alphas_cumprod, steps, size, seed):
    torch.manual_seed(seed)
    made = []
    for _ in range(steps):
        x = latents[torch.randint(len(latents), (size,))]
        t, eps = torch.randint(len(alphas_cumprod), (size,)), torch.randn(x.shape)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        made.append((a.sqrt() * x + (1 - a).sqrt() * eps, t, eps))
    return made


def strength(factor=1.96, count=12288, half=None):
    noisy, pattern = hidden_mug()
    found = (noisy * pattern).mean().item()
    half = factor / count**0.5 if half is None else half
    return found, found - half, found + half


def strength_measured():
    noisy, pattern = hidden_mug()
    products = (noisy * pattern).flatten()
    error = products.std() / len(products) ** 0.5
    return torch.stack([products.mean(), products.mean() - 1.96 * error, products.mean() + 1.96 * error])


def batches_noise_first(latents, alphas_cumprod, steps, size, seed):
    generator, made = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        eps = torch.randn(size, *latents.shape[1:], generator=generator)
        z = latents[torch.randint(len(latents), (size,), generator=generator)]
        t = torch.randint(len(alphas_cumprod), (size,), generator=generator)
        made.append((by_einsum(z, eps, t, alphas_cumprod), t, eps))
    return made


def batches_no_roots(latents, alphas_cumprod, *numbers):
    made = []
    for z_t, t, eps in batches(latents, alphas_cumprod, *numbers):
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        z = (z_t - (1 - a).sqrt() * eps) / a.sqrt()
        made.append((a * z + (1 - a) * eps, t, eps))
    return made


RIGHT = {
    "training_batches": [batches_by_comprehension, batches, without_generator],
    "hidden_strength": [strength(), strength_measured()],
    "add_noise": [by_loop, in_double, by_einsum],
    "noisy_variance": [0.6, 0.5 * 0.2 + 0.5, torch.tensor(0.6)],
    "forward_steps": [steps_by_index, steps_closed, steps_in_numpy],
}
WRONG = {
    "training_batches": {
        "all batches are the same": lambda *given: batches(*given, begins=lambda seed, step: seed),
        "has no axis for the batch": lambda *given: batches(*given, shape=given[0].shape[1:]),
        "one and the same for all pictures": lambda *given: [
            (z_t, t, eps.expand_as(z_t)) for z_t, t, eps in batches(*given, shape=(1, *given[0].shape[1:]))
        ],
        "one generator that goes on is asked for": lambda *given: batches(*given, begins=lambda seed, step: seed + step),
        "2 parts are expected": lambda *given: batches(*given)[:1],
        "first chosen, then t, then eps": batches_noise_first,
        "alpha-bar now stands without": batches_no_roots,
    },
    "hidden_strength": {
        "three numbers are expected": 0.07,
        "the factor 1.96 is missing": strength(factor=1),
        "that of the mean is meant": strength(count=1),
        "its square root is meant": strength(half=1.96 / 12288),
        "the places of one channel": strength(count=4096),
        "the sum over all places": tuple(12288 * number for number in strength()),
        "multiply it with the pattern": (hidden_mug()[0].mean().item(), -0.01, 0.03),
        "the strength stands first": tuple(strength()[k] for k in (1, 0, 2)),
        "below the strength": tuple(strength()[k] for k in (0, 2, 1)),
        "is not what the mean of the products gives": (0.3, 0.2, 0.4),
    },
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
