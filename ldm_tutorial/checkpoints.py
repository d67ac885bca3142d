"""Checkpoints: saving a model as a folder that plain diffusers loads, and loading such folders of any origin.

A saved folder is a plain diffusers pipeline folder (``StableDiffusionPipeline.from_pretrained(folder)`` reads it without
this package) with two additions: ``clip/``, the whole CLIP model of which ``text_encoder/`` is one half, and
``checksums.json``. What a checkpoint says of itself is read, never assumed: prediction type, scaling factor, tokenizer,
sizes, scheduler. Only safetensors are loaded. Nothing is fetched unless ``download=True`` asks for it, and then by the full
id of one revision.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import diffusers
import torch
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from .errors import UserError
from .files import WEIGHTS, atomic_folder, disk_errors, write_checksums, write_json
from .models import Models, default_device
from .storage.about import About
from .storage.folders import CLASSES, check_files, check_fit, check_folder, check_layout, damaged_weights, find_variant
from .storage.hub import KNOWN, find_checkpoint
from .storage.quiet import quiet

__all__ = ["KNOWN", "WEIGHTS", "load_checkpoint", "load_clip", "load_models", "save_models"]

# What Stable Diffusion's pipeline can hold besides, and is left out here.
LEFT_OUT = {"safety_checker": None, "feature_extractor": None, "image_encoder": None, "requires_safety_checker": False}
LOCAL = {"use_safetensors": True, "local_files_only": True}


def save_models(models: Models, folder: str | Path, clip: CLIPModel | None = None, about: About | None = None) -> Path:
    """Write a folder that plain diffusers loads: fp16 tensors, safetensors only, with checksums. It is written beside its
    place and moved there when it is whole; a model that was there before goes then. ``about`` is what it says of itself.

    Raises:
        UserError: see :func:`check_folder`; and when the disk refuses.
    """
    folder = check_folder(folder)
    with disk_errors(folder, "name another folder for the model"), atomic_folder(folder) as scratch:
        _write(models, scratch, clip, about)
    return folder


def _write(models: Models, folder: Path, clip: CLIPModel | None, about: About | None) -> None:
    """The files of :func:`save_models`."""
    own = copy.deepcopy(models)  # neither half precision nor the pipeline may change the models given
    parts = {name: getattr(own, name) for name in CLASSES}
    with quiet():
        pipe = diffusers.StableDiffusionPipeline(tokenizer=own.tokenizer, scheduler=own.scheduler, **parts, **LEFT_OUT)
        if clip:
            parts["clip"] = copy.deepcopy(clip)
        for part in parts.values():
            part.half().to(memory_format=torch.contiguous_format)
        own.tokenizer.backend_tokenizer.no_padding()  # what the last call asked for is no part of the model
        own.tokenizer.backend_tokenizer.no_truncation()
        pipe.save_pretrained(folder)
        models.scheduler.save_pretrained(folder / "scheduler")  # the pipeline's has been changed
        if clip:
            parts["clip"].save_pretrained(folder / "clip")
    for name in parts:
        file = folder / name / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        if "dtype" in config:
            config["dtype"] = "float32"  # so that loaders compute in float32 on every machine
        write_json(file, config)
    if about:
        about.write(folder)
    write_checksums(folder)


def load_models(folder: str | Path = WEIGHTS, device: str | torch.device | None = None) -> Models:
    """Load a checkpoint's folder, ready for inference: one of this course, checksums first, or any other that diffusers
    reads as a text-to-image U-Net (Stable Diffusion 1 and 2 and what was made of them).

    Raises:
        UserError: for a folder without a model, with damaged files, or with a model of another kind.
    """
    return _load(Path(folder), {}, torch.float32, device)


def load_clip(folder: str | Path = WEIGHTS, device: str | torch.device | None = None) -> CLIPModel:
    """The whole CLIP model, both halves, in float32."""
    check_files(folder)
    with quiet():
        clip = CLIPModel.from_pretrained(str(folder), subfolder="clip", dtype=torch.float32)
    return clip.to(device or default_device()).requires_grad_(False).eval()


def _load(folder: Path, others: dict[str, Path], dtype: torch.dtype, device: str | torch.device | None) -> Models:
    """The parts of a checkpoint, some of them from other places, checked, on their device and ready for inference."""
    check_files(folder)
    check_layout(folder)
    variant = find_variant(folder, [name for name in CLASSES if name not in others])
    try:
        with quiet():
            replaced: dict = {}
            for name, place in others.items():
                replaced |= _load_part(name, place)
            pipe = diffusers.StableDiffusionPipeline.from_pretrained(
                str(folder), variant=variant, **LOCAL, **LEFT_OUT, **replaced
            )
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        place, reason = folder, damaged_weights(folder)
        for other in others.values():
            place, reason = (place, reason) if reason else (other, damaged_weights(other))
        place = place if reason else folder
        raise UserError(f"The model in {str(place)!r} can't be loaded: {reason or said}.") from None
    scheduler = type(pipe.scheduler).from_pretrained(str(folder / "scheduler"))  # as it is: the pipeline has changed its own
    models = Models(pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer, scheduler)
    check_fit(models)
    longest = models.text_encoder.config.max_position_embeddings
    models.tokenizer.model_max_length = min(models.tokenizer.model_max_length, longest)  # some tokenizers name no length
    for part in (models.vae, models.unet, models.text_encoder):
        torch.nn.Module.to(part, dtype)  # diffusers' own method warns of layers to keep in float32, of which these have none
    models.to(device or default_device()).for_inference()
    models.unet.to(memory_format=torch.channels_last)  # the same numbers; its convolutions run 5 to 10% faster on a CPU
    return models


def _load_part(name: str, place: Path) -> dict:
    """One part of a checkpoint, alone in a folder or in a checkpoint's; a text encoder comes with its tokenizer."""
    home = place / name if (place / name).is_dir() else place
    options = {**LOCAL, "variant": find_variant(home, [""])}
    if name == "vae":
        return {"vae": diffusers.AutoModel.from_pretrained(str(home), **options)}
    words = place / "tokenizer" if (place / "tokenizer").is_dir() else place
    text_encoder = CLIPTextModel.from_pretrained(str(home), **options)
    return {"text_encoder": text_encoder, "tokenizer": CLIPTokenizer.from_pretrained(str(words))}


def load_checkpoint(
    source: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    revision: str | None = None,
    download: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Models:
    """A folder or hub id of a diffusers text-to-image checkpoint -> the joined system, ready for inference.

    ``vae`` and ``text_encoder`` (with its tokenizer) take the place of the checkpoint's own: a folder of the part alone or of a
    checkpoint that holds it, or a hub id of the part. ``revision`` is the full commit id, which may also follow an id after
    "@"; those of :data:`KNOWN` are known. Without one, ``download`` looks up the current one and prints its id.
    ``dtype`` is the precision to compute in: float16 halves the memory on a GPU.

    Raises:
        UserError: for a checkpoint of another kind, parts that don't fit, pickled weights, or one that can't be fetched.
    """
    folder = find_checkpoint(source, revision, list(CLASSES), download)
    others = {"vae": vae, "text_encoder": text_encoder}
    places = {name: find_checkpoint(other, None, [""], download) for name, other in others.items() if other is not None}
    return _load(folder, places, dtype, device)
