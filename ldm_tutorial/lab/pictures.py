"""A learner's own pictures: an image folder with captions, or a data set of the hub, checked and brought to one size.

The folder is the one that diffusers' training scripts and ``datasets.load_dataset("imagefolder")`` read: pictures, and
``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` (relative to the table) and ``text``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import atomic_write
from ..images import FORMATS, to_square

MINIMUM = 20  # pictures: 16 to learn from and 4 kept aside
HUB = "hub:"


def check_resolution(value: object) -> int:
    """A multiple of 8 from 16 to 1024, or UserError: a quarter of it is the latents' side, which the U-Net halves."""
    from .cli import number

    side = number(value, "The resolution", int, 16, 1024, "a multiple of 8 from 16 to 1024, for example 64")
    if side % 8:
        raise UserError(f"The resolution {side} won't do: give a multiple of 8 from 16 to 1024, for example {side // 8 * 8}.")
    return side


class Faults(dict):
    """Kinds of faults, each with the names that have it."""

    def add(self, kind: str, name: str) -> None:
        self.setdefault(kind, []).append(name)

    def text(self) -> str:
        def line(kind: str, names: list[str]) -> str:
            more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
            return f"- {kind} ({len(names):,}): {', '.join(names[:10])}{more}"

        return "\n".join(line(kind, names) for kind, names in self.items())


@dataclass
class Row:
    """A picture to be: its name, how to open it, its caption, and what changes when its file changes."""

    name: str
    open: Callable[[], Image.Image]
    text: str
    stamp: tuple = ()


# --- reading --------------------------------------------------------------------------------------------------------


