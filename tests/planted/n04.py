import math

import numpy as np
import torch
import torch.nn.functional as F


def waves_in_numpy(t, width):
    half = width // 2
    frequencies = 10_000.0 ** (-np.arange(half) / half)
    angles = t.numpy()[:, None] * frequencies[None]
    return torch.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)], axis=1))


def waves_by_loop(t, width):
    rows = []
    for moment in t.tolist():
        hands = [moment / 10_000 ** (k / (width // 2)) for k in range(width // 2)]
        rows.append([math.cos(hand) for hand in hands] + [math.sin(hand) for hand in hands])
    return torch.tensor(rows)


def sines_first(t, width):
    k = torch.arange(width // 2)
    angles = t[:, None] / 10_000 ** (k / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def by_turns(t, width):
    k = torch.arange(width // 2)
    angles = t[:, None] / 10_000 ** (k / (width // 2))
    found = torch.zeros(len(t), width)
    found[:, 0::2], found[:, 1::2] = angles.cos(), angles.sin()
    return found


def whole_width(t, width):
    k = torch.arange(width // 2)
    angles = t[:, None] / 10_000 ** (k / width)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def growing(t, width):
    k = torch.arange(width // 2)
    angles = t[:, None] * torch.exp(math.log(10_000) * k / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def loop(model, batches, abar, lr, zero, aim, clean=False, step=True):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    kept = []
    for z, eps, t in batches:
        root = abar[t].sqrt().unsqueeze(1)
        noisy = root * z + (1 - root**2).sqrt() * eps
        answer = model(z if clean else noisy, t)
        loss = ((answer - (eps if aim == "noise" else z)) ** 2).mean()
        if zero:
            model.zero_grad()
        loss.backward()
        if step:
            optimizer.step()
        kept.append(loss.detach())
    return torch.stack(kept)


def trained(model, batches, alphas_cumprod, lr, after_backward):
    """Losses of a loop that ends each step with these calls of its optimiser, in this order."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for z, eps, t in batches:
        a = alphas_cumprod[t].view(-1, 1)
        loss = F.mse_loss(model(a**0.5 * z + (1 - a) ** 0.5 * eps, t), eps)
        loss.backward()
        for call in after_backward:
            getattr(optimizer, call)()
        losses.append(float(loss))
    return losses


def zero_at_the_end(model, batches, alphas_cumprod, lr):
    return trained(model, batches, alphas_cumprod, lr, ("step", "zero_grad"))


def wiped_before_the_step(model, batches, alphas_cumprod, lr):
    return trained(model, batches, alphas_cumprod, lr, ("zero_grad", "step"))


RIGHT = {
    "sinusoidal_embedding": [waves_in_numpy, waves_by_loop],
    "train": [zero_at_the_end, lambda m, b, a, lr: loop(m, b, a, lr, zero=True, aim="noise")],
    "learned_numbers": [64 * (8 * 9 + 1), torch.nn.Conv2d(8, 64, 3).weight.numel() + 64],
}
WRONG = {
    "sinusoidal_embedding": {
        "the cosines come first": sines_first,
        "stand by turns": by_turns,
        "divided by width": whole_width,
        "frequencies grow": growing,
    },
    "train": {
        "nothing sets them to zero": lambda m, b, a, lr: loop(m, b, a, lr, zero=False, aim="noise"),
        "still the clean latents": lambda m, b, a, lr: loop(m, b, a, lr, zero=True, aim="latents"),
        "the weights never change": wiped_before_the_step,
        "was given the clean latents": lambda m, b, a, lr: loop(m, b, a, lr, zero=True, aim="noise", clean=True),
    },
    "learned_numbers": {
        "much too large": 10**400,
        "on both sides": 64 * 64 * 9,
        "biases were left out": 8 * 64 * 9,
        "1 x 1 was counted": 512,
        "too high": 10_000,
    },
}
