"""What a learner has solved: one small file in the cache folder, whole or not there. Nothing leaves the machine."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ..files import cache_folder, write_json
from .catalogue import CATALOGUE, Entry, of_notebook

FILE = "solved_exercises.json"
_session: dict[str, str] | None = None  # what is solved, where it should not be written down


def only_this_session() -> None:
    """From now on solved exercises are counted in this process alone: reading the solutions is not solving."""
    global _session
    _session = {}


def place() -> Path:
    """The file."""
    return cache_folder() / FILE


def solved() -> dict[str, str]:
    """The numbers of the solved exercises and the day of each. A file that can't be read counts as none."""
    if _session is not None:
        return dict(_session)
    try:
        found = json.loads(place().read_text(encoding="utf-8"))
        return {str(number): str(day) for number, day in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def remember(number: str) -> None:
    """Write down that an exercise is solved, with today's date. Where nothing can be written, nothing is."""
    found = solved()
    if number in found:
        return
    found[number] = datetime.date.today().isoformat()
    if _session is not None:
        _session.update(found)
        return
    try:
        place().parent.mkdir(parents=True, exist_ok=True)
        write_json(place(), found)
    except OSError:
        pass  # a verdict is worth more than its record


def bar(entries: list[Entry], title: str, width: int = 20) -> str:
    """One line: how many of some exercises are solved, and which one is next."""
    found = solved()
    done = [e for e in entries if e.number in found]
    waiting = [e for e in entries if e.number not in found]
    full = round(width * len(done) / len(entries))
    following = f"   next: {waiting[0].number} {waiting[0].title}" if waiting else "   all solved"
    return f"{title:24} {'█' * full}{'░' * (width - full)} {len(done):2} of {len(entries):2}{following}"


def show(notebook: str) -> None:
    """Print the bar of one notebook, "03"."""
    print(bar(of_notebook(notebook), f"Notebook {notebook}"))


def report() -> str:
    """The bars of all notebooks, and that of the whole course."""
    notebooks = dict.fromkeys(e.notebook for e in CATALOGUE)
    lines = [bar(of_notebook(name), f"Notebook {name}") for name in notebooks]
    return "\n".join([*lines, bar(CATALOGUE, "The whole course").split("   next")[0], f"kept in {place()}"])
