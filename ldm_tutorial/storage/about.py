"""What a saved model says of itself: what it was trained on, and how it is to be prompted. Nothing here needs torch."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import UserError
from ..files import check_utf8, write_json

ABOUT = "course.json"
EXAMPLE = "an armchair made of avocado on a pink background"


@dataclass(frozen=True)
class About:
    """What a saved model says of itself in ``course.json``: what it was trained on, and how it is to be prompted.

    ``kind`` is "curios", "own pictures", or "unknown" for a checkpoint that has no such file. ``scripts`` are those of its
    captions, as :func:`scripts` names them; with none of them a prompt tells the model nothing. ``example`` is a prompt that
    it can draw, ``data`` the fingerprint of pictures and captions of one's own.
    """

    kind: str = "unknown"
    scripts: tuple[str, ...] = ()
    example: str = EXAMPLE
    resolution: int = 0
    data: str = ""

    def write(self, folder: Path) -> None:
        """Write ``course.json`` into a model's folder."""
        write_json(folder / ABOUT, asdict(self))


CURIOS = About("curios", ("Latin",), EXAMPLE, 64)


def read_about(folder: str | Path) -> About:
    """What the model in a folder says of itself; of one that says nothing, and of a hub id, the kind is "unknown".

    Raises:
        UserError: for a ``course.json`` that can't be read.
    """
    check_utf8(folder)
    path = Path(folder) / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return About(**{**found, "scripts": tuple(found["scripts"])})
    except (FileNotFoundError, NotADirectoryError):
        return About()
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{str(path)!r} can't be read: copy the model again, or train it again.") from None


def scripts(texts: Iterable[str]) -> tuple[str, ...]:
    """The scripts that texts are written in: those of letters ("Latin", "Cyrillic", "Cjk"), "digits" and "symbols"."""
    found = set()
    for letter in set("".join(texts)):
        category = unicodedata.category(letter)
        if category.startswith("L"):
            found.add(unicodedata.name(letter, "unknown").split()[0].title())
        elif category.startswith("N"):
            found.add("digits")
        elif category.startswith("S"):
            found.add("symbols")
    return tuple(sorted(found))
