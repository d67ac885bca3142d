"""The exercises of notebook 05, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .exercise import ALPHAS, Build, Choice, Find, Mistake, as_numbers, describe, normal


def _clean(z_t, eps, a):
    return (z_t - (1 - a) ** 0.5 * eps) / a**0.5


def _ddim_step(z_t, eps, a, a_next):
    return a_next**0.5 * _clean(z_t, eps, a) + (1 - a_next) ** 0.5 * eps


ddim_step = Build(
    "5.1",
    right=_ddim_step,
    cases=[
        {"z_t": torch.tensor([1.0]), "eps": torch.tensor([0.5]), "a": 0.64, "a_next": 0.81},
        {"z_t": normal(2, 3, 4, 4, seed=1), "eps": normal(2, 3, 4, 4, seed=2), "a": 0.04, "a_next": 0.36},
        {"z_t": normal(1, 3, 4, 4, seed=3), "eps": normal(1, 3, 4, 4, seed=4), "a": 0.25, "a_next": 1.0},
    ],
    mistakes=[
        Mistake(
            "alpha-bar was used without its square root everywhere",
            lambda z, eps, a, b: b * (z - (1 - a) * eps) / a + (1 - b) * eps,
        ),
        Mistake(
            "the latents minus their noise were not divided by the square root of alpha-bar, so that the estimate of the clean latents is too small",
            lambda z, eps, a, b: b**0.5 * (z - (1 - a) ** 0.5 * eps) + (1 - b) ** 0.5 * eps,
        ),
        Mistake(
            "this is the estimate of the clean latents, and no noise was put back for the next timestep",
            lambda z, eps, a, b: _clean(z, eps, a),
        ),
        Mistake(
            "the noise was put back at the level that was there before, so that nothing has changed: a_next is the new level",
            lambda z, eps, a, b: z.clone(),
        ),
        Mistake(
            "the clean latents were scaled for the next timestep, but no noise was put back",
            lambda z, eps, a, b: b**0.5 * _clean(z, eps, a),
        ),
        Mistake(
            "the noise was put back without the square root of 1 minus a_next",
            lambda z, eps, a, b: b**0.5 * _clean(z, eps, a) + (1 - b) * eps,
        ),
        Mistake(
            "the noise was put back on top of clean latents that were not scaled by the square root of a_next",
            lambda z, eps, a, b: _clean(z, eps, a) + (1 - b) ** 0.5 * eps,
        ),
        Mistake(
            "the noise was subtracted a second time where it should be put back",
            lambda z, eps, a, b: b**0.5 * _clean(z, eps, a) - (1 - b) ** 0.5 * eps,
        ),
        Mistake("a and a_next changed places", lambda z, eps, a, b: _ddim_step(z, eps, b, a)),
    ],
)


def _sample(predict_noise, z, timesteps, alphas_cumprod):
    for i, t in enumerate(timesteps):
        a_next = alphas_cumprod[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0
        z = _ddim_step(z, predict_noise(z, t), alphas_cumprod[t], a_next)
    return z


def _always_first(predict_noise, z, timesteps, alphas_cumprod):
    return _sample(lambda z, t: predict_noise(z, timesteps[0]), z, timesteps, alphas_cumprod)


def _ends_noisy(predict_noise, z, timesteps, alphas_cumprod):
    for i, t in enumerate(timesteps):
        t_next = timesteps[i + 1] if i + 1 < len(timesteps) else 0
        z = _ddim_step(z, predict_noise(z, t), alphas_cumprod[t], alphas_cumprod[t_next])
    return z


def _sample_as_given(predict_noise, z, timesteps, alphas_cumprod):
    return _ends_noisy(lambda z, t: predict_noise(z, timesteps[0]), z, timesteps, alphas_cumprod)


def _asked_once(predict_noise, z, timesteps, alphas_cumprod):
    eps = predict_noise(z, timesteps[0])
    return _sample(lambda z, t: eps, z, timesteps, alphas_cumprod)


def _last_step_missing(predict_noise, z, timesteps, alphas_cumprod):
    for t, t_next in zip(timesteps[:-1], timesteps[1:], strict=True):
        z = _ddim_step(z, predict_noise(z, t), alphas_cumprod[t], alphas_cumprod[t_next])
    return z


def _stand_in(z, t):
    """In the place of a U-Net: an answer that depends on latents and timestep."""
    return 0.6 * z + 0.1 * t - 0.2


sample = Build(
    "5.2",
    right=_sample,
    given=_sample_as_given,
    cases=[
        {
            "predict_noise": _stand_in,
            "z": torch.ones(1, 1, 1, 1),
            "timesteps": torch.tensor([3, 1]),
            "alphas_cumprod": ALPHAS * 0.95,
        },
        {
            "predict_noise": _stand_in,
            "z": normal(2, 3, 4, 4, seed=5),
            "timesteps": torch.tensor([4, 3, 2, 0]),
            "alphas_cumprod": ALPHAS * 0.9,
        },
    ],
    mistakes=[
        Mistake(
            "the loop now ends without noise, but the network is still told the first timestep at every step", _always_first
        ),
        Mistake(
            "the network is now told the right timestep, but after the last step some noise is left: there alpha-bar should be 1, which stands in no table",
            _ends_noisy,
        ),
        Mistake("the network was asked only once, before the loop, and its first answer was used in every step", _asked_once),
        Mistake("the last step is missing: the loop stops at the last timestep, where noise is left", _last_step_missing),
        Mistake(
            "the loop runs from the clean end to the noisy one",
            lambda predict_noise, z, timesteps, alphas_cumprod: _sample(predict_noise, z, timesteps.flip(0), alphas_cumprod),
        ),
        Mistake(
            "each step was made from the first noise again, so that only the last one counts",
            lambda predict_noise, z, timesteps, alphas_cumprod: _sample(predict_noise, z, timesteps[-1:], alphas_cumprod),
        ),
    ],
)


def _with_half_width(half):
    def found(a, b):
        middle = (b - a).mean()
        return torch.stack([middle, middle - half(a, b), middle + half(a, b)])

    return found


def _standard_error(x):
    return x.std() / len(x) ** 0.5


def _mean_between(a, b):
    mean, low, high = _paired(a, b)
    return torch.stack([low, mean, high])


_paired = _with_half_width(lambda a, b: 1.96 * _standard_error(b - a))


paired_difference = Build(
    "5.3",
    right=_paired,
    cases=[
        {"a": torch.tensor([0.2, 0.6, 0.4]), "b": torch.tensor([0.3, 0.9, 0.6])},
        {"a": normal(40, seed=6), "b": normal(40, seed=6) + 0.1 + 0.2 * normal(40, seed=7)},
    ],
    mistakes=[
        Mistake(
            "the two lists were treated as unrelated pictures: their seeds are the same, so take the difference picture by picture first",
            _with_half_width(lambda a, b: 1.96 * (a.var() / len(a) + b.var() / len(b)) ** 0.5),
        ),
        Mistake(
            "the standard deviation was used where the standard error is meant: divide it by the square root of the number of pictures",
            _with_half_width(lambda a, b: 1.96 * (b - a).std()),
        ),
        Mistake(
            "the standard deviation was divided by the number of pictures, where its square root is meant",
            _with_half_width(lambda a, b: 1.96 * (b - a).std() / len(a)),
        ),
        Mistake(
            "the factor 1.96 is missing: one standard error to either side covers 68%",
            _with_half_width(lambda a, b: _standard_error(b - a)),
        ),
        Mistake(
            "the whole interval is 1.96 standard errors wide, where it should be that much to either side",
            _with_half_width(lambda a, b: 0.98 * _standard_error(b - a)),
        ),
        Mistake(
            "the variance was used where the standard deviation is meant: .std() is its square root",
            _with_half_width(lambda a, b: 1.96 * (b - a).var() / len(a) ** 0.5),
        ),
        Mistake("the mean stands between the two ends: it was asked for first", _mean_between),
        Mistake("the difference was taken the other way round: b minus a was asked for", lambda a, b: _paired(b, a)),
        Mistake(
            "the standard deviation was divided by N, where N - 1 was asked for, as torch does it",
            _with_half_width(lambda a, b: 1.96 * (b - a).std(correction=0) / len(a) ** 0.5),
        ),
    ],
)

repeatable = Choice(
    "5.4",
    letter="B",
    reasons={
        "A": "the start decides only if nothing random comes after it, and one of the two draws fresh noise in each step",
        "B": "DDIM computes every step from the one before, so the start decides all of it, and DDPM draws fresh noise in each step, which is another one unless you repeat its seed as well",
        "C": "look at the two formulas again: which of them has a part that is drawn anew in each step?",
        "D": "a trained network computes the same answer to the same question, so chance can only come from numbers that are drawn",
    },
)

FIVE = 5  # steps
CLOSE = 0.145  # five equal steps end at 0.166, as a share of the size of the latents
PROMPTS = ("a golden duck on a blue background", "a mushroom made of watermelon on a pink background",
           "a wooden clock on a green background", "a zebra-striped teapot on a yellow background")  # fmt: skip
EQUAL = (999, 799, 599, 399, 199)


@cache
def _models():
    from ..checkpoints import load_models

    return load_models(device="cpu")


@torch.no_grad()
def draw_at(timesteps: Sequence[int]) -> Tensor:
    """Four prompts from four starts, by steps of DDIM without guidance from each of the timesteps to the next: [4, 8, 16, 16]."""
    from ..sampling import generators, initial_latents

    models = _models()
    alphas, c = models.scheduler.alphas_cumprod, models.encode_text(list(PROMPTS))
    z_t = initial_latents(models, generators([0, 1, 2, 3]))
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        a, a_next = alphas[t], torch.tensor(1.0) if following is None else alphas[following]
        v = models.unet(z_t, t, encoder_hidden_states=c).sample
        clean, eps = a**0.5 * z_t - (1 - a) ** 0.5 * v, (1 - a) ** 0.5 * z_t + a**0.5 * v
        z_t = a_next**0.5 * clean + (1 - a_next) ** 0.5 * eps
    return z_t


@cache
def _many() -> Tensor:
    return draw_at(range(999, 0, -40))


def how_far(timesteps: Sequence[int]) -> float:
    """How far the four pictures are from those of 25 steps, as a share of the size of their latents (the mean of four)."""
    there = _many()
    return ((draw_at(timesteps) - there).flatten(1).norm(dim=1) / there.flatten(1).norm(dim=1)).mean().item()


def decoded_at(timesteps: Sequence[int]) -> list[Tensor]:
    """The four pictures [3, 64, 64] that these timesteps give."""
    return list(_models().decode(draw_at(timesteps)))


def _fault_of_timesteps(chosen: object) -> str | None:
    numbers = as_numbers(chosen)
    if numbers is None or numbers.ndim != 1:
        return f"my_timesteps should be a list of five timesteps, and it is {describe(chosen)}"
    if len(numbers) != FIVE:
        return f"five timesteps are asked for, and these are {len(numbers)}"
    if not numbers.isfinite().all() or (numbers != numbers.round()).any() or numbers.min() < 0 or numbers.max() > 999:
        return "timesteps are whole numbers from 0 to 999"
    if (numbers.diff() >= 0).any():
        return "each timestep should be smaller than the one before: the loop goes from noise to picture"
    steps = [int(t) for t in numbers]
    if steps[0] < 990:
        return f"the start is pure noise, which belongs to timestep 999, and you begin at {steps[0]}"
    found = how_far(steps)
    if found > CLOSE:
        equal = " (five equal steps give about 0.17)"
        return f"with these the pictures are {found:.3f} away from those of 25 steps, and less than {CLOSE} is asked for{equal}: shift the others and look at which way it goes"
    return None


my_timesteps = Find(
    "5.5",
    fault=_fault_of_timesteps,
    because="more of the five steps near the noisy end bring the pictures nearer to those of 25 steps, at the same cost",
)
