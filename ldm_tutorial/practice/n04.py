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


class _WithDropout(_Tiny):
    """In the place of a network with dropout: in training mode one of its two answers is 0 and the other twice as large."""

    def forward(self, z_t, t):
        answer = super().forward(z_t, t)
        return 2 * answer * torch.tensor([1.0, 0.0]) if self.training else answer


def _validation_loss(model, batches, mode=False, by_size=True, loss_of=F.mse_loss):
    model.train(mode)
    with torch.no_grad():
        sizes = [len(z_t) if by_size else 1 for z_t, t, eps in batches]
        losses = [loss_of(model(z_t, t), eps) for z_t, t, eps in batches]
    model.train()
    return sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)


def _back_too_early(model, batches):
    """Evaluation mode for the first batch only."""
    sizes = [len(z_t) for z_t, t, eps in batches]
    losses = [_validation_loss(model, [batch], mode=i > 0) for i, batch in enumerate(batches)]
    return sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)


def _measured(**changes):
    return lambda model, batches: _validation_loss(model, batches, **changes)


def _test_batches(*sizes: int, seed: int) -> list:
    return [(normal(n, 2, seed=seed + i), torch.arange(n) % 5, normal(n, 2, seed=seed + 50 + i)) for i, n in enumerate(sizes)]


def _left_changed(answer):
    """What the function leaves behind, though its number is right."""
    model = _WithDropout()
    before = [weight.clone() for weight in model.parameters()]
    answer(model, _test_batches(3, 2, seed=30))
    if not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)):
        return "the loss is right, but the weights of the model are not what they were: a test only reads them"
    if not model.training:
        return "the loss is right, but the model is still in evaluation mode afterwards, so that the training would go on without its dropout: call model.train() at the end"
    return None


validation_loss = Build(
    "4.4",
    right=_validation_loss,
    given=_measured(mode=True, by_size=False),
    cases=[
        {"model": _WithDropout(), "batches": _test_batches(2, 1, seed=31)},
        {"model": _WithDropout(), "batches": _test_batches(6, 6, 2, seed=41)},
    ],
    mistakes=[
        Mistake(
            "every example now counts the same, but the model is still in training mode, with its dropout: model.eval() is missing",
            _measured(mode=True),
        ),
        Mistake(
            "the model is now in evaluation mode, but the small last batch still counts as much as a full one: weigh each loss by the size of its batch",
            _measured(by_size=False),
        ),
        Mistake(
            "the losses of the batches were weighed by their sizes, but their sum was divided by the number of batches",
            lambda model, batches: _validation_loss(model, batches) * sum(len(batch[0]) for batch in batches) / len(batches),
        ),
        Mistake(
            "the losses were added up and not divided",
            lambda model, batches: _validation_loss(model, batches) * sum(len(batch[0]) for batch in batches),
        ),
        Mistake(
            "the losses of the batches were added up and divided by the number of examples, though each is a mean already: multiply it by the size of its batch first",
            lambda model, batches: (
                _validation_loss(model, batches, by_size=False) * len(batches) / sum(len(batch[0]) for batch in batches)
            ),
        ),
        Mistake(
            "the squared errors were added up for each example, where their mean is the loss",
            lambda model, batches: 2 * _validation_loss(model, batches),
        ),
        Mistake(
            "the model goes back to training mode after the first batch: model.train() stands inside the loop", _back_too_early
        ),
        Mistake("the absolute error was used, where the mean squared error is the loss", _measured(loss_of=F.l1_loss)),
        Mistake("only the last batch was counted", lambda model, batches: _validation_loss(model, batches[-1:])),
    ],
    also=_left_changed,
)


def _from_v(z_t, v, a):
    return a**0.5 * z_t - (1 - a) ** 0.5 * v, (1 - a) ** 0.5 * z_t + a**0.5 * v


from_v = Build(
    "4.5",
    right=_from_v,
    cases=[
        {"z_t": torch.tensor([1.0]), "v": torch.tensor([0.5]), "a": 0.64},
        {"z_t": normal(2, 3, 4, 4, seed=61), "v": normal(2, 3, 4, 4, seed=62), "a": 0.36},
        {"z_t": normal(1, 3, 4, 4, seed=63), "v": normal(1, 3, 4, 4, seed=64), "a": 0.04},
    ],
    mistakes=[
        Mistake("the noise stands first: the clean latents were asked for first", lambda z_t, v, a: _from_v(z_t, v, a)[::-1]),
        Mistake(
            "alpha-bar was used without its square root everywhere",
            lambda z_t, v, a: (a * z_t - (1 - a) * v, (1 - a) * z_t + a * v),
        ),
        Mistake(
            "v was added where the clean latents are computed: in their formula it is subtracted",
            lambda z_t, v, a: (a**0.5 * z_t + (1 - a) ** 0.5 * v, _from_v(z_t, v, a)[1]),
        ),
        Mistake(
            "v was subtracted where the noise is computed: in its formula it is added",
            lambda z_t, v, a: (_from_v(z_t, v, a)[0], (1 - a) ** 0.5 * z_t - a**0.5 * v),
        ),
        Mistake(
            "the two square roots changed places: at a = 1 there is no noise, and the clean latents are z_t",
            lambda z_t, v, a: (_from_v(z_t, v, 1 - a)[0], _from_v(z_t, v, 1 - a)[1]),
        ),
        Mistake(
            "v was taken for the noise: the closed form was solved for the clean latents with it",
            lambda z_t, v, a: ((z_t - (1 - a) ** 0.5 * v) / a**0.5, v),
        ),
        Mistake(
            "this makes v and not the two parts: z_t and v were put in for the clean latents and the noise",
            lambda z_t, v, a: (a**0.5 * v - (1 - a) ** 0.5 * z_t, _from_v(z_t, v, a)[1]),
        ),
    ],
)
