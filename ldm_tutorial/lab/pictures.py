"""A learner's own pictures: an image folder with captions, or a data set of the hub, checked and brought to one size.

The folder is the one that diffusers' training scripts and ``datasets.load_dataset("imagefolder")`` read: pictures, and
``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` (relative to the table) and ``text``. The tables are read
here, not by ``datasets``: pandas makes numbers of captions like "007" and holes of captions like "NA", and it ends at the
first fault.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import atomic_write, disk_errors
from ..notebook.picture_files import FORMATS, load_picture, to_square

MINIMUM = 20  # pictures: 16 to learn from and 4 kept aside
HUB = "hub:"


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
                if len(text.strip().splitlines()) > 1:
                    self.notes.add("caption that holds a line break, read as a space", row.name)
                text = " ".join(text.split())
                if text not in row.captions:
                    row.captions.append(text)


# --- reading --------------------------------------------------------------------------------------------------------


def csv_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(number of the line, row) of a metadata.csv."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            yield 1, dict.fromkeys(reader.fieldnames or ())
            return
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
            elif missing := {"file_name", "text"} - set(row):
                faults.add(f"no column {' and '.join(sorted(missing))}", f"{where} (it has: {', '.join(row) or 'nothing'})")
            elif not isinstance(row["file_name"], str) or not row["file_name"].strip():
                faults.add("line without a file's name", where)
            else:
                yield where, row["file_name"], row["text"]
    except UnicodeDecodeError as error:
        faults.add("table that can't be read", f"{name} (it is no UTF-8 text: {error.reason} at byte {error.start:,})")
    except (OSError, csv.Error) as error:
        faults.add("table that can't be read", f"{name} ({error})")


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
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}: name a folder of pictures with a metadata.csv (columns file_name and text), "
            f"or a data set of the hub as {HUB}OWNER/NAME."
        )
    files = {path.relative_to(folder).as_posix(): path for path in walk(folder)}
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
            path = os.path.normpath(folder.absolute() / Path(table).parent / given.replace("\\", "/"))
            name = Path(os.path.relpath(path, folder.absolute())).as_posix()
            if name not in files:
                name = composed.get(unicodedata.normalize("NFC", name), name)
            if name.startswith("../"):
                found.faults.add("path that leaves the folder", f"{given[:100]!r} ({where})")
            elif not os.path.isfile(folder / name):
                found.faults.add("missing file", f"{given[:100]!r} ({where})")
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


def read_pictures(found: Rows, side: int, progress: bool = True) -> Tensor:
    """All pictures, uint8 [N, side, side, 3]; those that can't be read or are too small go to the faults."""
    from tqdm.auto import tqdm

    images = np.zeros((len(found.rows), side, side, 3), np.uint8)

    def read(i: int) -> tuple[str, str] | None:
        """Read picture i; (kind of fault, name) where that fails."""
        row = found.rows[i]
        try:
            image = load_picture(row.file(), side=side)
        except UserError as error:
            return "picture that can't be read", f"{row.name} ({error})"
        if min(image.size) < side / 2:
            return f"shorter side below {side // 2} pixels, half the resolution", f"{row.name} ({image.width} x {image.height})"
        images[i] = to_square(image, side)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(read, range(len(images)))
        for fault in tqdm(results, total=len(images), desc="read pictures", disable=not progress):
            if fault:
                found.faults.add(*fault)
    return torch.from_numpy(images)


# --- the data set -----------------------------------------------------------------------------------------------------


