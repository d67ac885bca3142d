"""The exercises of notebook 00, the overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..curios.dataset import draw
from ..curios.render import Scene
from ..curios.shapes import OBJECTS as SHAPES
from ..curios.shapes import Shape
from ..curios.vocabulary import note_unknown_words, parse
from .exercise import Build, Choice, Find, Mistake, describe, normal, time_limit


def _words(prompt):
    """In the place of a text encoder: one number that depends on the text."""
    return torch.tensor(len(prompt) / 10)


def _answer(z, t, c):
    """In the place of a U-Net: an answer that depends on latents, timestep and text."""
    return 0.2 * z + 0.1 * t + 0.05 * c


def _less_noise(answer, t, z):
    """In the place of a scheduler's step."""
    return 0.9 * z - 0.5 * answer


def _pixels(z):
    """In the place of a decoder."""
    return 2 * z + 1


def _text_to_image(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c = encode_text(prompt)
    for t in timesteps:
        z = scheduler_step(unet(z, t, c), t, z)
    return decode(z)


def _always_first(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    c, first = encode_text(prompt), z
    for t in timesteps:
        z = scheduler_step(unet(first, t, c), t, z)
    return decode(z)


def _no_scheduler(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps, encode_text, unet, lambda answer, t, z: answer, decode)


def _never_updated(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps[-1:], encode_text, unet, scheduler_step, decode)


def _decoded_each_step(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(
        prompt, z, timesteps, encode_text, unet, lambda answer, t, z: decode(scheduler_step(answer, t, z)), lambda z: z
    )


def _not_decoded(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps, encode_text, unet, scheduler_step, lambda z: z)


def _one_step(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps[:1], encode_text, unet, scheduler_step, decode)


def _unread(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps, lambda prompt: prompt, unet, scheduler_step, decode)


def _time_and_text_exchanged(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps, encode_text, lambda z, t, c: unet(z, c, t), scheduler_step, decode)


def _answer_and_latents_exchanged(prompt, z, timesteps, encode_text, unet, scheduler_step, decode):
    return _text_to_image(prompt, z, timesteps, encode_text, unet, lambda answer, t, z: scheduler_step(z, t, answer), decode)


def _read_too_often(answer):
    """How often the text encoder is called, where the result alone can't tell."""
    calls = []

    def encode_text(prompt):
        calls.append(prompt)
        return _words(prompt)

    answer("a golden duck", torch.tensor([1.0]), [3, 2, 1], encode_text, _answer, _less_noise, _pixels)
    if len(calls) <= 1:
        return None
    return (
        f"the result is right, but encode_text was called {len(calls)} times: the prompt does not change during the loop, "
        "so once before it is enough"
    )


PARTS = {"encode_text": _words, "unet": _answer, "scheduler_step": _less_noise, "decode": _pixels}
text_to_image = Build(
    "0.1",
    right=_text_to_image,
    cases=[
        {"prompt": "a golden duck", "z": torch.tensor([1.0]), "timesteps": [3, 2, 1], **PARTS},
        {"prompt": "a mug", "z": normal(8, 4, 4, seed=1), "timesteps": [4, 2], **PARTS},
    ],
    mistakes=[
        Mistake(
            "the U-Net always sees the first noise: after each step it should see the latents that the scheduler has just handed back",
            _always_first,
        ),
        Mistake("the U-Net's answer was taken for the new latents: the scheduler makes them from it", _no_scheduler),
        Mistake("each step began again from the first noise, so that only the last one counts", _never_updated),
        Mistake("the decoder works in every step, where it should work once, after the last one", _decoded_each_step),
        Mistake("the latents were returned without the decoder, so that there is no picture yet", _not_decoded),
        Mistake("only one step was made", _one_step),
        Mistake("the U-Net got the prompt itself, where it should get what encode_text makes of it", _unread),
        Mistake("the U-Net was called as unet(z, c, t): t stands before c", _time_and_text_exchanged),
        Mistake(
            "the scheduler was called as scheduler_step(z, t, answer): the answer stands first and z last",
            _answer_and_latents_exchanged,
        ),
    ],
    also=_read_too_often,
)

how_often = Choice(
    "0.2",
    letter="B",
    reasons={
        "A": "the prompt does not change from step to step, so its text encoder need not work twice, and nobody looks at the pictures in between",
        "B": "the prompt is read once, the U-Net works in every step, and the finished latents become pixels once, which is why the U-Net decides how long a picture takes",
        "C": "the U-Net removes a part of the noise at each step, so it is needed every time",
        "D": "the decoder comes after the last step, when the latents are finished",
    },
)


def _fault(prompt: object) -> str | None:
    if not isinstance(prompt, str):
        return "unknown_to_it should be a text in quotes"
    if not 3 <= len(prompt.split()) <= 12:
        return f"the prompt should have 3 to 12 words, and it has {len(prompt.split())}"
    if parse(prompt)[0] is None:
        return "name one object that the model can draw, such as a duck, a mug or an armchair"
    if note_unknown_words(prompt) is None:
        return (
            "the model knows every single word of this prompt; think of a thing beside the object, or of something that it does"
        )
    return None


unknown_to_it = Find(
    "0.3",
    fault=_fault,
    because="a model can draw only what its training pictures and captions show, and it draws the rest of the prompt without a warning",
)


def _distances(film, root=True, by=None, to=-1, whole=1):
    end = film[to]
    found = []
    for z in film:
        share = (whole * z - end).norm() / (end if by is None else by(z)).norm()
        found.append(share if root else share**2)
    return found


def _film(*shape: int, steps: int, seed: int) -> list[Tensor]:
    """In the place of a sampling run: latents that come nearer to their end."""
    noise, end = normal(*shape, seed=seed), 1.3 * normal(*shape, seed=seed + 1)
    return [(1 - i / steps) * noise + i / steps * end for i in range(steps + 1)]


distance_to_go = Build(
    "0.4",
    right=_distances,
    cases=[
        {"film": [torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])]},
        {"film": _film(1, 2, 4, 4, steps=4, seed=1)},
    ],
    mistakes=[
        Mistake(
            "the square root is missing: the size of a tensor is the root of the sum of its squares",
            lambda film: _distances(film, root=False),
        ),
        Mistake(
            "each distance was divided by the size of the latents of its own moment, where that of the final latents is meant",
            lambda film: _distances(film, by=lambda z: z),
        ),
        Mistake("the distance was not divided by anything", lambda film: [(z - film[-1]).norm() for z in film]),
        Mistake(
            "this is the way from the first latents, where the way to the last ones is asked for",
            lambda film: _distances(film, to=0),
        ),
        Mistake(
            "the sizes were subtracted from each other, where the tensors should be: two tensors of the same size can be far apart",
            lambda film: [(z.norm() - film[-1].norm()).abs() / film[-1].norm() for z in film],
        ),
        Mistake(
            "absolute values were added up, where squares and a root are meant",
            lambda film: [(z - film[-1]).abs().sum() / film[-1].abs().sum() for z in film],
        ),
        Mistake(
            "this is the way from each moment to the next one, where the way to the end is asked for",
            lambda film: [(z - after).norm() / film[-1].norm() for z, after in zip(film, [*film[1:], film[-1]], strict=True)],
        ),
        Mistake(
            "the last number, 0, is missing: one number for each tensor of film is asked for",
            lambda film: _distances(film)[:-1],
        ),
    ],
)

ENTRIES = ("name", "distance", "caption")
SIDE = 49  # so many points in a row, to look at a distance function
STEEPEST = 1.5  # a true distance changes by 1 where the place does; those of rounded shapes are not quite true


def _grid(side: int, reach: float = 1.2) -> Tensor:
    """Points [3, side**3] that fill the space from -reach to reach."""
    line = torch.linspace(-reach, reach, side)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij")).reshape(3, -1)


def draw_object(made: Mapping, dressed: Sequence[tuple[str, str]]) -> tuple[Tensor, list[str]]:
    """An object of one's own in some (material, background): bytes [N, 64, 64, 3], and the caption of each."""
    points = _grid(49)
    inside = points[:, made["distance"](points) < 0.03]  # [3, R]
    low, high = inside.min(dim=1).values - 0.03, inside.max(dim=1).values + 0.03
    name = "your own"
    corners = tuple(low.tolist()), tuple(high.tolist())
    SHAPES[name] = Shape(lambda p: {"body": made["distance"](p)}, *corners)  # type: ignore[arg-type]
    try:
        images, _ = draw([Scene(name, material, background) for material, background in dressed])
    finally:
        del SHAPES[name]
    return images, [made["caption"].format(material=material, background=background) for material, background in dressed]


def _fault_of_caption(name: str, caption: str) -> str | None:
    if "{material}" not in caption or "{background}" not in caption:
        return "the caption should hold {material} and {background}, which are filled in for each picture"
    for material, background in (("gold", "pink"), ("wood", "blue"), ("cheese", "green")):
        text = caption.format(material=material, background=background)
        if name.lower() not in text.lower():
            return f"the caption should name the object, and {name!r} is not in {text!r}"
        if parse(text)[1:] != (material, background):
            return f"of the caption {text!r} the course reads {parse(text)[1] or 'nothing'} as the material and {parse(text)[2] or 'nothing'} as the background: word it as the captions of Curios are worded"
    return None


def _fault_of_distance(distance) -> str | None:
    points = _grid(SIDE)
    with time_limit():
        far = distance(points.clone())
    if far is None:
        return "the function distance gives nothing: end it with a line that begins with return"
    if not isinstance(far, Tensor) or list(far.shape) != [SIDE**3]:
        shape = list(far.shape) if isinstance(far, Tensor) else describe(far)
        return f"for points [3, {SIDE**3}] distances [{SIDE**3}] are expected, and distance gives {shape}"
    if not far.is_floating_point() or not far.isfinite().all():
        return "a distance is a finite number with decimals, and some of these are not"
    if not torch.equal(far, distance(points.clone())):
        return "the same points got other distances the second time: an object must depend on the place alone"
    inside = far < 0
    if not inside.any():
        return "no point has a distance below 0, so there is nothing to see: inside the object the distance is negative"
    cube = far.reshape(SIDE, SIDE, SIDE)
    if (cube[[0, 0, 0, -1, -1, -1], [0, 0, -1, 0, -1, -1], [0, -1, 0, -1, 0, -1]] < 0).all():
        return "the corners of the space lie inside the object: the distance should be negative inside and positive outside"
    if (points[:, inside].abs() > 1.01).any():
        return "the object reaches beyond -1 or 1, where the picture ends: make it smaller or move it to the middle"
    steep = max(cube.diff(dim=axis).abs().max().item() for axis in range(3)) / (2.4 / (SIDE - 1))
    if steep > STEEPEST:
        return f"the distance changes {steep:.1f} times as fast as the place, so the renderer would step through the surface: a distance in space changes at most as fast as the place (is a square root missing?)"
    body = points[:, inside]
    from_middle = (body - body.mean(dim=1, keepdim=True)).norm(dim=0)
    radius = (3 * body.shape[1] * (2.4 / (SIDE - 1)) ** 3 / (4 * torch.pi)) ** (1 / 3)
    if from_middle.max() < 1.12 * radius:
        return "this is a single ball: put it together from at least two shapes"
    return None


def _fault_of_object(made: object) -> str | None:
    if not isinstance(made, Mapping) or any(part not in made for part in ENTRIES):
        return 'my_object should be a dictionary with "name", "distance" and "caption"'
    name, distance, caption = (made[part] for part in ENTRIES)
    if not isinstance(name, str) or not name.strip() or not isinstance(caption, str):
        return "name and caption should be texts in quotes"
    if parse(name)[0] is not None:
        return f"Curios has {parse(name)[0]!r} already: choose an object that it lacks"
    if not callable(distance):
        return f"distance should be a function, and it is {describe(distance)}"
    fault = _fault_of_distance(distance) or _fault_of_caption(name, caption)
    if fault is None:
        draw_object(made, [("gold", "pink")])
    return fault


my_object = Find(
    "0.5",
    fault=_fault_of_object,
    because="the renderer can draw your object in every material, and the caption says what each picture shows",
)
