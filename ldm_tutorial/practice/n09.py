"""The exercises of notebook 09, from text to image."""

from __future__ import annotations

import torch

from .exercise import Build, Mistake, normal

guide = Build(
    "9.1",
    right=lambda without, with_text, w: without + w * (with_text - without),
    cases=[
        {"without": torch.tensor([1.0]), "with_text": torch.tensor([1.5]), "w": 3.0},
        {"without": normal(2, 3, 4, 4, seed=1), "with_text": normal(2, 3, 4, 4, seed=2), "w": 7.5},
        {"without": normal(1, 3, 4, 4, seed=3), "with_text": normal(1, 3, 4, 4, seed=4), "w": 1.0},
        {"without": normal(1, 3, 4, 4, seed=3), "with_text": normal(1, 3, 4, 4, seed=4), "w": 0.0},
    ],
    mistakes=[
        Mistake(
            "the difference was added to the answer with the text, so that w counts from 0: here w = 1 should give just the answer with the text",
            lambda u, c, w: c + w * (c - u),
        ),
        Mistake("the two answers changed places, which leads away from the text", lambda u, c, w: c + w * (u - c)),
        Mistake("the difference has the wrong sign, which leads away from the text", lambda u, c, w: u + w * (u - c)),
        Mistake(
            "w times the answer with the text was added, where w times the difference of the two is meant",
            lambda u, c, w: u + w * c,
        ),
        Mistake(
            "this is w times the difference alone: it should be added to the answer without the text",
            lambda u, c, w: w * (c - u),
        ),
        Mistake("the answer with the text was multiplied by w, and the other one was left out", lambda u, c, w: w * c),
        Mistake("this is the mean of the two answers, whatever w is", lambda u, c, w: (u + c) / 2),
    ],
)

Z = 1.96


def _wilson(hits, n, z=Z, shrink=True, root=True, inner=True, times_n=False, z_outside=True):
    p = hits / n
    below = 1 + z**2 / n if shrink else 1.0
    middle = (p + (z**2 / 2 * n if times_n else z**2 / (2 * n))) / below
    square = p * (1 - p) / n + (z**2 / (4 * n**2) if inner else 0.0)
    half = (z if z_outside else 1.0) * (square**0.5 if root else square) / below
    return middle - half, middle + half


def _plain(hits, n):
    p = hits / n
    half = Z * (p * (1 - p) / n) ** 0.5
    return p - half, p + half


interval = Build(
    "9.2",
    right=_wilson,
    cases=[{"hits": 12, "n": 12}, {"hits": 45, "n": 100}, {"hits": 0, "n": 20}, {"hits": 970, "n": 1000}],
    mistakes=[
        Mistake(
            "this is the simple interval p plus or minus 1.96 standard errors, which has no width at all where every picture is right",
            _plain,
        ),
        Mistake("the division by 1 + z^2 / n is missing", lambda hits, n: _wilson(hits, n, shrink=False)),
        Mistake("the square root is missing", lambda hits, n: _wilson(hits, n, root=False)),
        Mistake("the part z^2 / (4 n^2) under the root is missing", lambda hits, n: _wilson(hits, n, inner=False)),
        Mistake(
            "z^2 / 2 was multiplied by n: in Python z**2 / 2 * n does that, and z**2 / (2 * n) divides by both",
            lambda hits, n: _wilson(hits, n, times_n=True),
        ),
        Mistake("the z in front of the root is missing", lambda hits, n: _wilson(hits, n, z_outside=False)),
        Mistake("z was left out, or is 1: for 95% it is 1.96", lambda hits, n: _wilson(hits, n, z=1.0)),
        Mistake("z is that of 99%, 2.58: for 95% it is 1.96", lambda hits, n: _wilson(hits, n, z=2.576)),
        Mistake(
            "the interval is given in percent, where shares from 0 to 1 were asked for",
            lambda hits, n: tuple(100 * end for end in _wilson(hits, n)),
        ),
        Mistake("the upper end stands before the lower one", lambda hits, n: _wilson(hits, n)[::-1]),
    ],
)


def _stream(seed):
    return torch.Generator().manual_seed(int(seed))


def _noise_for(seeds, shape):
    return torch.stack([torch.randn(*shape, generator=_stream(seed)) for seed in seeds])


noise_for = Build(
    "9.3",
    right=_noise_for,
    given=lambda seeds, shape: torch.rand(len(seeds), *shape, generator=_stream(seeds[0])),
    cases=[
        {"seeds": [3], "shape": (2, 1, 2)},
        {"seeds": [5, 6, 7], "shape": (2, 4, 4)},
        {"seeds": [7, 5], "shape": (2, 4, 4)},
    ],
    mistakes=[
        Mistake(
            "the numbers are now normally distributed, but all pictures still share one stream: seed 7 gives another noise beside other seeds",
            lambda seeds, shape: torch.randn(len(seeds), *shape, generator=_stream(seeds[0])),
        ),
        Mistake(
            "each picture now has a stream of its own, but the numbers are still uniform, from 0 to 1, where they should be normally distributed",
            lambda seeds, shape: torch.stack([torch.rand(*shape, generator=_stream(seed)) for seed in seeds]),
        ),
        Mistake(
            "all pictures got the noise of the first seed", lambda seeds, shape: _noise_for([seeds[0]] * len(seeds), shape)
        ),
        Mistake(
            "all pictures got the noise of the last seed", lambda seeds, shape: _noise_for([seeds[-1]] * len(seeds), shape)
        ),
        Mistake(
            "the place in the batch was used as the seed, and the seeds were not",
            lambda seeds, shape: _noise_for(range(len(seeds)), shape),
        ),
        Mistake(
            "the pictures stand in another order than their seeds",
            lambda seeds, shape: _noise_for(sorted(seeds, reverse=seeds == sorted(seeds)), shape),
        ),
    ],
)
