"""Captions of Curios: many wordings for one picture, and back from a wording to what it names.

The articles, adjectives and "made of" forms are written out by hand so that phrases read naturally: *a zebra-striped mug*,
*a golden duck*, *a mug made of watermelon*. Two words are ambiguous on purpose: *bat* (the animal, the baseball bat) and
*orange* (the fruit, the colour of a background); only their context decides.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import random
import re
from pathlib import Path

from ..errors import UserError

OBJECTS = ("armchair", "mug", "lamp", "teapot", "table", "bed", "clock", "top hat", "car", "house", "duck", "mushroom",
           "rocket", "cactus", "teddy bear", "umbrella", "flying bat", "baseball bat")  # fmt: skip
SPLITS = ("train", "validation", "held_out", "held_out_dev", "held_out_test", "all")
BACKGROUNDS = ("pink", "yellow", "blue", "green", "purple", "grey", "white", "orange")
# material: (words before the object, words after it); the first of each is the plainest
MATERIALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "avocado": (("avocado", "avocado style"), ("made of avocado", "in the style of an avocado")),
    "watermelon": (("watermelon", "watermelon style"), ("made of watermelon", "in the style of a watermelon")),
    "strawberry": (("strawberry", "strawberry style"), ("made of strawberry", "in the style of a strawberry")),
    "orange": (("orange fruit", "juicy orange"), ("made of orange", "in the style of an orange fruit")),
    "cheese": (("cheese", "cheesy"), ("made of cheese", "made of yellow cheese")),
    "waffle": (("waffle", "waffle style"), ("made of waffle", "made of waffles")),
    "wood": (("wooden", "wood"), ("made of wood", "carved from wood")),
    "brick": (("brick", "brick style"), ("made of bricks", "made of brick", "built of bricks")),
    "gold": (("golden", "gold"), ("made of gold", "cast in gold")),
    "marble": (("marble", "marble style"), ("made of marble", "carved from marble")),
    "zebra": (("zebra-striped", "zebra style"), ("with zebra stripes", "in a zebra pattern")),
    "checkerboard": (("chequered", "checkerboard"), ("with a checkerboard pattern", "in a checkerboard pattern")),
    "lava": (("lava", "lava style"), ("made of lava", "made of hot lava")),
    "candy cane": (("candy cane", "candy cane style"), ("made of candy cane", "made of candy canes")),
    "sprinkles": (("sprinkle-covered", "sprinkles"), ("made of sprinkles", "covered in sprinkles")),
    "galaxy": (("galaxy", "galaxy style"), ("with a galaxy pattern", "made of stars and galaxies")),
}
BARE_BAT = {"flying bat": ("with wings", "that flies at night"), "baseball bat": ("to hit a ball", "for a ball game")}
COLOURS = "|".join(BACKGROUNDS)
OPENINGS = (
    "",
    "",
    "",
    "3D render of ",
    "a 3D render of ",
    "3D render ",
    "a picture of ",
    "an image of ",
    "a photo of ",
)
BACKDROPS = ("on {a} background", "on {a} background", "with {a} background", "in front of {a} background", "on {c}")
CLOSINGS = (
    "in soft light",
    "in studio light",
    "seen from the front",
    "as digital art",
    "dissolving into light",
    "floating in space",
)


def article(phrase: str) -> str:
    """``avocado armchair`` -> ``an avocado armchair``."""
    return ("an " if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a ") + phrase


def caption(object: str, material: str, background: str, rng: random.Random) -> str:
    """One of many wordings; about two thirds of them name the background.

    Every wording names object and material so that :func:`parse` finds them again.
    """
    adjectives, afters = MATERIALS[material]
    noun, tail = object, ""
    if object in BARE_BAT and rng.random() < 0.4:
        noun, tail = "bat", " " + rng.choice(BARE_BAT[object])
    if rng.random() < 0.5:
        text = article(f"{rng.choice(adjectives)} {noun}{tail}")
    else:
        text = f"{article(noun)} {rng.choice(afters)}{tail}"
    text = rng.choice(OPENINGS) + text
    if rng.random() < 0.67:
        text += " " + rng.choice(BACKDROPS).format(a=article(background), c=background)
    if rng.random() < 0.15:  # words about something else, for real prompts hold them too
        a, b, c = (rng.choice(common_words(spare=True)) for _ in range(3))
        text += " " + rng.choice((*CLOSINGS, f"{a} into {b} {c}", f"{a} and {b}", f"{a} with {b} {c}", a))
    return text


def plain(object: str, material: str, background: str | None = None) -> str:
    """The plainest wording, used for measurements: ``an armchair made of avocado on a pink background``."""
    text = f"{article(object)} {MATERIALS[material][1][0]}"
    return f"{text} on {article(background)} background" if background else text


@functools.cache
def common_words(spare: bool = False) -> tuple[str, ...]:
    """About 1,500 common English words; ``spare``: only those that name nothing in Curios."""
    words = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()
    return tuple(w for w in words if not spare or w not in vocabulary())


@functools.cache
def vocabulary() -> set[str]:
    """Every word that a caption can hold, in lower case."""
    phrases = [*OBJECTS, *BACKGROUNDS, *OPENINGS, *BACKDROPS, *CLOSINGS, "a an bat"]
    phrases += [p for forms in MATERIALS.values() for group in forms for p in group]
    phrases += [p for group in BARE_BAT.values() for p in group]
    return set(re.findall(r"[a-z0-9]+", " ".join(phrases).replace("{a}", "").replace("{c}", "").lower()))


def parse(text: str) -> tuple[str | None, str | None, str | None]:
    """What a wording names: (object, material, background), None for what it does not name."""
    text = re.sub(r"[^a-z0-9 -]", " ", text.lower())
    background = None
    backdrop = rf"\b(?:(?:on|with|front of) an? ({COLOURS}) background|on ({COLOURS})\b)"
    for found in re.finditer(backdrop, text):
        background = found[1] or found[2]
    text = re.sub(backdrop, " ", text)
    material = _first(text, {form: name for name, groups in MATERIALS.items() for group in groups for form in (*group, name)})
    nouns = {name: name for name in OBJECTS} | {tail: name for name, tails in BARE_BAT.items() for tail in tails}
    return _first(text, nouns), material, background


def _first(text: str, names: dict[str, str]) -> str | None:
    for form in sorted(names, key=len, reverse=True):  # the longest wins: "candy cane" before "cane"
        if re.search(rf"(?<![a-z]){re.escape(form)}s?(?![a-z])", text):
            return names[form]
    return None


def held_out(object: str, material: str) -> bool:
    """Whether a pair is kept from all training: every seventh, laid out so that no row or column of the table of pairs
    loses more than three; *avocado armchair* is one of them."""
    return (5 * OBJECTS.index(object) + 3 * list(MATERIALS).index(material)) % 7 == 0


def pairs(split: str) -> list[tuple[str, str]]:
    """The (object, material) pairs of a split. "validation" has the training pairs in other views, "all" every pair.

    The 41 held-out pairs are divided once and for all by the order of the SHA-256 of ``object|material``: on the first 20,
    "held_out_dev", choices may be made; the other 20 and *avocado armchair*, "held_out_test", are only ever measured.

    Raises:
        UserError: for the name of a split that does not exist.
    """
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    return list(_pairs(split))


@functools.cache
def _pairs(split: str) -> list[tuple[str, str]]:
    every = list(itertools.product(OBJECTS, MATERIALS))
    if split == "all":
        return every
    kept = [pair for pair in every if held_out(*pair)]
    if split == "held_out":
        return kept
    if split in ("train", "validation"):
        return [pair for pair in every if pair not in kept]
    others = [pair for pair in kept if pair != ("armchair", "avocado")]
    others.sort(key=lambda pair: hashlib.sha256("|".join(pair).encode()).hexdigest())
    return [pair for pair in kept if (pair in others[:20]) == (split == "held_out_dev")]


NEAR = {  # words that people use for what Curios has under another name
    "sofa": "armchair", "couch": "armchair", "chair": "armchair", "seat": "armchair", "cup": "mug", "desk": "table",
    "hat": "top hat", "automobile": "car", "taxi": "car", "home": "house", "cottage": "house", "bird": "duck",
    "fungus": "mushroom", "toadstool": "mushroom", "spaceship": "rocket", "bear": "teddy bear", "parasol": "umbrella",
    "kettle": "teapot", "stripes": "zebra-striped", "striped": "zebra-striped", "stars": "galaxy", "space": "galaxy",
    "magma": "lava", "stone": "marble", "metal": "golden", "timber": "wooden", "pancake": "waffle", "melon": "watermelon",
    "checkered": "chequered", "checked": "chequered", "gray": "grey", "violet": "purple", "red": "pink", "black": "grey",
}  # fmt: skip
SILENT = {
    "the", "with", "and", "of", "to", "in", "into", "on", "at", "by", "for", "from", "is", "that", "this", "some", "very",
    "please", "draw", "make", "show", "me",
}  # fmt: skip


def note_unknown_words(prompt: str) -> str | None:
    """A friendly note about words that Curios has no picture for, each with the nearest one that it knows; else None."""
    words = dict.fromkeys(re.findall(r"[a-z0-9]{2,}", prompt.lower()))
    known = vocabulary()
    unknown = [w for w in words if w not in known and w.rstrip("s") not in known and w not in SILENT]
    object, material, _ = parse(prompt)
    if not unknown and object:
        return None
    hints = []
    for word in unknown[:6]:
        near = NEAR.get(word) or NEAR.get(word.rstrip("s"))
        close = [near] if near else difflib.get_close_matches(word, sorted(known), 1, 0.75)
        hints.append(f"{word!r} (nearest: {close[0]!r})" if close else f"{word!r}")
    note = f"The model has no picture for {', '.join(hints)}{' and more' if len(unknown) > 6 else ''}. " if hints else ""
    if object is None:
        note += f"It draws one of: {', '.join(OBJECTS)}. "
    if material is None and unknown:
        note += f"Its materials: {', '.join(MATERIALS)}."
    return note.strip()
