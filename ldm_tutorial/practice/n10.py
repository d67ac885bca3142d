"""The exercises of notebook 10, editing pictures and Stable Diffusion."""

from __future__ import annotations

import torch

from .exercise import Build, Mistake, Number, normal


def _keep_outside(z, given, eps, mask, a):
    return mask * z + (1 - mask) * (a**0.5 * given + (1 - a) ** 0.5 * eps)


def _box(*shape: int) -> torch.Tensor:
    mask = torch.zeros(shape)
    mask[..., 1:3, 1:] = 1
    return mask


keep_outside = Build(
    "10.1",
    right=_keep_outside,
    cases=[
        {
            "z": torch.tensor([[[[5.0, 5.0]]]]),
            "given": torch.tensor([[[[1.0, 1.0]]]]),
            "eps": torch.tensor([[[[0.5, 0.5]]]]),
            "mask": torch.tensor([[[[1.0, 0.0]]]]),
            "a": 0.64,
        },
        {
            "z": normal(2, 3, 4, 4, seed=1),
            "given": normal(2, 3, 4, 4, seed=2),
            "eps": normal(2, 3, 4, 4, seed=3),
            "mask": _box(2, 1, 4, 4),
            "a": 0.25,
        },
        {
            "z": normal(1, 3, 4, 4, seed=4),
            "given": normal(1, 3, 4, 4, seed=5),
            "eps": normal(1, 3, 4, 4, seed=6),
            "mask": _box(1, 1, 4, 4),
            "a": 1.0,
        },
    ],
    mistakes=[
        Mistake(
            "the mask was used the other way round: where it is 1 the picture is painted anew",
            lambda z, g, e, m, a: _keep_outside(z, g, e, 1 - m, a),
        ),
        Mistake(
            "the given latents were put back without noise, so that inside and outside are at different noise levels",
            lambda z, g, e, m, a: m * z + (1 - m) * g,
        ),
        Mistake("alpha-bar was used without its square roots", lambda z, g, e, m, a: m * z + (1 - m) * (a * g + (1 - a) * e)),
        Mistake(
            "noise was put outside the mask, and the given picture was forgotten", lambda z, g, e, m, a: m * z + (1 - m) * e
        ),
        Mistake(
            "the mask was multiplied in only once: what is outside was added to all of z, where it should replace it",
            lambda z, g, e, m, a: z + (1 - m) * (a**0.5 * g + (1 - a) ** 0.5 * e),
        ),
        Mistake("everything outside the mask is 0: the given picture is missing", lambda z, g, e, m, a: m * z),
        Mistake(
            "the noise was added without its factor, on top of the scaled picture",
            lambda z, g, e, m, a: m * z + (1 - m) * (a**0.5 * g + e),
        ),
    ],
)


def _lora(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


lora = Build(
    "10.2",
    right=_lora,
    cases=[
        {
            "x": torch.tensor([[1.0, 2.0]]),
            "W": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
            "A": torch.tensor([[0.5, 0.5], [1.0, -1.0]]),
            "B": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]),
            "alpha": 4.0,
        },
        {
            "x": normal(5, 8, seed=1),
            "W": normal(6, 8, seed=2),
            "A": normal(3, 8, seed=3),
            "B": normal(6, 3, seed=4),
            "alpha": 1.5,
        },
        {
            "x": normal(2, 4, 7, seed=5),
            "W": normal(7, 7, seed=6),
            "A": normal(2, 7, seed=7),
            "B": torch.zeros(7, 2),
            "alpha": 8.0,
        },
    ],
    mistakes=[
        Mistake("the factor alpha / r is missing", lambda x, W, A, B, alpha: _lora(x, W, A, B, len(A))),
        Mistake(
            "the small matrices were multiplied by alpha and not divided by the rank r",
            lambda x, W, A, B, alpha: _lora(x, W, A, B, alpha * len(A)),
        ),
        Mistake("alpha and r changed places in the factor", lambda x, W, A, B, alpha: _lora(x, W, A, B, len(A) ** 2 / alpha)),
        Mistake(
            "the frozen weights W were left out: LoRA adds to what they give",
            lambda x, W, A, B, alpha: _lora(x, 0 * W, A, B, alpha),
        ),
        Mistake("the small matrices were left out: this is the layer as it was before", lambda x, W, A, B, alpha: x @ W.T),
        Mistake(
            "the whole sum was multiplied by alpha / r, where only what LoRA adds should be",
            lambda x, W, A, B, alpha: alpha / len(A) * _lora(x, W, A, B, len(A)),
        ),
        Mistake("the product of the small matrices was subtracted", lambda x, W, A, B, alpha: _lora(x, W, A, B, -alpha)),
        Mistake(
            "the rank was read from the wrong axis of A: r is the length of its first axis",
            lambda x, W, A, B, alpha: _lora(x, W, A, B, alpha * len(A) / A.shape[1]),
        ),
    ],
)

learned_by_lora = Number(
    "10.3",
    value=2560,
    within=0.5,
    because="A has 4 x 320 numbers and B has 320 x 4, together 2,560, a fortieth of the 102,400 that the layer itself has",
    mistakes={
        1280: "one of the two small matrices was left out",
        102400: "the layer's own weights were counted, which stay frozen",
        104960: "the layer's own weights were counted too, which stay frozen",
        409600: "the layer's own weights were counted, times the rank",
        16: "the rank was squared: A has 4 rows of 320 numbers",
        640: "a rank of 1 was counted",
        99840: "this is how many numbers are saved, not how many are learned",
    },
)
