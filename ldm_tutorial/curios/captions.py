"""Captions of Curios: many wordings for one picture, and back from a wording to what it names.

Some come from tidy templates: *a zebra-striped mug*, *a golden duck on a pink background*. The others are worded as people
ask for pictures, politely, in bare words or lists, with synonyms and slips; they are written out in ``wordings.txt``.
Two words are ambiguous on purpose: *bat* (the animal, the baseball bat) and *orange* (the fruit, the colour of a background);
only their context decides.
"""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

OBJECTS = ("armchair", "mug", "lamp", "teapot", "table", "bed", "clock", "top hat", "car", "house", "duck", "mushroom",
           "rocket", "cactus", "teddy bear", "umbrella", "flying bat", "baseball bat")  # fmt: skip
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
OPENINGS = ("", "", "", "3D render of ", "a 3D render of ", "3D render ", "a picture of ", "an image of ", "a photo of ")
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


def caption(object: str, material: str, background: str, rng: random.Random) -> str:
    """One of many wordings; about two thirds of them name the background.

    Every wording names object and material so that :func:`parse` finds them again.
    """
    wording = tidy if rng.random() < 0.4 else free
    return wording(object, material, background, rng)


def tidy(object: str, material: str, background: str, rng: random.Random) -> str:
    """A template like ``a picture of a golden duck on a pink background``."""
    adjectives, afters = MATERIALS[material]
    noun, tail = object, ""
    if object in synonyms("bare bat") and rng.random() < 0.4:
        noun, tail = "bat", " " + rng.choice(synonyms("bare bat")[object])
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


def free(object: str, material: str, background: str, rng: random.Random) -> str:
    """A wording as people type it: ``Could you draw me a sofa that looks like cheddar, please?``, ``mug, timber, gray``."""
    words = _words(object, material, background, rng)

    def choose(section: str) -> str:
        return rng.choice(wordings(section)).format_map(words)

    kind = rng.choices(("lists", "clauses", "things", "between"), (0.3, 0.13, 0.45, 0.12))[0]
    words["b"] = choose("behind")
    text = choose(kind)
    if rng.random() < 0.2:
        text = f"{choose('styles')} {text}"
    if kind != "between" and rng.random() < 0.66:
        behind = choose("listed") if kind == "lists" else rng.choice((" ", " ", ", ", ". ")) + words["b"]
        if material == "orange" and kind == "lists":
            behind = f" {words['c']} background"  # of two bare oranges nobody could tell which is which
        if rng.random() < 0.25:
            text = behind.strip(" .,;-+/") + rng.choice((", ", " ", ": ", ". ", " there is ")) + text
        else:
            text += behind
    if kind == "things":
        words["t"] = text
        text = choose("frames")
    if kind in ("things", "clauses") and rng.random() < 0.08:
        text = f"{choose('greetings')} {text}"
    if rng.random() < 0.15:
        text += ", " + ", ".join(rng.sample(wordings("quality"), rng.choice((1, 1, 2, 3))))
    return _slips(text, rng)


def _words(object: str, material: str, background: str, rng: random.Random) -> dict[str, str]:
    """What fills the gaps of the wordings; the plain names are the most frequent."""
    noun, stuffs = object, synonyms("stuffs")[material]
    if object in synonyms("bare bat") and rng.random() < 0.4:
        noun = "bat " + rng.choice(synonyms("bare bat")[object])
    elif rng.random() < 0.5:
        noun = rng.choice(synonyms("nouns")[object])
    if rng.random() < 0.12:
        noun = f"{rng.choice(wordings('manners'))} {noun}"
    elif rng.random() < 0.06 and not noun.endswith("s"):
        noun += "s"
    stuff = stuffs[0] if rng.random() < 0.35 else rng.choice(stuffs)
    adjective = rng.choice(MATERIALS[material][0])
    if rng.random() < 0.15:
        adjective = stuffs[0] + rng.choice(wordings("endings"))
    colour = background
    if rng.random() < 0.1:
        colour = rng.choice(synonyms("colours").get(background, (background,)))
    if rng.random() < 0.12:
        colour = f"{rng.choice(wordings('hues'))} {colour}"
    words = {"o": noun, "m": stuff, "j": adjective, "c": colour}
    return words | {f"a {key}": article(word) for key, word in words.items()}


def _slips(text: str, rng: random.Random) -> str:
    """Forgotten articles, typing slips, capitals and full stops, each in a few of the texts."""
    if rng.random() < 0.12:
        text = _without_articles(text)
    elif rng.random() < 0.05:
        text = re.sub(r"\ban\b", "a", text)
    for word, (slip,) in synonyms("slips").items():
        if rng.random() < 0.04:
            text = re.sub(rf"\b{word}\b", slip, text, count=1)
    if re.match("(could|can|would|what|how|is|have|do|may) ", text) and rng.random() < 0.7:
        text += "?"
    else:
        text += rng.choice(("", "", "", "", ".", ".", "!"))
    return rng.choice((str, str, str, str, str.capitalize, str.capitalize, str.upper))(text)


def _without_articles(text: str) -> str:
    return re.sub(r"\b(an?|the) ", "", text)


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
    phrases += [phrase for forms in MATERIALS.values() for group in forms for phrase in group]
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
    text = _without_articles(" ".join(text.split()))
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
    forms = {form: name for name, groups in MATERIALS.items() for group in groups for form in (*group, name)}
    forms |= _named(synonyms("stuffs"))
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
    return {other: name for name, others in table.items() for other in others}


def _first(text: str, names: dict[str, str]) -> str | None:
    for form in sorted(names, key=len, reverse=True):  # the longest wins: "candy cane" before "cane"
        if re.search(rf"(?<![a-z]){re.escape(_without_articles(form))}s?(?![a-z])", text):
            return names[form]
    return None
