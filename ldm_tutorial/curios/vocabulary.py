"""The words of Curios: objects, materials and backgrounds, other words for them, and from a wording back to what it names.

The adjectives and "made of" forms are written out by hand so that phrases read naturally: *a zebra-striped mug*, *a golden
duck*, *a mug made of watermelon*. Two words are ambiguous on purpose: *bat* (the animal, the baseball bat) and *orange* (the
fruit, the colour of a background); only their context decides. How captions are worded stands in ``captions``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
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
    "orange": (("orange fruit", "juicy orange", "orange"), ("made of orange", "in the style of an orange fruit")),
    "cheese": (("cheese", "cheesy"), ("made of cheese", "made of yellow cheese")),
    "waffle": (("waffle", "waffle style"), ("made of waffle", "made of waffles")),
    "wood": (("wooden", "wood", "oak", "timber"), ("made of wood", "carved from wood")),
    "brick": (("brick", "brick style", "bricky"), ("made of bricks", "made of brick", "built of bricks")),
    "gold": (("golden", "gold", "gold-plated", "gilded", "shiny gold"), ("made of gold", "cast in gold")),
    "marble": (("marble", "marble style", "marbled"), ("made of marble", "carved from marble")),
    "zebra": (("zebra-striped", "zebra style", "zebra print", "zebra"), ("with zebra stripes", "in a zebra pattern")),
    "checkerboard": (
        ("chequered", "checkerboard", "checkered", "checked", "chessboard", "chess board"),
        ("with a checkerboard pattern", "in a checkerboard pattern"),
    ),
    "lava": (("lava", "lava style", "molten lava"), ("made of lava", "made of hot lava")),
    "candy cane": (("candy cane", "candy cane style", "peppermint"), ("made of candy cane", "made of candy canes")),
    "sprinkles": (("sprinkle-covered", "sprinkles", "sprinkled"), ("made of sprinkles", "covered in sprinkles")),
    "galaxy": (
        ("galaxy", "galaxy style", "starry", "cosmic", "galactic"),
        ("with a galaxy pattern", "made of stars and galaxies"),
    ),
}
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


@functools.cache
def wordings(section: str) -> tuple[str, ...]:
    """The lines of one section of ``wordings.txt``."""
    text = (Path(__file__).parent / "wordings.txt").read_text(encoding="utf-8")
    lines = text.split(f"\n[{section}]\n")[1].split("\n\n")[0].split("\n")
    return tuple(line for line in lines if line and not line.startswith("#"))


@functools.cache
def synonyms(section: str) -> dict[str, tuple[str, ...]]:
    """A section of ``wordings.txt`` whose lines are a name, a colon and other words for it."""
    table: dict[str, tuple[str, ...]] = {}
    for line in wordings(section):
        name, others = line.split(": ")
        table[name] = (*table.get(name, ()), *others.split(", "))
    return table


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
def vocabulary(names: bool = False) -> set[str]:
    """Every word that a caption can hold, in lower case; ``names``: only those of objects, materials and backgrounds."""
    phrases = [*OBJECTS, *BACKGROUNDS, *wordings("nouns"), *wordings("stuffs"), *wordings("colours")]
    for forms in MATERIALS.values():
        for group in forms:
            phrases += group
    if not names:
        text = (Path(__file__).parent / "wordings.txt").read_text(encoding="utf-8")
        phrases.append(re.sub(r"(?m)^#.*|^\[.*", " ", text))  # no comments, no names of sections
        phrases += [*OPENINGS, *BACKDROPS, *CLOSINGS, "a an bat"]
    return set(re.findall(r"[a-z0-9]+", re.sub(r"\{.*?\}", " ", " ".join(phrases)).lower()))


def parse(text: str) -> tuple[str | None, str | None, str | None]:
    """What a wording names: (object, material, background), None for what it does not name."""
    text = re.sub(r"[^a-z0-9 ,;:/+'-]", " ", text.lower())
    for word, (slip,) in synonyms("slips").items():
        text = re.sub(rf"\b{slip}\b", word, text)
    text = without_articles(" ".join(text.split()))
    colours = {name: name for name in BACKGROUNDS} | _named(synonyms("colours"))
    colour, hues = f"({'|'.join(colours)})", f"(?:(?:{'|'.join(wordings('hues'))}) )*"
    background = None
    for backdrop in (
        rf"\b{colour} (?:as |in )?(?:background|backdrop|bg|wall(?! clock)|room|surface|paper|behind)\b",
        rf"\b(?:background|backdrop|bg|behind it|around it|painted)(?: (?:should|must|is|be|in|colou?r:?))*:? {hues}{colour}\b",
        rf"\b(?:on|against|front of|surrounded by) {hues}{colour}\b",
    ):
        for found in re.finditer(backdrop, text):
            background = colours[found[1]]
        text = re.sub(backdrop, " ", text)
    forms = _forms_of_materials() | _named(synonyms("stuffs"))
    del forms["orange"]  # it may be the background
    material = _first(text, forms) or _first(text, {"orange": "orange"})
    bare = re.search(rf"\b{colour}(?= ?[,;/+-] |[,;:]|$)", text)
    if bare and not background and colours[bare[1]] != material:
        background = colours[bare[1]]
    object = _first(text, {name: name for name in OBJECTS} | _named(synonyms("nouns")))
    if object is None and re.search(r"\bbats?\b", text):
        object = _first(text, _named(synonyms("bare bat")))
    return object, material, background


def _named(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """``{"mug": ("cup", "beaker")}`` -> ``{"cup": "mug", "beaker": "mug"}``."""
    names: dict[str, str] = {}
    for name, others in table.items():
        names |= dict.fromkeys(others, name)
    return names


def _forms_of_materials() -> dict[str, str]:
    """Every form in which a caption can name a material, with its name: ``{"golden": "gold", "gold": "gold"}``."""
    names: dict[str, str] = {}
    for name, groups in MATERIALS.items():
        for group in groups:
            names |= dict.fromkeys((*group, name), name)
    return names


def without_articles(text: str) -> str:
    """``a mug on the table`` -> ``mug on table``."""
    return re.sub(r"\b(an?|the) ", "", text)


def _first(text: str, names: dict[str, str]) -> str | None:
    for form in sorted(names, key=len, reverse=True):  # the longest wins: "candy cane" before "cane"
        if re.search(rf"(?<![a-z]){re.escape(without_articles(form))}s?(?![a-z])", text):
            return names[form]
    return None


def held_out(object: str, material: str) -> bool:
    """Whether a pair is kept from the training of everything that draws (the judges alone saw all pairs): every seventh, laid
    out so that no row or column of the table of pairs loses more than three; *avocado armchair* is one of them."""
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


NEAR = {  # words that people use for what Curios has under another name; synonyms in captions are known already
    "throne": "armchair", "bench": "armchair", "stool": "armchair", "goblet": "mug", "glass": "mug", "lantern": "lamp",
    "candle": "lamp", "jug": "teapot", "mattress": "bed", "watch": "clock", "cap": "top hat", "taxi": "car", "truck": "car",
    "bus": "car", "castle": "house", "barn": "house", "bird": "duck", "goose": "duck", "swan": "duck", "plane": "rocket",
    "dog": "teddy bear", "cat": "teddy bear",
    "panda": "teddy bear", "pancake": "waffle", "toast": "waffle", "lemon": "orange", "cherry": "strawberry",
    "silver": "golden", "granite": "marble", "tiger": "zebra", "leopard": "zebra", "tartan": "chequered", "fire": "lava",
    "lilac": "purple", "lavender": "purple", "crimson": "pink", "navy": "blue", "turquoise": "blue",
}  # fmt: skip
SILENT = {
    "the", "with", "and", "of", "to", "in", "into", "on", "at", "by", "for", "from", "is", "that", "this", "some", "very",
    "please", "draw", "make", "show", "me",
}  # fmt: skip


def note_unknown_words(prompt: str) -> str | None:
    """A friendly note about words for which Curios has nothing, each with the nearest one that it knows; else None."""
    words = dict.fromkeys(re.findall(r"[a-z0-9]{2,}", prompt.lower()))
    known, names = vocabulary(), sorted(vocabulary(names=True) - SILENT)
    unknown = [w for w in words if w not in known and w.rstrip("s") not in known and w not in SILENT]
    object, material, _ = parse(prompt)
    if not unknown and object:
        return None
    hints = []
    for word in unknown[:6]:
        near = NEAR.get(word) or NEAR.get(word.rstrip("s"))
        close = [near] if near else difflib.get_close_matches(word, names, 1, 0.75)
        hints.append(f"{word!r} (nearest: {close[0]!r})" if close else f"{word!r}")
    note = f"Curios has nothing called {', '.join(hints)}{' and more' if len(unknown) > 6 else ''}. " if hints else ""
    if object is None:
        note += f"The model draws one of: {', '.join(OBJECTS)}. "
    if material is None and unknown:
        note += f"Its materials: {', '.join(MATERIALS)}."
    return note.strip()
