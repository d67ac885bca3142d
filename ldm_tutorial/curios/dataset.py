"""Curios as a data set: who is in which split, rendering on all cores, a safe cache, and an image folder for others."""

from __future__ import annotations

import csv
import functools
import hashlib
import inspect
import os
import random
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from ..files import atomic_write
from ..images import to_model
from .vocabulary import BACKGROUNDS, MATERIALS, OBJECTS, caption, pairs

BLOCK = 256  # pictures per cache file: a render that is interrupted loses at most one block per core


def scene_at(split: str, index: int, seed: int = 0):
    """Scene and caption number ``index`` of a split: keyed by (split, seed, index) alone, so samples never shift."""
    from .render import Scene
    from .shapes import OBJECTS as SHAPES

    rng = random.Random(f"curios {split} {seed} {index}")
    choice = pairs(split)
    object, material = choice[index % len(choice)]
    background = rng.choice(BACKGROUNDS)
    scene = Scene(
        object, material, background,
        yaw=rng.uniform(-35, 35), pitch=rng.uniform(*SHAPES[object].pitch), fill=rng.uniform(0.84, 0.96),
        shift=(rng.uniform(-1, 1), rng.uniform(-1, 1)), light=(rng.choice((-1, 1)) * rng.uniform(20, 60), rng.uniform(38, 62)),
        tone=rng.uniform(-0.03, 0.03), texture_seed=tuple(rng.uniform(-8, 8) for _ in range(3)),
    )  # fmt: skip
    return scene, caption(object, material, background, rng)


def cache_folder() -> Path:
    """``$LDM_TUTORIAL_CACHE`` or ``~/.cache/ldm_tutorial``."""
    return Path(os.environ.get("LDM_TUTORIAL_CACHE") or "~/.cache/ldm_tutorial").expanduser()


