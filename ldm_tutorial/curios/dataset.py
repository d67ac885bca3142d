"""Curios as a data set: who is in which split, rendering on all cores, a safe cache, and an image folder for others."""

from __future__ import annotations

import csv
import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, resource_tracker
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save_file
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from ..files import atomic_write, cache_folder, disk_errors
from ..images import to_model
from ..storage.threads import allowed_cores, one_thread
from . import render
from .captions import caption
from .shapes import OBJECTS as SHAPES
from .vocabulary import BACKGROUNDS, MATERIALS, OBJECTS, pairs

# Changes whenever picture number i of a split would have other pixels: an older cache is not read then. The tests compare
# pixels with stored ones and fail when this was forgotten.
RENDER_VERSION = 1
BLOCK = 256  # pictures per cache file: a render that is interrupted loses at most one block per core


def scene_at(split: str, index: int, seed: int = 0) -> tuple[render.Scene, str]:
    """Scene and caption number ``index`` of a split: keyed by (split, seed, index) alone, so samples never shift."""
    rng = random.Random(f"curios {split} {seed} {index}")
    choice = pairs(split)
    object, material = choice[index % len(choice)]
    background = rng.choice(BACKGROUNDS)
    scene = render.Scene(
        object,
        material,
        background,
        yaw=rng.uniform(-35, 35),
        pitch=rng.uniform(*SHAPES[object].pitch),
        fill=rng.uniform(0.84, 0.96),
        shift=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
        light=(rng.choice((-1, 1)) * rng.uniform(20, 60), rng.uniform(38, 62)),
        tone=rng.uniform(-0.03, 0.03),
        texture_seed=(rng.uniform(-8, 8), rng.uniform(-8, 8), rng.uniform(-8, 8)),
    )
    return scene, caption(object, material, background, rng)


def _block(split: str, start: int, stop: int, seed: int, size: int, device: str) -> Path:
    folder = cache_folder() / "curios" / f"v{RENDER_VERSION}-{size}-{device}"
    return folder / f"{split}-{seed}-{start:06d}-{stop:06d}.safetensors"


def _sha256(images: Tensor, masks: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes() + masks.numpy().tobytes()).hexdigest()


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    """The pictures and masks of a cache file, or None when it is absent or damaged."""
    try:
        with safe_open(path, "pt") as file:
            images, masks = file.get_tensor("images"), file.get_tensor("masks")
            return (images, masks) if file.metadata()["sha256"] == _sha256(images, masks) else None
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _places(split: str, start: int, stop: int, *how) -> list[Path]:
    """The cache files that can hold pictures start..stop: their own, and that of the whole block which begins with them."""
    return [_block(split, start, end, *how) for end in (stop, start + BLOCK)]


def _cached(split: str, start: int, stop: int, *how) -> tuple[Tensor, Tensor] | None:
    """Pictures start..stop and their masks, if the cache has them."""
    for path in _places(split, start, stop, *how):
        found = _read(path)
        if found:
            images, masks = found
            return images[: stop - start], masks[: stop - start]
    return None


