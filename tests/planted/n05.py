import numpy as np
import torch


def step_by_parts(z_t, eps, a, a_next):
    """In one line for each factor: the latents, then the noise."""
    a, a_next = torch.tensor(a).double(), torch.tensor(a_next).double()
    of_latents = (a_next / a).sqrt()
    of_noise = (1 - a_next).sqrt() - ((1 - a) * a_next / a).sqrt()
    return of_latents * z_t.double() + of_noise * eps.double()


def step_in_numpy(z_t, eps, a, a_next):
    clean = (z_t.numpy() - np.sqrt(1 - a) * eps.numpy()) / np.sqrt(a)
    return torch.from_numpy(np.sqrt(1 - a_next) * eps.numpy() + np.sqrt(a_next) * clean)


def step_no_division(z_t, eps, a, a_next):
    clean = z_t - (1 - a) ** 0.5 * eps
    return a_next**0.5 * clean + (1 - a_next) ** 0.5 * eps


def step_only_clean(z_t, eps, a, a_next):
    return (z_t - (1 - a) ** 0.5 * eps) / a**0.5


def step_no_roots(z_t, eps, a, a_next):
    clean = (z_t - (1 - a) * eps) / a
    return a_next * clean + (1 - a_next) * eps


def step_old_level(z_t, eps, a, a_next):
    clean = (z_t - (1 - a) ** 0.5 * eps) / a**0.5
    return a**0.5 * clean + (1 - a) ** 0.5 * eps


def walk(ask, z, timesteps, abar, told=lambda ts, i: ts[i], end=1.0, order=1):
    ts = timesteps.tolist()[::order]
    for i in range(len(ts)):
        a = float(abar[ts[i]])
        b = float(abar[ts[i + 1]]) if i < len(ts) - 1 else (float(abar[0]) if end is None else end)
        eps = ask(z, told(ts, i))
        z = (b / a) ** 0.5 * (z - (1 - a) ** 0.5 * eps) + (1 - b) ** 0.5 * eps
    return z


def walk_with_a_table(predict_noise, z, timesteps, alphas_cumprod):
    levels = torch.cat([alphas_cumprod[timesteps], torch.ones(1)])
    for t, a, b in zip(timesteps, levels[:-1], levels[1:], strict=True):
        z = step_by_parts(z, predict_noise(z, t), a.item(), b.item()).float()
    return z


def asked_once(predict_noise, z, timesteps, alphas_cumprod):
    eps = predict_noise(z, timesteps[0])
    return walk(lambda z, t: eps, z, timesteps, alphas_cumprod)


def paired_numpy(a, b):
    d = b.numpy() - a.numpy()
    half = 1.96 * np.std(d, ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


def paired_by_hand(a, b):
    d = [float(y) - float(x) for x, y in zip(a, b, strict=True)]
    mean = sum(d) / len(d)
    error = (sum((x - mean) ** 2 for x in d) / (len(d) - 1) / len(d)) ** 0.5
    return [mean, mean - 1.96 * error, mean + 1.96 * error]


def unpaired(a, b):
    mean = b.mean() - a.mean()
    half = 1.96 * (a.std() ** 2 / len(a) + b.std() ** 2 / len(b)).sqrt()
    return mean, mean - half, mean + half


def deviation(a, b):
    d = b - a
    return d.mean(), d.mean() - 1.96 * d.std(), d.mean() + 1.96 * d.std()


def divided_by_n(a, b):
    d = (b - a).numpy()
    half = 1.96 * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half


def one_error(a, b):
    d = b - a
    half = d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half


def variance(a, b):
    d = b - a
    half = 1.96 * d.var() / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half


RIGHT = {
    "repeatable": ["B", "b"],
    "my_timesteps": [[999, 900, 750, 500, 250], torch.tensor([999, 900, 700, 450, 200])],
    "ddim_step": [step_by_parts, step_in_numpy],
    "sample": [lambda p, z, ts, a: walk(p, z, ts, a), walk_with_a_table],
    "paired_difference": [paired_numpy, paired_by_hand],
}
WRONG = {
    "repeatable": {"draws fresh noise in each step": "A", "look at the two formulas again": "C", "a trained network": "D"},
    "my_timesteps": {
        "away from those of 25 steps": [999, 700, 400, 200, 100],
        "five timesteps are asked for": [999, 500, 250],
        "smaller than the one before": [999, 250, 500, 750, 100],
        "whole numbers from 0 to 999": [1000, 800, 600, 400, 200],
        "you begin at 800": [800, 600, 400, 200, 100],
        "a list of five timesteps": "999, 800, 600",
    },
    "ddim_step": {
        "not divided by the square root": step_no_division,
        "no noise was put back for the next": step_only_clean,
        "without its square root everywhere": step_no_roots,
        "nothing has changed": step_old_level,
    },
    "sample": {
        "still told the first timestep": lambda p, z, ts, a: walk(p, z, ts, a, told=lambda ts, i: ts[0]),
        "some noise is left": lambda p, z, ts, a: walk(p, z, ts, a, end=None),
        "asked only once": asked_once,
        "from the clean end": lambda p, z, ts, a: walk(p, z, ts, a, order=-1),
    },
    "paired_difference": {
        "treated as unrelated": unpaired,
        "where the standard error is meant": deviation,
        "N - 1 was asked for": divided_by_n,
        "the factor 1.96 is missing": one_error,
        "the mean stands between": lambda a, b: [paired_numpy(a, b)[k] for k in (1, 0, 2)],
        "the variance was used": variance,
    },
}
