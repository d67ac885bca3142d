"""Three pictures by a real Stable Diffusion, each stored with what another person needs to make it again.

    make stable-diffusion                              # Stable Diffusion 1.5
    make stable-diffusion MODEL=stabilityai/sd-turbo   # one step a picture: for a machine without a GPU
    make stable-diffusion MODEL=FOLDER OUT=pictures    # a checkpoint that is here already

The checkpoint is fetched once (2 to 5 GB), by the full id of one revision; without a network a folder does. Pictures and
records are written one by one, so that an interrupted run leaves what was done.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_place, disk_errors, write_json

DEFAULT = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PROMPTS = (
    "an armchair in the shape of an avocado",
    "a watercolour painting of a lighthouse at dawn",
    "a mug made of waffle on a blue background",
)
SEED = 7


def draw_three(source: str = DEFAULT, out: str | Path = "stable-diffusion") -> list[dict]:
    """Draw :data:`PROMPTS` with a checkpoint, a hub id (OWNER/NAME or OWNER/NAME@REVISION) or a folder; returns the records.

    ``out`` then holds ``1.png`` to ``3.png`` and ``pictures.json``: checkpoint, revision, prompt, seed, sampling and seconds.

    Raises:
        UserError: for a checkpoint that is not here and can't be fetched, or can't be used; for a disk that refuses.
    """
    source, out = os.path.expanduser(source), Path(out)
    check_place(out / "pictures.json")

    import diffusers
    import torch
    import transformers

    from ..checkpoints import KNOWN, load_checkpoint
    from ..models import default_device
    from ..sampling import sample
    from ..storage.folders import CLASSES
    from ..storage.hub import find_checkpoint
    from .commands import save_picture

    folder = find_checkpoint(source, None, list(CLASSES), download=True)
    local = Path(source).is_dir()
    name = Path(source).name if local else source.partition("@")[0]
    known = KNOWN.get(name)
    options: dict[str, Any] = known.options if known else {"steps": 30, "guidance_scale": 7.5, "sampler": "own"}
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and options["steps"] > 1:
        print("Without a GPU this takes minutes a picture. MODEL=stabilityai/sd-turbo needs one step in place of thirty.")
    print("No safety filter runs here: look at the pictures before you show them.")
    models = load_checkpoint(folder, dtype=dtype)

    records: list[dict] = []
    for number, prompt in enumerate(PROMPTS, start=1):
        begin = time.perf_counter()
        picture = sample(models, [prompt], [SEED], **options)[0]
        seconds = round(time.perf_counter() - begin, 1)
        record = {
            "file": f"{number}.png",
            "prompt": prompt,
            "seed": SEED,
            "checkpoint": name,
            "revision": None if local else folder.name,  # the hub's cache names a folder by its commit
            **options,
            "height": picture.shape[0],
            "width": picture.shape[1],
            "seconds": seconds,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type}, {platform.machine()}",
            "precision": str(dtype).removeprefix("torch."),
            "versions": {module.__name__: module.__version__ for module in (diffusers, transformers, torch)},
        }
        records.append(record)
        save_picture(picture, out / record["file"])
        with disk_errors(out, "name another folder"):
            write_json(out / "pictures.json", records)
        print(f"wrote {out / record['file']}: {prompt!r}, seed {SEED}, {seconds} s")
    print(f"wrote {out / 'pictures.json'}: {name}, revision {records[0]['revision'] or 'none (a folder)'}")
    return records


def main(arguments: list[str] | None = None) -> int:
    """The command: status 0, or 2 and one sentence."""
    parser = argparse.ArgumentParser(prog="stable-diffusion", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=DEFAULT, help="OWNER/NAME, OWNER/NAME@REVISION or a folder")
    parser.add_argument("--out", default="stable-diffusion", help="folder for the pictures and pictures.json")
    given = parser.parse_args(arguments)
    try:
        draw_three(given.model, given.out)
    except UserError as error:
        print(f"stable-diffusion: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