def _table(path: Path, name: str, faults: Faults) -> Iterator[tuple[object, object]]:
    """(file_name, text) of each line of a metadata.csv or metadata.jsonl."""
    try:
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as f:
                reader = csv.DictReader(f)
                missing = {"file_name", "text"} - set(reader.fieldnames or ())
                if missing:
                    has = ", ".join(reader.fieldnames or ()) or "none"
                    faults.add(f"table without the column {' and '.join(sorted(missing))}", f"{name} (it has: {has})")
                    return
                for row in reader:
                    if None in row:
                        faults.add('line with more fields than columns (put "..." around a text with commas)',
                                   f"{name}, line {reader.line_num}")  # fmt: skip
                    else:
                        yield row["file_name"], row["text"]
            return
        for i, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                faults.add("line that is no JSON object", f"{name}, line {i}")
            elif missing := {"file_name", "text"} - set(row):
                faults.add(f"line without {' and '.join(sorted(missing))}", f"{name}, line {i} (it has: {', '.join(row)})")
            else:
                yield row["file_name"], row["text"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        faults.add("table that can't be read (it must be UTF-8 text)", f"{name} ({error})")


def folder_rows(folder: Path, faults: Faults) -> list[Row]:
    """The rows of every table in the folder and below it; what is wrong with tables, names and captions goes to ``faults``.

    Raises:
        UserError: when there is no folder, or no table in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}: name a folder of pictures with a metadata.csv (columns file_name and text), "
            f"or a data set of the hub as {HUB}OWNER/NAME."
        )
    tables = sorted(p for name in ("metadata.csv", "metadata.jsonl") for p in folder.rglob(name))
    if not tables:
        raise UserError(
            f"{str(folder)!r} has no captions: put a metadata.csv with the columns file_name and text beside the pictures "
            "(or a metadata.jsonl)."
        )
    root, rows, seen = folder.resolve(), [], {}
    for table in tables:
        for file_name, text in _table(table, table.relative_to(folder).as_posix(), faults):
            if not isinstance(file_name, str) or not file_name.strip():
                faults.add("line without a file's name", table.relative_to(folder).as_posix())
                continue
            shown = file_name[:100]
            try:
                path = (table.parent / file_name).resolve()
                inside, there = path.is_relative_to(root), path.is_file()
            except (OSError, ValueError):  # a name too long, or with a zero byte
                inside, there, path = True, False, None
            if not inside:
                faults.add("path that leaves the folder", shown)
            elif not there:
                faults.add("missing file", shown)
            elif path in seen:
                faults.add("file named twice", shown)
            else:
                seen[path] = True
                name = path.relative_to(root).as_posix()
                stat = path.stat()
                row = Row(name, lambda p=path: Image.open(p, formats=FORMATS), "", (stat.st_size, stat.st_mtime_ns))
                row.text = _caption(text, name, faults)
                rows.append(row)
    return rows


def _caption(text: object, name: str, faults: Faults) -> str:
    text = " ".join(text.split()) if isinstance(text, str) else ""
    if not text:
        faults.add("empty caption", name)
    return text


def hub_rows(name: str, faults: Faults) -> list[Row]:
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
    texts = table["text"]

    def opener(i: int) -> Callable[[], Image.Image]:
        return lambda: table[i]["image"]

    return [Row(f"row {i}", opener(i), _caption(texts[i], f"row {i}", faults)) for i in range(len(table))]


def read_pictures(rows: list[Row], side: int, faults: Faults, progress: bool = True) -> Tensor:
    """All pictures, uint8 [N, side, side, 3]; those that can't be read or are too small go to ``faults``."""
    from tqdm.auto import tqdm

    images = np.zeros((len(rows), side, side, 3), np.uint8)

    def read(i: int) -> tuple[str, str] | None:
        try:
            with rows[i].open() as image:
                if min(image.size) < side / 2:
                    small = f"shorter side below {side // 2} pixels, half the resolution"
                    return small, f"{rows[i].name} ({image.width} x {image.height})"
                images[i] = to_square(image, side)
        except Exception as error:  # a damaged file can raise nearly anything
            reason = str(error).splitlines()[0][:60] if str(error) and rows[i].name not in str(error) else ""
            return "picture that can't be read", rows[i].name + (f" ({reason})" if reason and "/" not in reason else "")
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = tqdm(pool.map(read, range(len(rows))), total=len(rows), desc="read pictures", disable=not progress)
        for fault in found:
            if fault:
                faults.add(*fault)
    return torch.from_numpy(images)


# --- the data set -----------------------------------------------------------------------------------------------------


class Pictures:
    """Captioned pictures in place of Curios: ``images`` uint8 [N, S, S, 3] and ``captions`` to learn from, a tenth (4 to
    256) kept aside by ``seed`` as ``validation_images`` and ``validation_captions``, none of which equals, pixel for
    pixel, a picture to learn from.

    ``source`` is a folder, or ``hub:OWNER/NAME[@REVISION]``. What was read is kept as ``data.safetensors`` in ``run``, and
    read from there while names, sizes and dates of the files stay the same.

    Raises:
        UserError: naming everything that is wrong with the pictures and their captions at once; or when ``run`` was begun
            with other ones.
    """

    def __init__(self, source: str | Path, resolution: int, run: str | Path, seed: int = 0, progress: bool = True):
        from filelock import FileLock

        self.source, self.resolution = str(source), resolution
        run = Path(run)
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Can't use {str(run)!r} ({error.strerror}): name another folder with --run.") from None
        with FileLock(run / "data.lock"):  # of several processes the first one reads, the others find it done
            images, captions = self._read(run, progress)
        self.digest = hashlib.sha256(images.numpy().tobytes() + json.dumps(captions).encode()).hexdigest()
        self.images, self.captions, self.validation_images, self.validation_captions = split(images, captions, seed)

    def _read(self, run: Path, progress: bool) -> tuple[Tensor, list[str]]:
        path, faults = run / "data.safetensors", Faults()
        hub = self.source.startswith(HUB)
        rows = None if hub else folder_rows(Path(self.source), faults)
        stamps = self.source if hub else [(r.name, r.text, r.stamp) for r in rows]
        key = hashlib.sha256(json.dumps([self.resolution, stamps]).encode()).hexdigest()
        known = None
        try:
            with safe_open(path, "pt") as f:
                known = f.metadata()
                if known["key"] == key and not faults:
                    return f.get_tensor("images"), json.loads(known["captions"])
        except (OSError, SafetensorError, KeyError, TypeError):
            pass  # absent or damaged: read the pictures again
        rows = hub_rows(self.source.removeprefix(HUB), faults) if hub else rows
        images = read_pictures(rows, self.resolution, faults, progress)
        if len(rows) < MINIMUM:
            faults.add(f"fewer than {MINIMUM} pictures", f"{len(rows)} listed and found")
        if faults:
            raise UserError(
                f"{self.source!r} has faults; nothing was trained. Put these right and give the same command again:\n"
                + faults.text()
            )
        captions = [r.text for r in rows]
        digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        begun = any((run / f"{part}.pt").exists() for part in ("vae", "clip", "unet"))
        if begun and known and (known.get("digest"), json.loads(known["captions"])) != (digest, captions):
            raise UserError(
                f"{str(run)!r} was begun with other pictures, captions or another resolution than {self.source!r} now: name "
                "another folder with --run, or delete that one to start again."
            )
        with atomic_write(path) as scratch:
            save_file({"images": images}, scratch, {"key": key, "digest": digest, "captions": json.dumps(captions)})
        return images, captions

    def __len__(self) -> int:
        return len(self.images)

    def wording(self, i: int, rng: random.Random) -> str:
        """The caption of picture i: always the same, for there is one (Curios draws another wording each time)."""
        return self.captions[i]


def split(images: Tensor, captions: list[str], seed: int) -> tuple[Tensor, list[str], Tensor, list[str]]:
    """(images, captions) to learn from and (images, captions) kept aside, a tenth of all (4 to 256). Of pictures that are
    equal to the pixel, none is kept aside unless all are."""
    n = len(images)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    aside, rest = order[: min(256, max(4, n // 10))], sorted(order[min(256, max(4, n // 10)) :])
    looks = [hashlib.sha256(x.numpy().tobytes()).digest() for x in images]
    learned = {looks[i] for i in rest}
    aside = sorted(i for i in aside if looks[i] not in learned)
    if not aside:
        raise UserError("All pictures look the same, to the pixel: nothing can be learned from them.")
    return images[rest], [captions[i] for i in rest], images[aside], [captions[i] for i in aside]
