"""The exercises of notebook 09, from text to image."""

from __future__ import annotations

import torch

from ..curios import BACKGROUNDS, MATERIALS, OBJECTS
from ..curios.vocabulary import parse
from ..measure.judge import predict
from ..sampling import sample
from ..settings import Sampling
from . import shipped
from .exercise import Build, Find, Mistake, normal

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


def _in_interval(without, with_text, w, step, steps, start, stop, inside=None, outside=1.0):
    guided = int(start * steps) <= step < int(stop * steps) if inside is None else inside(step, steps, start, stop)
    return without + (w if guided else outside) * (with_text - without)


def _where(inside):
    return lambda u, c, w, step, steps, start, stop: _in_interval(u, c, w, step, steps, start, stop, inside)


def _interval_case(step, steps, start, stop, w=3.0):
    u, c = (torch.tensor([1.0]), torch.tensor([1.5])) if step == 5 else (normal(1, 3, 4, seed=5), normal(1, 3, 4, seed=6))
    return {"without": u, "with_text": c, "w": w, "step": step, "steps": steps, "start": start, "stop": stop}


guide_in_interval = Build(
    "9.4",
    right=_in_interval,
    cases=[
        _interval_case(5, 10, 0.2, 0.8),
        _interval_case(1, 10, 0.2, 0.8, w=8.0),
        _interval_case(2, 10, 0.2, 0.8, w=8.0),
        _interval_case(8, 10, 0.2, 0.8, w=8.0),
        _interval_case(9, 10, 0.2, 0.8, w=8.0),
        _interval_case(0, 10, 0.0, 0.3),
        _interval_case(9, 10, 0.2, 1.0),
        _interval_case(1, 12, 0.15, 0.75),
        _interval_case(9, 12, 0.15, 0.75),
    ],
    mistakes=[
        Mistake(
            "outside the interval the text is not heard at all: there the answer with the text should come out as it is, which is w = 1",
            lambda u, c, w, step, steps, start, stop: _in_interval(u, c, w, step, steps, start, stop, outside=0.0),
        ),
        Mistake(
            "inside and outside changed places: w counts in the middle of the run",
            _where(lambda step, steps, start, stop: not int(start * steps) <= step < int(stop * steps)),
        ),
        Mistake("w counts in every step, as if there were no interval", _where(lambda *where: True)),
        Mistake(
            "the step where the interval ends still counts as inside: it is the first one after it",
            _where(lambda step, steps, start, stop: int(start * steps) <= step <= int(stop * steps)),
        ),
        Mistake(
            "the step where the interval begins is left out: it is the first one inside",
            _where(lambda step, steps, start, stop: int(start * steps) < step < int(stop * steps)),
        ),
        Mistake(
            "the number of the step was compared with start and stop themselves, which are shares of the run",
            _where(lambda step, steps, start, stop: start <= step < stop),
        ),
        Mistake(
            "the two ends were not rounded down: int(0.15 * 12) is 1, so there step 1 is the first one inside",
            _where(lambda step, steps, start, stop: start <= step / steps < stop),
        ),
        Mistake(
            "the steps were counted from 1: the first step of a run is step 0",
            _where(lambda step, steps, start, stop: int(start * steps) <= step + 1 < int(stop * steps)),
        ),
        Mistake(
            "the interval never ends: stop is not looked at",
            _where(lambda step, steps, start, stop: int(start * steps) <= step),
        ),
        Mistake(
            "the interval begins with the run: start is not looked at",
            _where(lambda step, steps, start, stop: step < int(stop * steps)),
        ),
        Mistake("there is no guidance at all: w is not used", _where(lambda *where: False)),
        Mistake(
            "guidance sets out from the answer with the text: it goes from the one without, w times the way to the one with it",
            lambda u, c, w, step, steps, start, stop: c - u + _in_interval(u, c, w, step, steps, start, stop, outside=0.0),
        ),
        Mistake(
            "guidance goes away from the text: the difference is the answer with it minus the one without",
            lambda u, c, w, *where: _in_interval(u, c, -w, *where),
        ),
        Mistake(
            "outside the interval the answer without the text was added as well: nothing but the answer with the text is meant",
            lambda u, c, w, step, steps, start, stop: _in_interval(u, c, w, step, steps, start, stop, outside=0.5),
        ),
    ],
)

FOUR_SEEDS = [0, 1, 2, 3]
EIGHT_STEPS = Sampling("ddim", steps=8, guidance_scale=3.0)


def seen_in(prompt: str, negative: str = "") -> list[tuple[str, str, str]]:
    """What the judge sees in four pictures of a prompt: object, material and background of each."""
    drawn = sample(shipped.models(), [prompt] * 4, FOUR_SEEDS, EIGHT_STEPS, negative_prompt=negative, progress=False)
    verdicts = predict(shipped.judge(), torch.from_numpy(drawn)).tolist()
    return [(OBJECTS[o], list(MATERIALS)[m], BACKGROUNDS[b]) for o, m, b in verdicts]


def _not_away(answer: object) -> str | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not all(isinstance(text, str) for text in answer):
        return "steered_away should be two texts: a prompt and a negative prompt"
    prompt, negative = (" ".join(text.split()) for text in answer)
    if max(len(prompt.split()), len(negative.split())) > 20:
        return "one of the two texts has more than 20 words"
    asked = parse(prompt)
    if asked[0] is not None:
        return f"the prompt names the object {asked[0]}: leave the object to the model"
    if asked[1] is None:
        return "the prompt should name a material, such as gold, wood or cheese"
    if not negative:
        return "the negative prompt is empty, so that nothing is to be kept away"
    before = seen_in(prompt)
    objects = [seen[0] for seen in before]
    usual = max(sorted(set(objects)), key=objects.count)
    if objects.count(usual) < 3:
        return f"left to itself the model drew several objects ({', '.join(objects)}): take a prompt for which 3 of 4 agree"
    after = seen_in(prompt, negative)
    left = sum(seen[0] == usual for seen in after)
    if left:
        return f"without the negative prompt {objects.count(usual)} of 4 pictures show the object {usual}, and with it {left} of 4 still do"
    if sum(seen[1] == asked[1] for seen in after) < 3:
        return f"the object {usual} is gone, but fewer than 3 of 4 pictures are of {asked[1]}: the negative prompt drove away too much"
    return None


steered_away = Find(
    "9.5",
    fault=_not_away,
    because="the negative prompt drove away an object that the model had added of its own accord, and the material stayed",
)
