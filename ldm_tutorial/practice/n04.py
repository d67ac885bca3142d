"""The exercises of notebook 04, the U-Net and its training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .exercise import ALPHAS, Build, Mistake, Number, normal


def _angles(t, width, base=10_000.0, divisor=None):
    k = torch.arange(width // 2)
    return t[:, None].float() * torch.exp(-math.log(base) * k / (divisor or width // 2))


def _embedding(t, width):
    angles = _angles(t, width)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _embedding_of(angles):
    return torch.cat([angles.cos(), angles.sin()], dim=1)


sinusoidal_embedding = Build(
    "4.1",
    right=_embedding,
    cases=[
        {"t": torch.tensor([2]), "width": 4},
        {"t": torch.tensor([0, 1, 500, 999]), "width": 8},
    ],
    mistakes=[
        Mistake(
            "sines and cosines changed places: the cosines come first",
            lambda t, width: _embedding(t, width).roll(width // 2, dims=1),
        ),
        Mistake(
            "cosines and sines stand by turns, where all cosines should stand before all sines",
            lambda t, width: torch.stack([_angles(t, width).cos(), _angles(t, width).sin()], dim=2).flatten(1),
        ),
        Mistake(
            "the exponent was divided by width, where it should be divided by half of it, the number of frequencies",
            lambda t, width: _embedding_of(_angles(t, width, divisor=width)),
        ),
        Mistake(
            "the frequencies grow, where they should fall from 1 downwards: the exponent is negative",
            lambda t, width: _embedding_of(_angles(t, width, base=1e-4)),
        ),
        Mistake(
            "the exponent was divided by the number of frequencies minus 1: the last frequency should not quite reach 1 / 10,000",
            lambda t, width: _embedding_of(_angles(t, width, divisor=width // 2 - 1)),
        ),
        Mistake(
            "k counts from 1, where it should count from 0, so that the first frequency is 1",
            lambda t, width: _embedding_of(_angles(t, width) / 10_000 ** (2 / width)),
        ),
        Mistake(
            "all frequencies are 1, so that every hand of the clock turns at the same speed",
            lambda t, width: _embedding_of(t[:, None].float().repeat(1, width // 2)),
        ),
    ],
)


class _Tiny(nn.Module):
    """In the place of a U-Net: one layer that sees the noisy latents and the timestep."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.3, -0.2, 0.1], [0.2, 0.4, -0.1]]))
            self.layer.bias.copy_(torch.tensor([0.1, -0.3]))

    def forward(self, z_t, t):
        return self.layer(torch.cat([z_t, t[:, None] / 5], dim=1))


def _train(model, batches, alphas_cumprod, lr, zero=True, step=True, target=lambda z, eps: eps, seen=None, loss_of=F.mse_loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for z, eps, t in batches:
        a = alphas_cumprod[t][:, None]
        z_t = a**0.5 * z + (1 - a) ** 0.5 * eps
        loss = loss_of(model(z_t if seen is None else seen(z, eps), t), target(z, eps))
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if step:
            optimizer.step()
        losses.append(loss.item())
    return losses


def _variant(**changes):
    return lambda model, batches, alphas_cumprod, lr: _train(model, batches, alphas_cumprod, lr, **changes)


def _wiped(model, batches, alphas_cumprod, lr):
    """zero_grad between backward and step: the weights stay."""
    return _train(model, batches, alphas_cumprod, lr, step=False)


def _batches(count: int, seed: int) -> list:
    return [(normal(6, 2, seed=seed + i), normal(6, 2, seed=seed + 50 + i), torch.arange(6) % 5) for i in range(count)]


train = Build(
    "4.2",
    right=_variant(),
    given=_variant(zero=False, target=lambda z, eps: z),
    cases=[
        {"model": _Tiny(), "batches": _batches(4, seed=1), "alphas_cumprod": ALPHAS, "lr": 0.3},
        {"model": _Tiny(), "batches": _batches(7, seed=10), "alphas_cumprod": ALPHAS, "lr": 0.1},
    ],
    mistakes=[
        Mistake(
            "the target is now the noise, but the gradients of all earlier steps still add up: nothing sets them to zero",
            _variant(zero=False),
        ),
        Mistake(
            "the gradients are now set to zero, but the target is still the clean latents, where it should be the noise",
            _variant(target=lambda z, eps: z),
        ),
        Mistake(
            "the weights never change: optimizer.step() must come after loss.backward(), with the gradients still there", _wiped
        ),
        Mistake("the network was given the clean latents, from which no noise can be read", _variant(seen=lambda z, eps: z)),
        Mistake("the network was given the noise itself, which is the answer", _variant(seen=lambda z, eps: eps)),
        Mistake(
            "the squared errors were added up, where their mean is the loss",
            _variant(loss_of=lambda x, y: F.mse_loss(x, y, reduction="sum")),
        ),
        Mistake("the absolute error was used, where the mean squared error is the loss", _variant(loss_of=F.l1_loss)),
    ],
)

learned_numbers = Number(
    "4.3",
    value=4672,
    within=0.5,
    because="each of the 64 output channels has 8 x 3 x 3 = 72 weights and one bias, and 64 x 73 = 4,672, however large the picture is",
    mistakes={
        4608: "the biases were left out: there is one for each output channel",
        576: "one weight was counted for each of 9 places and output channel: each output channel looks at all 8 input channels",
        640: "one weight was counted for each of 9 places and output channel, with its bias: each output channel looks at all 8 input channels",
        512: "a kernel of 1 x 1 was counted: this one sees 3 x 3 neighbours",
        520: "a bias was counted for each input channel, and a kernel of 1 x 1",
        4616: "one bias was counted for each input channel, where there is one for each output channel",
        4672
        * 256: "the weights were counted for each position of the picture anew: a convolution uses the same ones everywhere",
        36864: "64 channels were counted on both sides: 8 channels go in, and 64 come out",
        5184: "a bias was counted for each pair of an input and an output channel: after summing there is only one for each output channel",
    },
)
