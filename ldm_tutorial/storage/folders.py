"""Folders that hold a checkpoint: may one be written here, are its files whole, is it of a kind that can be used?"""

from __future__ import annotations

import json
import mmap
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from ..files import WEIGHTS, check_place, check_utf8, verify_checksums, weights_fault
from .about import About, read_about

RESTORE = "restore them: `git checkout -- ldm_tutorial/weights`, or download the project again"
# The parts that have weights, and the classes that they may be of. A scheduler may be any of diffusers'.
CLASSES = {"vae": ("AutoencoderKL", "AutoencoderTiny"), "unet": ("UNet2DConditionModel",), "text_encoder": ("CLIPTextModel",)}
PARTS = (*CLASSES, "tokenizer", "scheduler")
PICKLES = "pickled ones (.bin) can run code and are never loaded"


def check_folder(folder: str | Path, marks: Iterable[str] = ("model_index.json",)) -> Path:
    """A place for a model: new, empty, or holding a model that may be replaced, known by one of the names in ``marks``.
    Nothing is made.

    Raises:
        UserError: for a folder that holds anything else, or that can't be written.
    """
    folder = Path(folder).absolute()  # "." has no name of its own
    check_place(folder)
    check_utf8(folder)
    model = any((folder / mark).exists() for mark in marks)
    if folder.exists() and not model and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} holds something else than a model: name a new folder for the model.")
    return folder


def check_replaced(folder: Path, about: About, option: str) -> None:
    """A model is to take the place of the one in ``folder``, if there is one: is that an earlier one of the same pictures?

    Raises:
        UserError: when it is any other, which would be lost; ``option`` names another folder.
    """
    if not (folder / "model_index.json").exists():
        return
    try:
        there = read_about(folder)
    except UserError:
        there = About()
    if (there.kind, there.data) != (about.kind, about.data):
        kinds = {"curios": "a model of Curios", "own pictures": "a model of other pictures or captions"}
        what = kinds.get(there.kind, "a model of unknown origin")
        raise UserError(f"{str(folder)!r} holds {what}, which would be lost: name another folder with {option}, or delete it.")


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


def check_fit(models) -> None:
    """Are the parts of a :class:`models.Models` of classes that can be used here, and do they fit each other?

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
    there: set[str] = set().union(*found)
    for variant in (first, "", "fp16", *sorted(there)):
        chosen = [weights.get(variant) or weights.get("", []) for weights in found]
        if variant in there and all(chosen):
            return variant, sum(chosen, [])
    return None


def weight_files(folder: Path) -> list[str]:
    """The safetensors files below a folder, relative to it. A link to nothing, as an interrupted copy leaves it, is none."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.safetensors")) if path.is_file()]


def damaged_weights(folder: Path) -> str | None:
    """The first safetensors file below a folder that is damaged, and how, and what to do."""
    for name in weight_files(folder):
        fault = weights_fault(folder / name)
        if fault:
            return f"{name} is {fault}: fetch or copy it again"
        try:
            with open(folder / name, "rb") as file:
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()
        except OSError as error:  # on some network disks
            return f"the disk can't map {name} into memory ({error.strerror}), as the library reads it: copy it to another disk"
    return None


def find_variant(folder: Path, parts: list[str]) -> str | None:
    """The variant of a folder's weights, as ``from_pretrained`` takes it."""
    files = weight_files(folder)
    chosen = choose_weights(files, parts)
    if chosen is None:
        lacking = [part for part in parts if not complete_weights(files, part)] or [""]
        raise UserError(f"There are no complete safetensors weights of one variant in {str(folder / lacking[0])!r}; {PICKLES}.")
    return chosen[0] or None
