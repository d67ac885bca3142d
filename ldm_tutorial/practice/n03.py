"""The exercises of notebook 03, forward diffusion."""

from __future__ import annotations

import torch

from .exercise import ALPHAS, Build, Mistake, Number, normal


def _share(t, alphas_cumprod):
    return alphas_cumprod[t].view(-1, 1, 1, 1)


def _add_noise(x, eps, t, alphas_cumprod):
    share = _share(t, alphas_cumprod)
    return share**0.5 * x + (1 - share) ** 0.5 * eps


def _along_the_width(x, eps, t, alphas_cumprod):
    share = alphas_cumprod[t]
    return share**0.5 * x + (1 - share) ** 0.5 * eps


def _without_roots(x, eps, t, alphas_cumprod):
    share = _share(t, alphas_cumprod)
    return share * x + (1 - share) * eps


add_noise = Build(
    "3.1",
    right=_add_noise,
    cases=[
        {
            "x": torch.full((1, 1, 1, 1), 1.0),
            "eps": torch.full((1, 1, 1, 1), 0.5),
            "t": torch.tensor([2]),
            "alphas_cumprod": ALPHAS,
        },
        {
            "x": normal(3, 2, 5, 4, seed=1),
            "eps": normal(3, 2, 5, 4, seed=2),
            "t": torch.tensor([0, 3, 4]),
            "alphas_cumprod": ALPHAS,
        },
        {
            "x": normal(4, 3, 4, 4, seed=3),
            "eps": normal(4, 3, 4, 4, seed=4),
            "t": torch.tensor([4, 1, 3, 1]),
            "alphas_cumprod": ALPHAS,
        },
    ],
    mistakes=[
        Mistake("alpha-bar was used without its square root, in both places", _without_roots),
        Mistake(
            "alpha-bar was used without its square root on the picture's side",
            lambda x, eps, t, a: _share(t, a) * x + (1 - _share(t, a)) ** 0.5 * eps,
        ),
        Mistake(
            "the root on the noise's side is missing: its factor is the square root of 1 minus alpha-bar",
            lambda x, eps, t, a: _share(t, a) ** 0.5 * x + (1 - _share(t, a)) * eps,
        ),
        Mistake(
            "the noise was multiplied by 1 minus the root, where it should be the root of 1 minus alpha-bar",
            lambda x, eps, t, a: _share(t, a) ** 0.5 * x + (1 - _share(t, a) ** 0.5) * eps,
        ),
        Mistake(
            "picture and noise changed places",
            lambda x, eps, t, a: _share(t, a) ** 0.5 * eps + (1 - _share(t, a)) ** 0.5 * x,
        ),
        Mistake(
            "the noise was subtracted",
            lambda x, eps, t, a: _share(t, a) ** 0.5 * x - (1 - _share(t, a)) ** 0.5 * eps,
        ),
        Mistake(
            "the factors [B] run along the width of the pictures, where each picture of the batch should have one: give them "
            "the shape [B, 1, 1, 1]",
            _along_the_width,
        ),
        Mistake(
            "all pictures of the batch got the timestep of the first one",
            lambda x, eps, t, a: _add_noise(x, eps, t[:1].expand(len(t)), a),
        ),
        Mistake(
            "alpha-bar was multiplied up once more, though alphas_cumprod is the finished product",
            lambda x, eps, t, a: _add_noise(x, eps, t, a.cumprod(0)),
        ),
    ],
)

noisy_variance = Number(
    "3.2",
    value=0.6,
    within=0.01,
    because="0.5 times 0.2 is left of the picture, and 0.5 times 1 comes from the noise, because a factor counts in the variance squared",
    mistakes={
        1.0: "you took the picture for one of variance 1, which the schedule is meant for; these pixels have 0.2",
        0.85: "you multiplied the variances by the factors themselves, where they count squared",
        0.5: "the picture's own variance was left out",
        0.7: "the picture was not shrunk: the step shrinks it before noise is added",
        1.2: "nothing was shrunk: both variances were added whole",
        0.1: "only the picture's part was counted, and the noise's part was left out",
        0.3: "alpha-bar was squared: the factors are its square roots, and their squares are alpha-bar itself",
        0.7746: "this is the standard deviation: the variance is its square",
        0.36: "the two factors were added before squaring, though picture and noise have nothing to do with each other",
    },
)


def _forward_steps(x, betas, eps):
    for beta, noise in zip(betas, eps, strict=True):
        x = (1 - beta) ** 0.5 * x + beta**0.5 * noise
    return x


def _as_given(x, betas, eps):
    for beta in betas:
        x = (1 - beta) * x + beta**0.5 * eps[0]
    return x


def _one_noise(x, betas, eps):
    return _forward_steps(x, betas, eps[:1].expand_as(eps))


def _no_root(x, betas, eps):
    for beta, noise in zip(betas, eps, strict=True):
        x = (1 - beta) * x + beta**0.5 * noise
    return x


def _no_root_of_the_noise(x, betas, eps):
    for beta, noise in zip(betas, eps, strict=True):
        x = (1 - beta) ** 0.5 * x + beta * noise
    return x


def _unshrunk(x, betas, eps):
    for beta, noise in zip(betas, eps, strict=True):
        x = x + beta**0.5 * noise
    return x


forward_steps = Build(
    "3.3",
    right=_forward_steps,
    given=_as_given,
    cases=[
        {"x": torch.tensor([1.0]), "betas": torch.tensor([0.36, 0.19]), "eps": torch.tensor([[0.5], [-1.0]])},
        {"x": normal(3, 4, 4, seed=5), "betas": torch.linspace(0.01, 0.4, 9), "eps": normal(9, 3, 4, 4, seed=6)},
    ],
    mistakes=[
        Mistake("the picture is now shrunk rightly, but every step still adds the same noise, eps[0]", _one_noise),
        Mistake("every step now has noise of its own, but the picture is still shrunk by 1 - beta without its root", _no_root),
        Mistake("the root on the noise's side, which was right, is gone", _no_root_of_the_noise),
        Mistake("the picture is not shrunk any more, so that its numbers grow from step to step", _unshrunk),
        Mistake(
            "every step begins anew from the clean picture, so that only the last one counts",
            lambda x, betas, eps: (1 - betas[-1]) ** 0.5 * x + betas[-1] ** 0.5 * eps[-1],
        ),
        Mistake("the last step is missing", lambda x, betas, eps: _forward_steps(x, betas[:-1], eps[:-1])),
        Mistake(
            "the noises are used in the opposite order, the last one first",
            lambda x, betas, eps: _forward_steps(x, betas, eps.flip(0)),
        ),
    ],
)
