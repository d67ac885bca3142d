"""Captions of Curios: many wordings for one picture.

Some come from tidy templates: *a zebra-striped mug*, *a golden duck on a pink background*. The others are worded as people
ask for pictures, politely, in bare words or lists, with synonyms and slips; they are written out in ``wordings.txt``.
"""

from __future__ import annotations

import random
import re

from .vocabulary import BACKDROPS, CLOSINGS, MATERIALS, OPENINGS, article, common_words, synonyms, without_articles, wordings


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
        text = without_articles(text)
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