class Pictures:
    """Captioned pictures in place of Curios: ``images`` uint8 [N, S, S, 3], with all ``wordings`` and the first of them,
    ``captions``, to learn from; a tenth (4 to 256) kept aside by ``seed`` as ``validation_images`` and
    ``validation_captions``, none of which equals, pixel for pixel, a picture to learn from.

    ``source`` is a folder, or ``hub:OWNER/NAME[@REVISION]``. What was read is kept as ``data.safetensors`` in ``run``, and
    read from there while names, sizes and dates of the files stay the same. ``notes`` is what is to be said about it.

    Raises:
        UserError: naming everything that is wrong with the pictures and their captions at once.
    """

    def __init__(self, source: str | Path, resolution: int, run: Path, seed: int = 0, progress: bool = True):
        self.source, self.resolution = str(source), resolution
        hub = self.source.startswith(HUB)
        found = Rows() if hub else folder_rows(Path(source))
        stamps = self.source if hub else [(row.name, row.captions, row.stamp) for row in found.rows]
        key = hashlib.sha256(json.dumps([resolution, stamps]).encode()).hexdigest()
        copy = None if found.faults else read_copy(run, key)
        if copy is None:
            found = hub_rows(self.source.removeprefix(HUB)) if hub else found
            images = read_pictures(found, resolution, progress)
            self._check(found)
            copy = images, [row.captions for row in found.rows]
            write_copy(run, key, *copy)
        images, wordings = copy
        self.notes = found.notes
        self.fingerprint = hashlib.sha256(images.numpy().tobytes() + json.dumps(wordings).encode()).hexdigest()
        learned, aside = split(images, seed)
        self.images, self.validation_images = images[learned], images[aside]
        self.wordings = [wordings[i] for i in learned]
        self.captions = [texts[0] for texts in self.wordings]
        self.validation_captions = [wordings[i][0] for i in aside]

    def _check(self, found: Rows) -> None:
        if len(found.rows) < MINIMUM:
            found.faults.add(f"fewer than {MINIMUM} pictures", f"{len(found.rows)} listed and found")
        if found.faults:
            said = f"{found.faults}\n{found.notes}".strip()
            raise UserError(
                f"{self.source!r} has faults; nothing was trained. Put these right and give the same command again:\n{said}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def tokenizer_captions(self) -> list[str]:
        """The captions that a tokenizer learns on: all that are learned from."""
        return [text for texts in self.wordings for text in texts]

    def wording(self, i: int, rng: random.Random) -> str:
        """A caption of picture i: one of its captions, drawn from ``rng``."""
        return self.wordings[i][0] if len(self.wordings[i]) == 1 else rng.choice(self.wordings[i])

    def note_long_captions(self, tokenizer) -> None:
        """Note captions that are longer than the text encoder reads."""
        limit = tokenizer.model_max_length
        texts = [*(text for texts in self.wordings for text in texts), *self.validation_captions]
        for text in texts:
            length = len(tokenizer(text, verbose=False).input_ids)
            if length > limit:
                kind = f"caption of more than {limit} tokens, whose end is not read"
                self.notes.add(kind, f"{text[:40]!r}... ({length} tokens)")


def read_copy(run: Path, key: str) -> tuple[Tensor, list[list[str]]] | None:
    """(pictures, their captions) as a run has read them before; None if they are absent, damaged, or others."""
    try:
        with safe_open(run / "data.safetensors", "pt") as file:
            header = file.metadata()
            return (file.get_tensor("images"), json.loads(header["wordings"])) if header["key"] == key else None
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def write_copy(run: Path, key: str, images: Tensor, wordings: list[list[str]]) -> None:
    """Keep what was read."""
    with disk_errors(run, "name another folder with --run"):
        run.mkdir(parents=True, exist_ok=True)
        with atomic_write(run / "data.safetensors") as scratch:
            save_file({"images": images}, scratch, {"key": key, "wordings": json.dumps(wordings)})


def split(images: Tensor, seed: int) -> tuple[list[int], list[int]]:
    """(those to learn from, those kept aside): numbers of pictures, in order. Kept aside is a tenth of all (4 to 256). Of
    pictures that are equal to the pixel, none is kept aside unless all are."""
    n = len(images)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    share = min(256, max(4, n // 10))
    rest = sorted(order[share:])
    looks = [hashlib.sha256(x.numpy().tobytes()).digest() for x in images]
    learned = {looks[i] for i in rest}
    aside = sorted(i for i in order[:share] if looks[i] not in learned)
    if not aside:
        raise UserError("All pictures look the same, to the pixel: nothing can be learned from them.")
    return rest, aside
