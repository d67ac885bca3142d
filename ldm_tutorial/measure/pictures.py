"""Pictures to measure: the scenes that a model is asked for, fresh renders of them, and pictures sampled for many prompts."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..curios import BACKGROUNDS, pairs, scene_at
from ..images import to_model, to_picture
from ..models import Models
from ..sampling import sample
from ..settings import Sampling

# How the measured pictures are sampled: guided in the middle of the run only (Kynkäänniemi et al. 2024). Guided in every
# step, they follow the prompt no better and lie further from renders (benchmarks/training.md).
EVAL_SAMPLING = Sampling("unipc", 20, 3.0, (0.15, 0.75))
ARTICLE_PROMPT = "3D render an avocado style armchair diffusing into latent space"


def expected_prompts(split: str, n: int) -> list[tuple[str, str, str]]:
    """n (object, material, background), every pair of a split equally often, every background as well."""
    every = pairs(split)
    return [(*every[i % len(every)], BACKGROUNDS[(i % len(every) + i // len(every)) % len(BACKGROUNDS)]) for i in range(n)]


def renders(wanted: list[tuple[str, str, str]], seed: int, progress: bool = True, size: int = 64) -> tuple[Tensor, Tensor]:
    """Fresh pictures uint8 [N, size, size, 3] and masks bool [N, size, size] of the wanted scenes, from other views for each
    seed."""
    from tqdm.auto import tqdm

    from ..curios.render import render

    every = pairs("all")
    scenes = []
    for k, (object, material, background) in enumerate(wanted):
        scene, _ = scene_at("all", every.index((object, material)) + len(every) * k, seed)
        scenes.append(replace(scene, background=background))
    images = torch.empty(len(scenes), size, size, 3, dtype=torch.uint8)
    masks = torch.empty(len(scenes), size, size, dtype=torch.bool)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for i, image, mask in tqdm(render(scenes, size, device), total=len(scenes), desc="render", disable=not progress):
        images[i], masks[i] = image, mask
    return images, masks


def sample_many(models: Models, prompts: list[str], first_seed: int, progress: bool = True, batch: int = 32, sampling: Sampling = EVAL_SAMPLING) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] for many prompts, seeds counting up from ``first_seed``."""
    from tqdm.auto import tqdm

    done = []
    for i in tqdm(range(0, len(prompts), batch), desc="sample", disable=not progress):
        some = prompts[i : i + batch]
        seeds = [first_seed + i + k for k in range(len(some))]
        done.append(torch.as_tensor(sample(models, some, seeds, sampling, progress=False)))
    return torch.cat(done)


def to_64(pictures: Tensor) -> Tensor:
    """Pictures uint8 [B, S, S, 3] of a smaller model, enlarged to what the judge reads: uint8 [B, 64, 64, 3]."""
    if pictures.shape[1] == 64:
        return pictures
    return to_picture(F.interpolate(to_model(pictures), size=(64, 64), mode="bilinear", antialias=True))