def draw(scenes: list[render.Scene], size: int = 64, device: str = "cpu", progress: bool = False) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, size, size, 3] and masks bool [N, size, size] of scenes, in their order."""
    from tqdm.auto import tqdm

    images = torch.empty(len(scenes), size, size, 3, dtype=torch.uint8)
    masks = torch.empty(len(scenes), size, size, dtype=torch.bool)
    drawn = render.render(scenes, size, device)
    with one_thread():
        for i, image, mask in tqdm(drawn, total=len(scenes), desc="render", disable=not progress):
            images[i], masks[i] = image, mask
    return images, masks


def render_block(split: str, start: int, stop: int, seed: int, size: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pictures start..stop of a split: uint8 [N, size, size, 3] and masks bool [N, size, size], read from the cache or
    rendered and put there (whole or not at all; a lock keeps two processes from rendering the same block; the checksum
    is checked). A cache that is complete is only read, so it may be read-only.

    Raises:
        UserError: when the cache can't be written.
    """
    from filelock import FileLock

    found = _cached(split, start, stop, seed, size, device)
    if found:
        return found
    path = _block(split, start, stop, seed, size, device)
    with disk_errors(path.parent, "name another folder in LDM_TUTORIAL_CACHE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path)  # another process may have rendered it meanwhile
            if not found:
                scenes = [scene_at(split, i, seed)[0] for i in range(start, stop)]
                images, masks = found = draw(scenes, size, device)
                with atomic_write(path) as scratch:
                    save_file({"images": images, "masks": masks}, scratch, {"sha256": _sha256(images, masks)})
    return found


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
        UserError: for an unknown split, a count below 1, or a cache that can't be written.
    """

    def __init__(self, split: str, count: int, seed: int = 0, size: int = 64, progress: bool = True):
        if count < 1:
            raise UserError(f"A data set needs at least 1 picture, not {count}.")
        pairs(split)  # raises for an unknown one
        self.split, self.seed = split, seed
        device = "cuda" if torch.cuda.is_available() else "cpu"
        jobs = [(split, start, min(start + BLOCK, count), seed, size, device) for start in range(0, count, BLOCK)]
        _render_missing(jobs, progress)
        blocks = [render_block(*job) for job in jobs]
        self.images = torch.cat([images for images, _ in blocks])
        self.masks = torch.cat([masks for _, masks in blocks])
        scenes = [scene_at(split, i, seed) for i in range(count)]
        self.captions = [text for _, text in scenes]
        self.objects = torch.tensor([OBJECTS.index(scene.object) for scene, _ in scenes])
        self.materials = torch.tensor([list(MATERIALS).index(scene.material) for scene, _ in scenes])
        self.backgrounds = torch.tensor([BACKGROUNDS.index(scene.background) for scene, _ in scenes])

    def __len__(self) -> int:
        return len(self.images)

    def _names(self, i: int) -> tuple[str, str, str]:
        return OBJECTS[self.objects[i]], list(MATERIALS)[self.materials[i]], BACKGROUNDS[self.backgrounds[i]]

    @property
    def wordings(self) -> list[list[str]]:
        """The captions of each picture: here one."""
        return [[text] for text in self.captions]

    @property
    def tokenizer_captions(self) -> list[str]:
        """The captions that a tokenizer learns on: 4,000 of the training pictures hold every word often enough."""
        return [scene_at("train", i, self.seed)[1] for i in range(4000)]

    def wording(self, i: int, rng: random.Random) -> str:
        """Another caption of picture i, drawn from ``rng``."""
        return caption(*self._names(i), rng)

    def __getitem__(self, i: int) -> dict:
        object, material, background = self._names(i)
        picture = to_model(self.images[i][None])[0]
        names = {"object": object, "material": material, "background": background}
        return {"image": picture, "mask": self.masks[i], "caption": self.captions[i], **names}

    def export(self, folder: str | Path) -> Path:
        """Write ``<split>/NNNNNN.png`` and ``<split>/metadata.csv`` as ``datasets.load_dataset("imagefolder",
        data_dir=folder)`` reads them; returns the folder."""
        from PIL import Image

        pictures = Path(folder) / self.split
        pictures.mkdir(parents=True, exist_ok=True)
        with open(pictures / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "text", "object", "material", "background"])
            for i in range(len(self)):
                name = f"{i:06d}.png"
                Image.fromarray(self.images[i].numpy()).save(pictures / name)
                table.writerow([name, self.captions[i], *self._names(i)])
        return Path(folder)


def _render_missing(jobs: list[tuple], progress: bool) -> None:
    """Put the blocks that the cache lacks into it: a GPU renders one after the other, a CPU as many at once as it may."""
    from tqdm.auto import tqdm

    todo = []
    for job in jobs:
        cached = [path for path in _places(*job) if path.exists()]
        if not cached:
            todo.append(job)
    total = sum(stop - start for _, start, stop, *_ in todo)
    workers = min(allowed_cores(), 16, len(todo)) if jobs[0][-1] == "cpu" else 1
    with tqdm(total=total, desc=f"render {jobs[0][0]}", unit=" pictures", disable=not (progress and todo)) as bar:
        pool = None
        if workers > 1:
            with suppress(OSError, ImportError, NotImplementedError):  # some containers and sandboxes have no semaphores
                # one torch thread in each: several collapse when processes share the cores
                pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))
        if pool is None:
            for job in todo:
                bar.update(_worker(job))
            return
        others = active_children()
        try:
            with _delayed_ctrl_c():  # it does not reach the workers: this process ends them, and none prints a traceback
                futures = [pool.submit(_worker, job) for job in todo]
            for future in as_completed(futures):
                bar.update(future.result())
        except BrokenProcessPool:
            raise UserError(
                "The processes that render have died: in a script, put your code under `if __name__ == '__main__':`; "
                "if it is there, free some memory."
            ) from None
        except BaseException:
            for child in active_children():
                if child not in others:
                    child.terminate()
            raise
        finally:
            pool.shutdown()


@contextmanager
def _delayed_ctrl_c() -> Iterator[None]:
    """Ctrl-C waits until this ends. Processes that are started meanwhile never notice it: they inherit the blocked signal."""
    resource_tracker.ensure_running()  # started later, it would let the signal through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    in_main = threading.current_thread() is threading.main_thread()  # no other thread may set what Ctrl-C does
    arrived: list[int] = []  # blocked here, it may still arrive by another thread, a library's
    before = signal.signal(signal.SIGINT, lambda number, _: arrived.append(number)) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if arrived:
        signal.raise_signal(signal.SIGINT)
