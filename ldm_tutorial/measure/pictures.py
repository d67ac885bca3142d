"""Pictures to measure: the scenes that a model is asked for, fresh renders of them, and pictures sampled for many prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..curios import BACKGROUNDS, pairs, scene_at
from ..errors import UserError
from ..images import to_model, to_picture
from ..models import Models
from ..sampling import sample
from ..settings import DEFAULT_SAMPLING, Sampling
from ..text import check_prompt

ARTICLE_PROMPT = "3D render an avocado style armchair diffusing into latent space"
BATCH = 32  # pictures sampled together
FREE_WORDING = Path(__file__).parent / "free_wording.jsonl"


def expected_prompts(split: str, n: int) -> list[tuple[str, str, str]]:
    """As many (object, material, background), every pair of a split equally often, every background as well."""
    every = pairs(split)
    return [(*every[i % len(every)], BACKGROUNDS[(i % len(every) + i // len(every)) % len(BACKGROUNDS)]) for i in range(n)]


def free_wording(half: str) -> list[dict]:
    """Prompts in free wording, each ``{"prompt", "object", "material", "background"}`` (the background may be None): 200 for
    choices ("dev"), 200 that are only ever measured ("test").

    People wrote them who had not seen the grammar of the captions; they were fixed before the models that they measure were
    trained.
    """
    rows = [json.loads(line) for line in FREE_WORDING.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["half"] == half]


def renders(wanted: list[tuple[str, str, str]], seed: int, progress: bool = True, size: int = 64) -> tuple[Tensor, Tensor]:
    """Fresh pictures uint8 [N, size, size, 3] and masks bool [N, size, size] of the wanted scenes, from other views for each
    seed."""
    from ..curios.dataset import draw

    every = pairs("all")
    scenes = []
    for k, (object, material, background) in enumerate(wanted):
        scene, _ = scene_at("all", every.index((object, material)) + len(every) * k, seed)
        scenes.append(replace(scene, background=background))
    return draw(scenes, size, "cuda" if torch.cuda.is_available() else "cpu", progress)


def sample_many(
    models: Models,
    prompts: list[str],
    first_seed: int,
    progress: bool = True,
    sampling: Sampling = DEFAULT_SAMPLING,
    engine=None,
) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] for many prompts, seeds counting up from ``first_seed``. With an ``engine``
    (:class:`engine.Engine`) of the same model they are drawn by it, equal to 1 of 255."""
    from tqdm.auto import tqdm

    done = []
    for i in tqdm(range(0, len(prompts), BATCH), desc="sample", disable=not progress):
        some = prompts[i : i + BATCH]
        seeds = [first_seed + i + k for k in range(len(some))]
        if engine:
            drawn = engine.sample(some, seeds, sampling)
        else:
            drawn = sample(models, some, seeds, sampling, progress=False)
        done.append(torch.as_tensor(drawn))
    return torch.cat(done)


def accepted_prompt(prompt: str, tokenizer) -> str | None:
    """A prompt as `ldm generate` would draw it, or None where it would be refused."""
    try:
        return check_prompt(prompt, tokenizer)
    except UserError:
        return None


def to_64(pictures: Tensor) -> Tensor:
    """Pictures uint8 [B, S, S, 3] of a smaller model, enlarged to what the judge reads: uint8 [B, 64, 64, 3]."""
    if pictures.shape[1] == 64:
        return pictures
    return to_picture(F.interpolate(to_model(pictures), size=(64, 64), mode="bilinear", antialias=True))
