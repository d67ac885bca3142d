"""The exercises of notebook 10, editing pictures and Stable Diffusion."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ..errors import UserError
from ..notebook.picture_files import load_picture
from ..notebook.picture_tables import Rows, folder_rows
from .exercise import Build, Find, Mistake, Number, describe, first_line, normal


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


def _start_of_edit(z, eps, timesteps, alphas_cumprod, strength, inverted=False, by_number=False, mix=None, extra=0):
    done = int(len(timesteps) * strength)
    first = (done if inverted else len(timesteps) - done) + extra
    a = alphas_cumprod[first if by_number else timesteps[first]]
    return mix(z, eps, a) if mix else a**0.5 * z + (1 - a) ** 0.5 * eps


def _started(**wrong):
    return lambda z, eps, timesteps, alphas_cumprod, strength: _start_of_edit(
        z, eps, timesteps, alphas_cumprod, strength, **wrong
    )


def _always_noisiest(z, eps, timesteps, alphas_cumprod, strength):
    return _start_of_edit(z, eps, timesteps, alphas_cumprod, 1.0)


def _last_timestep(z, eps, timesteps, alphas_cumprod, strength):
    return _start_of_edit(z, eps, timesteps[-1:], alphas_cumprod, 1.0)


def _left_out_rounded(z, eps, timesteps, alphas_cumprod, strength):
    a = alphas_cumprod[timesteps[int(len(timesteps) * (1 - strength))]]
    return a**0.5 * z + (1 - a) ** 0.5 * eps


def _computed_timestep(z, eps, timesteps, alphas_cumprod, strength):
    a = alphas_cumprod[int((len(alphas_cumprod) - 1) * strength)]
    return a**0.5 * z + (1 - a) ** 0.5 * eps


TWENTY = torch.linspace(0.98, 0.02, 20)  # alpha-bar for cases with 20 timesteps

start_of_edit = Build(
    "10.4",
    right=_start_of_edit,
    given=_started(inverted=True, by_number=True),
    cases=[
        {
            "z": torch.tensor([[[[1.0]]]]),
            "eps": torch.tensor([[[[0.5]]]]),
            "timesteps": torch.tensor([19, 14, 9, 4]),
            "alphas_cumprod": TWENTY,
            "strength": 0.75,
        },
        {
            "z": normal(2, 3, 4, 4, seed=8),
            "eps": normal(2, 3, 4, 4, seed=9),
            "timesteps": torch.tensor([18, 15, 12, 9, 6]),
            "alphas_cumprod": TWENTY,
            "strength": 0.6,
        },
        {
            "z": normal(1, 3, 4, 4, seed=10),
            "eps": normal(1, 3, 4, 4, seed=11),
            "timesteps": torch.tensor([17, 12, 7, 2]),
            "alphas_cumprod": TWENTY,
            "strength": 0.25,
        },
        {
            "z": normal(1, 3, 4, 4, seed=10),
            "eps": normal(1, 3, 4, 4, seed=11),
            "timesteps": torch.tensor([17, 12, 7, 2]),
            "alphas_cumprod": TWENTY,
            "strength": 1.0,
        },
        {
            "z": normal(1, 3, 4, 4, seed=10),
            "eps": normal(1, 3, 4, 4, seed=11),
            "timesteps": torch.tensor([18, 15, 12, 9, 6]),
            "alphas_cumprod": TWENTY,
            "strength": 0.35,
        },
    ],
    mistakes=[
        Mistake(
            "the right timestep is now looked up, but the strength is still the wrong way round: with a strength of 1 no step may be left out",
            _started(inverted=True),
        ),
        Mistake(
            "the right number of steps is now left out, but the number of the step is still used as its timestep: the timesteps stand in a list",
            _started(by_number=True),
        ),
        Mistake("the noise is always that of the noisiest timestep, whatever the strength is", _always_noisiest),
        Mistake("the noise is that of the last timestep, where a run ends", _last_timestep),
        Mistake(
            "alpha-bar was used without its square roots",
            _started(mix=lambda z, eps, a: a * z + (1 - a) * eps),
        ),
        Mistake(
            "picture and noise changed their factors: the picture gets the square root of alpha-bar",
            _started(mix=lambda z, eps, a: (1 - a) ** 0.5 * z + a**0.5 * eps),
        ),
        Mistake("the noise was added without its factor", _started(mix=lambda z, eps, a: a**0.5 * z + eps)),
        Mistake("no noise was added: the model expects that of the first timestep", _started(mix=lambda z, eps, a: z)),
        Mistake("one step too few is left out", _started(extra=-1)),
        Mistake("one step too many is left out", _started(extra=1)),
        Mistake(
            "the number of steps was rounded in another way: int(len(timesteps) * strength) steps are done, and all others are left out",
            _left_out_rounded,
        ),
        Mistake(
            "the timestep was computed from the strength alone: the run has a list of timesteps, and the first one that is done stands there",
            _computed_timestep,
        ),
    ],
)

EXAMPLE_COLOURS = {"red": (205, 55, 45), "blue": (50, 90, 200), "green": (60, 150, 70), "yellow": (235, 200, 60)}
EXAMPLE_SHAPES = ("circle", "square", "triangle")
FEWEST, CHECKED = 20, 60  # pictures that a training needs; pictures of a large folder that are opened here


def draw_examples(folder: Path) -> list[tuple[str, str, str]]:
    """Draw 24 small pictures into a folder, without captions: (name of the file, colour, shape) of each."""
    drawn = []
    for i in range(24):
        colour, shape = list(EXAMPLE_COLOURS)[i % 4], EXAMPLE_SHAPES[i // 4 % 3]
        picture = Image.new("RGB", (64, 64), (245, 245, 240))
        left, side = 8 + 3 * (i % 5), 26 + 2 * (i % 7)
        box, pen = (left, left, left + side, left + side), ImageDraw.Draw(picture)
        if shape == "circle":
            pen.ellipse(box, fill=EXAMPLE_COLOURS[colour])
        elif shape == "square":
            pen.rectangle(box, fill=EXAMPLE_COLOURS[colour])
        else:
            pen.polygon(
                [(left, left + side), (left + side, left + side), (left + side / 2, left)], fill=EXAMPLE_COLOURS[colour]
            )
        name = f"picture_{i:02}.png"
        picture.save(folder / name)
        drawn.append((name, colour, shape))
    return drawn


def shared_words(found: Rows) -> dict[str, int]:
    """The words that stand in the captions of three pictures or more but not of all, each with the number of pictures."""
    counts = Counter(word for row in found.rows for word in set(re.findall(r"\w+", " ".join(row.captions).lower())))
    return {word: count for word, count in counts.most_common() if 3 <= count < len(found.rows)}


def _not_understood(folder: object) -> str | None:
    if not isinstance(folder, (str, Path)):
        return f"my_pictures should be the path of a folder, and it is {describe(folder)}"
    if not str(folder).strip() or Path(folder) == Path("."):
        return "my_pictures should be the path of a folder with your pictures"
    try:
        found = folder_rows(Path(folder).expanduser())
    except UserError as error:
        return str(error).splitlines()[0].rstrip(".")
    if found.faults:
        kind, names = next(iter(found.faults.items()))
        others = f"; {len(found.faults) - 1} more kinds of faults were found" if len(found.faults) > 1 else ""
        return " ".join(f"the reader says: {kind}: {names[0]} ({len(names)} in all){others}".split())
    if len(found.rows) < FEWEST:
        return f"the table names {len(found.rows)} pictures, and a training needs at least {FEWEST}"
    for row in found.rows[:CHECKED]:
        try:
            image = load_picture(row.file(), side=64)
        except UserError as error:
            return f"{row.name} can't be read as a picture ({first_line(error)})"
        if min(image.size) < 32:
            return f"{row.name} has {image.width} x {image.height} pixels: at least 32 are needed for pictures of 64 x 64"
    if len({tuple(row.captions) for row in found.rows}) == 1:
        return "all captions are the same, so that a prompt could change nothing: say what differs"
    if not shared_words(found):
        return "no word stands in the captions of three pictures or more and is missing in others, so that no word can be learned: name what several pictures have in common, such as a colour"
    return None


my_pictures = Find(
    "10.5",
    fault=_not_understood,
    because="every picture has a caption, and words that several pictures share, so `ldm train all --data` could begin",
)
