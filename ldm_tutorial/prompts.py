"""What a person types: checked, with one clear sentence for what cannot work, and a friendly note for unknown words."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from .curios.captions import MATERIALS, OBJECTS, parse, vocabulary
from .errors import UserError

EXAMPLE = "an armchair made of avocado on a pink background"
NEAR = {  # words that people use for what Curios has under another name; synonyms in captions are known already
    "throne": "armchair", "bench": "armchair", "stool": "armchair", "goblet": "mug", "glass": "mug", "lantern": "lamp",
    "candle": "lamp", "jug": "teapot", "mattress": "bed", "watch": "clock", "cap": "top hat", "taxi": "car", "truck": "car",
    "bus": "car", "castle": "house", "barn": "house", "bird": "duck", "goose": "duck", "swan": "duck", "plane": "rocket",
    "panda": "teddy bear", "pancake": "waffle", "toast": "waffle", "lemon": "orange", "cherry": "strawberry",
    "silver": "golden", "granite": "marble", "tiger": "zebra", "leopard": "zebra", "tartan": "chequered", "fire": "lava",
    "lilac": "purple", "lavender": "purple", "crimson": "pink", "navy": "blue", "turquoise": "blue",
}  # fmt: skip
SILENT = set("the with and of to in into on at by for from is that this some very please draw make show me".split())


def check_prompt(prompt: object, tokenizer=None) -> str:
    """The prompt without space around it. With a tokenizer its length is checked too (77 tokens, two of them marks).

    Raises:
        UserError: when it is not text, empty, has no word, or is too long for the model to read.
    """
    if not isinstance(prompt, str):
        raise UserError(f"A prompt is text, not {type(prompt).__name__}: try {EXAMPLE!r}.")
    prompt = prompt.encode("utf-8", "ignore").decode().strip()  # a terminal may pass bytes that are no text
    if not prompt:
        raise UserError(f"The prompt is empty: describe a picture, for example {EXAMPLE!r}.")
    if not re.search(r"[a-z]", prompt, re.IGNORECASE):
        raise UserError(
            f"The prompt {prompt[:40]!r} has no words that the model could read: try English words, for example {EXAMPLE!r}."
        )
    limit = tokenizer.model_max_length if tokenizer else 77
    length = len(tokenizer(prompt, verbose=False).input_ids) if tokenizer and len(prompt) < 10_000 else len(prompt.split()) + 2
    if len(prompt) >= 10_000 or length > limit:
        size = f"{length} tokens" if len(prompt) < 10_000 else f"{len(prompt)} characters"
        raise UserError(f"The prompt is too long ({size}, the model reads {limit} tokens): shorten it to a sentence.")
    return prompt


def number(value: object, name: str, kind: type, low: float, high: float, hint: str):
    """``value`` as ``kind`` if it lies within low..high, else UserError saying what to give instead."""
    try:
        result = kind(str(value).strip())
        good = low <= result <= high
    except (TypeError, ValueError):
        good = False
    if not good or isinstance(value, bool):
        raise UserError(f"{name} {str(value)[:40]!r} won't do: give {hint}.")
    return result


def check_seed(seed: object) -> int:
    """A whole number from 0 to 2**63 - 1, or UserError."""
    return number(seed, "The seed", int, 0, 2**63 - 1, "a whole number from 0 upwards, for example 7")


def check_steps(steps: object) -> int:
    """A whole number from 1 to 1000, or UserError."""
    return number(steps, "The number of steps", int, 1, 1000, "a whole number from 1 to 1000, for example 20")


def check_count(count: object) -> int:
    """A whole number from 1 to 256, or UserError."""
    return number(count, "The count", int, 1, 256, "a whole number from 1 to 256")


def check_guidance(scale: object) -> float:
    """A number from 0 to 50, or UserError."""
    return number(scale, "The guidance scale", float, 0, 50, "a number from 0 to 50, for example 3")


def check_out(path: str | Path, suffix: str = ".png") -> Path:
    """The path of a PNG (or ``suffix``) in a folder that can be written (it is made if it does not exist), or UserError."""
    path, kind = Path(path), {".png": "Pictures are written as PNG", ".json": "Numbers are written as JSON"}[suffix]
    if path.suffix.lower() != suffix and path.name and not path.is_dir():
        raise UserError(f"{kind}: name the file {path.with_suffix(suffix).name!r} instead of {path.name!r}.")
    try:
        if "\0" in str(path):
            raise OSError(22, "a file's name has no zero byte")
        if path.is_dir() or not path.name:
            raise UserError(f"{str(path)!r} is a folder: name a file in it, for example {str(path / ('picture' + suffix))!r}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError as error:
        raise UserError(f"Can't use {str(path)[:80]!r} ({error.strerror}): choose another place for the picture.") from None
    if not writable:
        raise UserError(f"Can't write {str(path)!r}: choose a folder that you may write to.")
    return path


def note_unknown_words(prompt: str) -> str | None:
    """A friendly note about words that Curios has no picture for, each with the nearest one that it knows; else None."""
    words = dict.fromkeys(re.findall(r"[a-z0-9]{2,}", prompt.lower()))
    known, names = vocabulary(), sorted(vocabulary(names=True))
    unknown = [w for w in words if w not in known and w.rstrip("s") not in known and w not in SILENT]
    object, material, _ = parse(prompt)
    if not unknown and object:
        return None
    hints = []
    for word in unknown[:6]:
        near = NEAR.get(word) or NEAR.get(word.rstrip("s"))
        close = [near] if near else difflib.get_close_matches(word, names, 1, 0.75)
        hints.append(f"{word!r} (nearest: {close[0]!r})" if close else f"{word!r}")
    note = f"The model has no picture for {', '.join(hints)}{' and more' if len(unknown) > 6 else ''}. " if hints else ""
    if object is None:
        note += f"It draws one of: {', '.join(OBJECTS)}. "
    if material is None and unknown:
        note += f"Its materials: {', '.join(MATERIALS)}."
    return note.strip()
