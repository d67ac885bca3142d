"""The exercises of notebook 00, the overview."""

from __future__ import annotations

import torch

from ..curios.vocabulary import note_unknown_words, parse
from .exercise import Build, Choice, Find, Mistake, normal


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
