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


def loss_over_all(model, batches):
    model.eval()
    with torch.inference_mode():
        errors = torch.cat([(model(z_t, t) - eps).square().mean(dim=1) for z_t, t, eps in batches])
    model.train()
    return errors.mean().item()


def loss_by_sum(model, batches):
    model.train(False)
    total, count = 0.0, 0
    for z_t, t, eps in batches:
        total += (model(z_t, t) - eps).square().sum().item()
        count += eps.numel()
    model.train(True)
    return total / count


def loss_in(model, batches, mode=False, back=True, by_size=True):
    model.train(mode)
    total, count = 0.0, 0
    for z_t, t, eps in batches:
        n = len(z_t) if by_size else 1
        total += n * torch.nn.functional.mse_loss(model(z_t, t), eps).item()
        count += n
    model.train(back)
    return total / count


def both_by_solving(z_t, v, a):
    z = a**0.5 * z_t - (1 - a) ** 0.5 * v
    return [z, (z_t - a**0.5 * z) / (1 - a) ** 0.5]


def both_by_angle(z_t, v, a):
    angle = math.acos(a**0.5)
    return math.cos(angle) * z_t - math.sin(angle) * v, math.sin(angle) * z_t + math.cos(angle) * v


def loss_with_train_inside(model, batches):
    model.eval()
    total, count = 0.0, 0
    for z_t, t, eps in batches:
        total += (model(z_t, t) - eps).square().mean(dim=1).sum().item()
        count += len(eps)
        model.train()
    return total / count


RIGHT = {
    "validation_loss": [loss_over_all, loss_by_sum, loss_in],
    "from_v": [both_by_solving, both_by_angle],
    "sinusoidal_embedding": [waves_in_numpy, waves_by_loop],
    "train": [zero_at_the_end, lambda m, b, a, lr: loop(m, b, a, lr, zero=True, aim="noise")],
    "learned_numbers": [64 * (8 * 9 + 1), torch.nn.Conv2d(8, 64, 3).weight.numel() + 64],
}
WRONG = {
    "validation_loss": {
        "model.eval() is missing": lambda model, batches: loss_in(model, batches, mode=True),
        "weigh each loss": lambda model, batches: loss_in(model, batches, by_size=False),
        "model.train() stands inside the loop": loss_with_train_inside,
        "the absolute error": lambda model, batches: (
            sum((model.eval()(z_t, t) - eps).abs().mean(dim=1).sum().item() for z_t, t, eps in batches)
            / sum(len(b[0]) for b in batches)
        ),
        "call model.train() at the end": lambda model, batches: loss_in(model, batches, back=False),
        "added up and not divided": lambda model, batches: sum(len(b[0]) for b in batches) * loss_over_all(model, batches),
    },
    "from_v": {
        "the noise stands first": lambda z_t, v, a: both_by_angle(z_t, v, a)[::-1],
        "without its square root": lambda z_t, v, a: (a * z_t - (1 - a) * v, (1 - a) * z_t + a * v),
        "taken for the noise": lambda z_t, v, a: ((z_t - (1 - a) ** 0.5 * v) / a**0.5, v),
        "changed places: at a = 1": lambda z_t, v, a: both_by_angle(z_t, v, 1 - a),
    },
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