@functools.cache
def _version() -> str:
    """Changes with all that decides what picture number i looks like, so that a stale cache is never read."""
    digest = hashlib.sha256()
    for name in ("shapes", "materials", "render"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    digest.update((inspect.getsource(scene_at) + repr((pairs("all"), pairs("train"), BACKGROUNDS))).encode())
    return digest.hexdigest()[:12]


def _block(split: str, start: int, stop: int, seed: int, size: int, device: str) -> Path:
    folder = cache_folder() / "curios" / f"{_version()}-{size}-{device}"
    return folder / f"{split}-{seed}-{start:06d}-{stop:06d}.safetensors"


def render_block(split: str, start: int, stop: int, seed: int, size: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pictures start..stop of a split: uint8 [N, size, size, 3] and masks bool [N, size, size], read from the cache or
    rendered and put there (whole or not at all; a lock keeps two processes from rendering the same block; the checksum
    is checked).

    Raises:
        UserError: when the cache can't be written.
    """
    from filelock import FileLock
    from safetensors import SafetensorError
    from safetensors.torch import safe_open, save_file

    from .render import render

    path = _block(split, start, stop, seed, size, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Can't write to {path.parent} ({error.strerror}): name another folder in LDM_TUTORIAL_CACHE."
        ) from None

    def digest(images: Tensor, masks: Tensor) -> str:
        return hashlib.sha256(images.numpy().tobytes() + masks.numpy().tobytes()).hexdigest()

    with FileLock(path.with_suffix(".lock")):
        try:
            with safe_open(path, "pt") as f:
                images, masks = f.get_tensor("images"), f.get_tensor("masks")
                if f.metadata()["sha256"] == digest(images, masks):
                    return images, masks
        except (OSError, SafetensorError, KeyError, TypeError):
            pass  # absent or damaged: render it again
        scenes = [scene_at(split, i, seed)[0] for i in range(start, stop)]
        images = torch.empty(len(scenes), size, size, 3, dtype=torch.uint8)
        masks = torch.empty(len(scenes), size, size, dtype=torch.bool)
        for i, image, mask in render(scenes, size, device):
            images[i], masks[i] = image, mask
        with atomic_write(path) as scratch:
            save_file({"images": images, "masks": masks}, scratch, {"sha256": digest(images, masks)})
    return images, masks


def _one_thread() -> None:
    torch.set_num_threads(1)  # two torch threads per process collapse when processes share the cores


def _worker(job: tuple) -> int:
    render_block(*job)
    return job[2] - job[1]


class Curios(Dataset):
    """``count`` samples of a split, rendered on first use and cached.

    Attributes: ``images`` uint8 [N, size, size, 3]; ``masks`` bool [N, size, size] (true where the object is);
    ``objects``, ``materials``, ``backgrounds`` int64 [N], indices into ``curios.OBJECTS`` and so on; ``captions`` a list.
    ``size`` is even; a GPU, where there is one, renders (its pixels differ from the CPU's by rounding).
    An item is a dict of one row of each, the picture as float [3, size, size] in -1..1 and the label names as text.

    Raises:
        UserError: for an unknown split or a count below 1.
    """

    def __init__(self, split: str, count: int, seed: int = 0, size: int = 64, progress: bool = True):
        from tqdm.auto import tqdm

        if count < 1:
            raise UserError(f"A data set needs at least 1 picture, not {count}.")
        pairs(split)
        self.split, self.seed = split, seed
        device = "cuda" if torch.cuda.is_available() else "cpu"
        jobs = [(split, a, min(a + BLOCK, count), seed, size, device) for a in range(0, count, BLOCK)]
        todo = [(s, a, b, *rest) for s, a, b, *rest in jobs if not _block(s, a, b, *rest).exists()]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 16, len(todo)) if device == "cpu" else 1
        total = sum(stop - start for _, start, stop, *_ in todo)
        with tqdm(total=total, desc=f"render {split}", unit=" pictures", disable=not (progress and todo)) as bar:
            if workers > 1:
                try:
                    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
                        for done in pool.map(_worker, todo):
                            bar.update(done)
                except BrokenProcessPool:
                    raise UserError(
                        "The processes that render have died: in a script, put your code under `if __name__ == '__main__':`; "
                        "if it is there, free some memory."
                    ) from None
            else:
                for job in todo:
                    bar.update(_worker(job))
        blocks = [render_block(*job) for job in jobs]
        self.images, self.masks = (torch.cat(part) for part in zip(*blocks, strict=True))
        scenes = [scene_at(split, i, seed) for i in range(count)]
        self.captions = [text for _, text in scenes]
        self.objects = torch.tensor([OBJECTS.index(s.object) for s, _ in scenes])
        self.materials = torch.tensor([list(MATERIALS).index(s.material) for s, _ in scenes])
        self.backgrounds = torch.tensor([BACKGROUNDS.index(s.background) for s, _ in scenes])

    def __len__(self) -> int:
        return len(self.images)

    def wording(self, i: int, rng: random.Random) -> str:
        """Another caption of picture i, drawn from ``rng``."""
        names = OBJECTS[self.objects[i]], list(MATERIALS)[self.materials[i]], BACKGROUNDS[self.backgrounds[i]]
        return caption(*names, rng)

    def __getitem__(self, i: int) -> dict:
        names = OBJECTS[self.objects[i]], list(MATERIALS)[self.materials[i]], BACKGROUNDS[self.backgrounds[i]]
        return {
            "image": to_model(self.images[i][None])[0], "mask": self.masks[i], "caption": self.captions[i],
            "object": names[0], "material": names[1], "background": names[2],
        }  # fmt: skip

    def export(self, folder: str | Path) -> Path:
        """Write ``<split>/NNNNNN.png`` and ``<split>/metadata.csv`` as ``datasets.load_dataset("imagefolder",
        data_dir=folder)`` reads them; returns the folder."""
        from PIL import Image

        folder = Path(folder)
        (folder / self.split).mkdir(parents=True, exist_ok=True)
        with open(folder / self.split / "metadata.csv", "w", newline="", encoding="utf-8") as f:
            table = csv.writer(f)
            table.writerow(["file_name", "text", "object", "material", "background"])
            for i in range(len(self)):
                row = self[i]
                name = f"{i:06d}.png"
                Image.fromarray(self.images[i].numpy()).save(folder / self.split / name)
                table.writerow([name, row["caption"], row["object"], row["material"], row["background"]])
        return folder
