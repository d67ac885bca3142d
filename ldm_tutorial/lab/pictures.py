"""A learner's own pictures as a data set: an image folder with captions, or one of the hub, brought to one size."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import atomic_write, disk_errors
from ..notebook.picture_files import load_picture, to_square
from ..notebook.picture_tables import HUB, Rows, folder_rows, hub_rows
from ..storage.threads import available_cores

MINIMUM = 20  # pictures: 16 to learn from and 4 kept aside


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

    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        results = pool.map(read, range(len(images)))
        for fault in tqdm(results, total=len(images), desc="read pictures", disable=not progress):
            if fault:
                found.faults.add(*fault)
    return torch.from_numpy(images)


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
        return list(itertools.chain(*self.wordings))

    def wording(self, i: int, rng: random.Random) -> str:
        """A caption of picture i: one of its captions, drawn from ``rng``."""
        return self.wordings[i][0] if len(self.wordings[i]) == 1 else rng.choice(self.wordings[i])

    def note_long_captions(self, tokenizer) -> None:
        """Note captions that are longer than the text encoder reads."""
        limit = tokenizer.model_max_length
        for text in [*self.tokenizer_captions, *self.validation_captions]:
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
