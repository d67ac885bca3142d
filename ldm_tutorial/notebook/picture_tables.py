"""What the tables of a learner's own pictures say: which picture has which captions, and everything that is wrong.

The folder is the one that diffusers' training scripts and ``datasets.load_dataset("imagefolder")`` read: pictures, and
``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` (relative to the table) and ``text``. The tables are read
here, not by ``datasets``: pandas makes numbers of captions like "007" and holes of captions like "NA", and it ends at the
first fault.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..text import UNSEEN
from .picture_files import FORMATS

HUB = "hub:"
COLUMNS = {"file_name", "text"}
MISSING = "missing file; names are read from the table's own folder, and upper and lower case differ"


class Remarks(dict):
    """Kinds of faults or remarks, each with the names that have it."""

    def add(self, kind: str, name: str) -> None:
        """Note that ``name`` has it."""
        self.setdefault(kind, []).append(name)

    def __str__(self) -> str:
        lines = []
        for kind, names in self.items():
            more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
            lines.append(f"- {kind} ({len(names):,}): {', '.join(names[:10])}{more}")
        return "\n".join(lines)


@dataclass
class Row:
    """A picture to be: its name, what gives its file (a path or an open one), its captions, and a stamp that changes when
    the file changes."""

    name: str
    file: Callable[[], object]
    captions: list[str] = field(default_factory=list)
    stamp: tuple = ()


@dataclass
class Rows:
    """The pictures of a folder or a data set, what is wrong with them, and what is only to be said."""

    rows: list[Row] = field(default_factory=list)
    faults: Remarks = field(default_factory=Remarks)
    notes: Remarks = field(default_factory=Remarks)

    def add_captions(self, row: Row, given: object) -> None:
        """Give a row its captions: one text or number, or a list of them. Spaces and line breaks become one space."""
        for value in given if isinstance(given, list) and given else [given]:
            text = str(value)
            if value is None or not text.strip():
                self.faults.add("empty caption", row.name)
            elif isinstance(value, bool) or not isinstance(value, str | int | float):
                self.faults.add("caption that is no text", f"{row.name} (it is: {text[:40]})")
            elif any("\ud800" <= letter <= "\udfff" for letter in text):
                self.faults.add("caption with half a character, as of an emoji cut in two", f"{row.name} ({ascii(text)[-40:]})")
            else:
                if len(text.strip().splitlines()) > 1:
                    self.notes.add("caption that holds a line break, read as a space", row.name)
                text = " ".join(text.translate(UNSEEN).split())
                if text not in row.captions:
                    row.captions.append(text)


def table_lines(path: Path, name: str, faults: Remarks) -> Iterator[tuple[str, str, object]]:
    """(where it stands, file_name, text) of each line of a table; what is wrong with it goes to ``faults``.

    Each line is read by itself, with the first line of a metadata.csv before it: so a quote that is never closed does not take
    in the lines after it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        faults.add("table that can't be read", f"{name} ({error})")
        return
    is_csv = path.suffix == ".csv"
    for number, line in enumerate(lines, 1):
        if not line.strip() or (is_csv and number == 1):
            continue
        where = f"{name}, line {number}"
        try:
            if is_csv:
                row = next(csv.DictReader([lines[0], line], strict=True, skipinitialspace=True))
            else:
                row = json.loads(line)
        except csv.Error:
            faults.add('line with a quote, ", that is never closed, or not doubled inside a text in quotes', where)
            continue
        except ValueError:
            row = None
        if not isinstance(row, dict):
            faults.add("line that is no JSON object", where)
        elif None in row:
            faults.add('line with more fields than columns (put "..." around a text with commas)', where)
        elif not set(row) >= COLUMNS:
            missing = " and ".join(sorted(COLUMNS - set(row)))
            faults.add(f"no column {missing}", f"{where} (it has: {', '.join(row) or 'nothing'})")
        elif not isinstance(row["file_name"], str) or not row["file_name"].strip():
            faults.add("line without a file's name", where)
        else:
            yield where, row["file_name"], row["text"]


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those below it, hidden ones left out. Links are followed; no folder is visited twice."""
    found: list[Path] = []
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def folder_rows(folder: Path) -> Rows:
    """A row for each picture that a table in the folder, or below it, names.

    Raises:
        UserError: when there is no folder, or no table in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}: name a folder of pictures with a metadata.csv (columns file_name and text), "
            f"or a data set of the hub as {HUB}OWNER/NAME."
        )
    files = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    tables = [name for name, path in files.items() if path.name in ("metadata.csv", "metadata.jsonl")]
    if not tables:
        raise UserError(
            f"{str(folder)!r} has no captions: put a metadata.csv with the columns file_name and text beside the pictures "
            "(or a metadata.jsonl)."
        )
    # An accented letter can be written in two ways, and some systems change one into the other when they copy.
    composed = {unicodedata.normalize("NFC", name): name for name in files}
    found, rows = Rows(), {}
    for table in tables:
        for where, given, text in table_lines(files[table], table, found.faults):
            place = os.path.normpath(folder.absolute() / Path(table).parent / given.replace("\\", "/"))
            name = Path(os.path.relpath(place, folder.absolute())).as_posix()
            if name not in files:
                name = composed.get(unicodedata.normalize("NFC", name), name)
            if name.startswith("../"):
                found.faults.add("path that leaves the folder", f"{given[:100]!r} ({where})")
            elif not os.path.isfile(folder / name):
                found.faults.add(MISSING, f"{given[:100]!r} ({where})")
            else:
                if name not in rows:
                    stat = (folder / name).stat()
                    rows[name] = Row(name, functools.partial(Path, folder, name), stamp=(stat.st_size, stat.st_mtime_ns))
                found.add_captions(rows[name], text)
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    for name, path in files.items():
        if path.suffix.lower() in endings and name not in rows:
            found.notes.add("picture that no line of a table names, left out", name)
    found.rows = list(rows.values())
    return found


def hub_rows(name: str) -> Rows:
    """The rows of a hub data set's train split; ``name`` is OWNER/NAME or OWNER/NAME@REVISION. Data only: no code of the
    data set is run.

    Raises:
        UserError: offline, for a data set that does not exist, and for one without the columns ``image`` and ``text``.
    """
    import datasets

    place, _, revision = name.partition("@")
    try:
        table = datasets.load_dataset(place, split="train", revision=revision or None)
    except Exception as error:  # the library's errors have many kinds; each says what happened in its first line
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"Can't load the data set {name!r} from the hub ({reason}): check the name and the network, or download it and "
            "name its folder."
        ) from None
    if not {"image", "text"} <= set(table.column_names) or not isinstance(table.features["image"], datasets.Image):
        has = ", ".join(table.column_names)
        raise UserError(f"The data set {name!r} needs the columns image and text; it has: {has}.")
    table = table.cast_column("image", datasets.Image(decode=False))  # load_picture reads them

    def file(i: int) -> object:
        image = table[i]["image"]
        return io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]

    found = Rows()
    for i, text in enumerate(table["text"]):
        row = Row(f"row {i}", functools.partial(file, i))
        found.add_captions(row, text)
        found.rows.append(row)
    return found
