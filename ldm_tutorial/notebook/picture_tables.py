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
from ..text import END, START, UNSEEN
from .picture_files import FORMATS

HUB = "hub:"
COLUMNS = {"file_name", "text"}
MISSING = "missing file; names are read from the table's own folder, and upper and lower case differ"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".rar", ".7z")


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
            number = isinstance(value, int | float) and not isinstance(value, bool)
            text = str(value) if number else value
            if text is None or text == "" or (isinstance(text, str) and text.isspace()):
                self.faults.add("empty caption", row.name)
            elif not isinstance(text, str):
                self.faults.add("caption that is no text", f"{row.name} (it is: {json.dumps(text, default=str)[:40]})")
            elif any("\ud800" <= letter <= "\udfff" for letter in text):
                self.faults.add("caption with half a character, as of an emoji cut in two", f"{row.name} ({ascii(text)[-40:]})")
            else:
                for mark in (START, END):
                    if mark in text.lower():
                        self.faults.add(f"caption that holds {mark}, which the tokenizer itself puts around a text", row.name)
                if len(text.strip().splitlines()) > 1:
                    self.notes.add("caption that holds a line break, read as a space", row.name)
                text = " ".join(text.translate(UNSEEN).split())
                if text not in row.captions:
                    row.captions.append(text)


def csv_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(number of the line, row) of a metadata.csv."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]
        if not set(names) >= COLUMNS:
            yield 1, dict.fromkeys(names)
            return
        for name in COLUMNS:
            if names.count(name) > 1:
                raise csv.Error(f"{names.count(name)} columns are named {name}")
        first = 2
        for row in reader:
            yield first, row
            first = reader.line_num + 1


def csv_fields(row: dict) -> list[str]:
    """The texts of a line: its file's name, its caption, and whatever was too much."""
    return [text for text in (row.get("file_name"), row.get("text"), *row.get(None, [])) if text]


def json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """(number of the line, what stands there) of a metadata.jsonl; None where that is no JSON."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def table_lines(path: Path, name: str, faults: Remarks) -> Iterator[tuple[str, str, object]]:
    """(where it stands, file_name, text) of each line of a table; what is wrong with it goes to ``faults``."""
    if path.exists() and not path.is_file():
        faults.add("table that can't be read", f"{name} (it is a pipe or a device, not a file)")
        return
    try:
        for number, row in csv_lines(path) if path.suffix == ".csv" else json_lines(path):
            where = f"{name}, line {number}"
            if not isinstance(row, dict):
                faults.add("line that is no JSON object", where)
            elif path.suffix == ".csv" and "\n" in "".join(csv_fields(row)):
                kind = 'line break inside a field (a quote, ", that is never closed takes in the lines after it)'
                faults.add(kind, f"{where} ({str(row['file_name'])[:40]!r})")
            elif None in row:
                faults.add('line with more fields than columns (put "..." around a text with commas)', where)
            elif not set(row) >= COLUMNS:
                missing = " and ".join(sorted(COLUMNS - set(row)))
                faults.add(f"no column {missing}", f"{where} (it has: {', '.join(row) or 'nothing'})")
            elif not isinstance(row["file_name"], str) or not row["file_name"].strip():
                faults.add("line without a file's name", where)
            else:
                yield where, row["file_name"], row["text"]
    except UnicodeDecodeError as error:
        faults.add("table that can't be read", f"{name} (it is no UTF-8 text: {error.reason} at byte {error.start:,})")
    except csv.Error as error:
        hint = "" if "columns" in str(error) else ": is there a quote that is never closed?"
        faults.add("table that can't be read", f"{name} ({error}{hint})")
    except OSError as error:
        faults.add("table that can't be read", f"{name} ({error.strerror})")


def walk(folder: Path) -> list[Path]:
    """All files of a folder and of those below it, hidden ones left out. Links are followed; no place is visited twice."""
    found: list[Path] = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def folder_rows(folder: Path) -> Rows:
    """A row for each picture that a table in the folder, or below it, names.

    Raises:
        UserError: when there is no folder, or no table in it.
    """
    if folder.is_file():
        raise UserError(f"{str(folder)!r} is a file: name the folder that holds the pictures and their metadata.csv, unpacked.")
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}: name a folder of pictures with a metadata.csv (columns file_name and text), "
            f"or a data set of the hub as {HUB}OWNER/NAME."
        )
    files = {path.relative_to(folder).as_posix(): path for path in walk(folder)}
    tables = [name for name, path in files.items() if path.name in ("metadata.csv", "metadata.jsonl")]
    if not tables:
        others = [name for name, path in files.items() if path.suffix.lower() in (".csv", ".jsonl", ".json", ".tsv")]
        there = f"; {', '.join(others[:3])} is not called so" if others else ""
        raise UserError(
            f"{str(folder)!r} has no captions: put a metadata.csv with the columns file_name and text beside the pictures "
            f"(or a metadata.jsonl{there})."
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
                kind = "folder or device in place of a picture" if os.path.exists(folder / name) else MISSING
                found.faults.add(kind, f"{given[:100]!r} ({where})")
            else:
                if name not in rows:
                    stat = (folder / name).stat()
                    rows[name] = Row(name, functools.partial(Path, folder, name), stamp=(stat.st_size, stat.st_mtime_ns))
                found.add_captions(rows[name], text)
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    for name, path in files.items():
        if path.suffix.lower() in ARCHIVES:
            found.notes.add("archive, which is not looked into: unpack it", name)
        elif path.suffix.lower() in endings and name not in rows and path.is_file():
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
