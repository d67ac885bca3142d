"""The exercises of notebook 03, forward diffusion."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..curios.dataset import draw, scene_at
from ..images import to_model
from .exercise import ALPHAS, Build, Find, Mistake, Number, as_numbers, describe, normal


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


def _training_batches(latents, alphas_cumprod, steps, size, seed, again=False, one_noise=False, one_t=False, streams=False):
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for step in range(steps):
        if again or streams:
            generator = torch.Generator().manual_seed(seed + step * streams)
        chosen = torch.randint(len(latents), (size,), generator=generator)
        t = torch.randint(len(alphas_cumprod), (1 if one_t else size,), generator=generator).expand(size)
        eps = torch.randn(1 if one_noise else size, *latents.shape[1:], generator=generator)
        eps = eps[0] if one_noise == "as given" else eps.expand(size, *latents.shape[1:])
        batches.append((_add_noise(latents[chosen], eps, t, alphas_cumprod), t, eps))
    return batches


def _drawn_as(*order, roots=True):
    """Batches whose random numbers are drawn in another order, or (not ``roots``) mixed without square roots."""

    def training_batches(latents, alphas_cumprod, steps, size, seed):
        generator = torch.Generator().manual_seed(seed)
        draws = {
            "chosen": lambda: torch.randint(len(latents), (size,), generator=generator),
            "t": lambda: torch.randint(len(alphas_cumprod), (size,), generator=generator),
            "eps": lambda: torch.randn(size, *latents.shape[1:], generator=generator),
        }
        batches = []
        for _ in range(steps):
            drawn = {name: draws[name]() for name in order}
            a = alphas_cumprod[drawn["t"]].view(-1, 1, 1, 1)
            p, q = (a**0.5, (1 - a) ** 0.5) if roots else (a, 1 - a)
            batches.append((p * latents[drawn["chosen"]] + q * drawn["eps"], drawn["t"], drawn["eps"]))
        return batches

    return training_batches


ANOTHER_ORDER = "the random numbers are drawn in another order, which gives other ones: first chosen, then t, then eps"


def _with(**changes):
    return lambda latents, alphas_cumprod, steps, size, seed: _training_batches(
        latents, alphas_cumprod, steps, size, seed, **changes
    )


training_batches = Build(
    "3.4",
    right=_training_batches,
    given=_with(again=True, one_noise="as given"),
    cases=[
        {"latents": normal(3, 1, 1, 1, seed=21), "alphas_cumprod": ALPHAS, "steps": 2, "size": 2, "seed": 4},
        {"latents": normal(6, 2, 3, 3, seed=22), "alphas_cumprod": ALPHAS, "steps": 3, "size": 4, "seed": 9},
    ],
    mistakes=[
        Mistake(
            "each picture now has noise of its own, but every step still begins the random numbers anew, so that all batches are the same",
            _with(again=True),
        ),
        Mistake(
            "the batches now differ, but all pictures of a batch still share one noise, which has no axis for the batch",
            _with(one_noise="as given"),
        ),
        Mistake(
            "the noise now has the right shape, but it is still one and the same for all pictures of a batch",
            _with(one_noise=True),
        ),
        Mistake("all pictures of a batch got the same timestep", _with(one_t=True)),
        Mistake(
            "each step has a stream of its own, which begins with seed + step: that works too, but one generator that goes on is asked for",
            _with(streams=True),
        ),
        Mistake(
            "only the first batch was made: the others are missing",
            lambda latents, a, steps, size, seed: _training_batches(latents, a, 1, size, seed),
        ),
        Mistake(ANOTHER_ORDER, _drawn_as("t", "chosen", "eps")),
        Mistake(ANOTHER_ORDER, _drawn_as("chosen", "eps", "t")),
        Mistake(ANOTHER_ORDER, _drawn_as("eps", "chosen", "t")),
        Mistake(
            "the batches are drawn rightly, but alpha-bar now stands without its square roots",
            _drawn_as("chosen", "t", "eps", roots=False),
        ),
    ],
)

STRENGTH = 0.07  # of the picture in the noise of exercise 3.5


@cache
def hidden_mug() -> tuple[Tensor, Tensor]:
    """Noise with a faint mug in it, and the mug with mean 0 and variance 1: both [3, 64, 64]."""
    mug = to_model(draw([scene_at("validation", 13)[0]])[0])[0].double()
    pattern = (mug - mug.mean()) / mug.std(correction=0)
    noise = normal(*mug.shape, seed=31).double()
    return (noise + STRENGTH * pattern).float(), pattern.float()


def _fault_of_strength(found: object) -> str | None:
    numbers = as_numbers(found)
    if numbers is None or numbers.numel() != 3:
        return f"three numbers are expected, the strength and the two ends of its interval, and hidden_strength is {describe(found)}"
    strength, low, high = numbers.flatten().tolist()
    hidden, pattern = hidden_mug()
    count = hidden.numel()
    expected, half = (hidden * pattern).mean().item(), 1.96 / count**0.5
    if not numbers.isfinite().all():
        return "some of these numbers are not finite"
    if abs(strength - (hidden * pattern).sum().item()) < 0.01 * count * expected:
        return f"{strength:.4g} is the sum over all places, where their mean is asked for"
    if abs(strength - hidden.mean().item()) < 5e-4:
        return "this is the mean of the noise itself: multiply it with the pattern, place by place, before you take the mean"
    if low <= expected <= high and abs(strength - expected) > 0.001 and abs(low - expected) < 0.001:
        return "the strength stands first, and then the lower and the upper end"
    if abs(strength - expected) > 0.001:
        return f"the strength {strength:.4g} is not what the mean of the products gives"
    if not low < strength < high:
        return "the lower end should be below the strength, and the upper end above it"
    if abs((high - strength) - (strength - low)) > 0.1 * half:
        return "the two ends should be equally far from the strength"
    found_half = (high - low) / 2
    if abs(found_half - half) <= 0.08 * half:
        return None
    looks = {
        half / 1.96: "the factor 1.96 is missing",
        1.96: "the standard deviation of one product was taken, where that of the mean is meant: divide it by the square root of the number of places",
        1.96 / count: "1 was divided by the number of places, where its square root is meant",
        half / 2: "the whole interval is 1.96 standard errors wide, where it should be that much to either side",
        2 * half: "the interval is twice as wide as it should be",
        half * 3**0.5: "the places of one channel were counted: three channels have 12,288 numbers",
    }
    for wrong, words in looks.items():
        if abs(found_half - wrong) <= 0.08 * wrong:
            return f"the strength is right, but its interval reaches {found_half:.4g} to either side; it looks as if {words}"
    return f"the strength is right, but its interval reaches {found_half:.4g} to either side, which is too {'much' if found_half > half else 'little'}"


hidden_strength = Find(
    "3.5",
    fault=_fault_of_strength,
    because=f"the mug was hidden with a strength of {STRENGTH}, which your interval contains, and with 12,288 numbers it is found though no eye can see it",
)
