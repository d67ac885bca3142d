"""The baselines: small models that the notebooks compare with, all made by ``ldm train baselines``.

Each differs from another in one thing only (what it saw, how far it compresses, whether it has skip connections ...), so that
what comes out differently has one reason. :data:`BASELINES` says what each of them is: how it is built, what it is asked to
do, how long it learns and from what. Their loss curves are shipped too: :func:`training_curve`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..autoencoder import VAELoss
from ..clip import CLIPLoss
from ..diffusion import build_scheduler
from ..errors import UserError
from ..files import WEIGHTS, verify_checksums
from ..models import default_device
from ..storage.quiet import quiet
from ..training import Recipe
from .batches import (
    SEEN,
    SHARES,
    UNSEEN,
    LabelledLoss,
    SampleBatch,
    autoencoder_batches,
    caption_batches,
    diffusion_loss,
    label_batches,
    labelled_batches,
    latent_batches,
    picture_batches,
    pixel_batches,
)
from .networks import (
    NOISE,
    Generator,
    LabelledUNet,
    build_discriminator,
    build_small_clip,
    build_small_unet,
    build_small_vae,
    cut_skips,
)

__all__ = ["BASELINES", "FOLDER", "NOISE", "SHARES", "SHIPPED", "UNSEEN", "Baseline", "Generator", "build"]
__all__ += ["build_discriminator", "cut_skips", "find_baseline", "load_baseline", "scheduler_of", "training_curve"]

FOLDER = WEIGHTS.parent / "baselines"


@dataclass(frozen=True)
class Baseline:
    """What one small model is.

    ``build()`` returns the untrained model; ``loss(model)`` a module whose forward returns a scalar, or None for the GAN,
    whose two networks have a loop of their own; ``data(trainer, batch)`` a function that draws a batch (see
    :mod:`baselines.batches`).

    ``autoencoder``: whose latents it learns from, a baseline's name or "shipped". ``prediction_type``: what a diffusion model
    predicts. ``cut_skips``: whether its skip connections are cut. ``equal_time``: compared with the others of whom it is true
    after about equally many seconds of one core. ``shipped``: whether its weights are kept with the course. ``low_precision``:
    whether a CPU that can computes in bfloat16; the CLIPs, mostly attention, are five times slower so.
    """

    what: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module], nn.Module] | None
    recipe: Recipe
    data: Callable[..., SampleBatch]
    autoencoder: str | None = None
    prediction_type: str = "v_prediction"
    cut_skips: bool = False
    equal_time: bool = False
    shipped: bool = True
    low_precision: bool = True


KL_WEIGHT = 1e-7  # the shipped autoencoder's
STRONG_KL_WEIGHT = 3e-5
VAE_RECIPE = Recipe(1_200, 8, 1.5e-3, warmup=50, decay=0.6)


def _vae(
    what: str,
    channels: tuple[int, ...] = (16, 32, 64),
    latent_channels: int = 8,
    kl_weight: float = KL_WEIGHT,
    edge_weight: float = 2.0,
    materials: tuple[str, ...] | None = SEEN,
    recipe: Recipe = VAE_RECIPE,
    equal_time: bool = False,
) -> Baseline:
    side = 64 // 2 ** (len(channels) - 1)
    latent_shape = (latent_channels, side, side)
    return Baseline(
        what,
        build=partial(build_small_vae, channels, latent_channels),
        loss=partial(VAELoss, kl_weight=kl_weight, edge_weight=edge_weight),
        recipe=recipe,
        data=partial(autoencoder_batches, materials=materials, latent_shape=latent_shape),
        equal_time=equal_time,
    )


def _pair_model(share: int) -> Baseline:
    return Baseline(
        f"diffusion on latents (v), told three labels, that saw {share}% of the training pairs",
        build=LabelledUNet,
        loss=LabelledLoss,
        recipe=Recipe(1_100, 32, 2e-3, warmup=50, decay=0.6),
        data=partial(labelled_batches, share=share),
        autoencoder="shipped",
        shipped=False,
    )


def _clip(what: str, data: Callable[..., SampleBatch]) -> Baseline:
    recipe = Recipe(800, 128, 1e-3, warmup=40, decay=0.6)
    return Baseline(what, build_small_clip, CLIPLoss, recipe, data, low_precision=False)


def _unet(what: str, cut: bool) -> Baseline:
    return Baseline(
        what,
        build=partial(build_small_unet, 16, 8, (32, 32), attention=False),
        loss=partial(diffusion_loss, prediction_type="epsilon"),
        recipe=Recipe(1_100, 64, 2e-3, warmup=50, decay=0.6),
        data=partial(latent_batches, autoencoder="shipped"),
        autoencoder="shipped",
        prediction_type="epsilon",
        cut_skips=cut,
    )


BASELINES = {
    "vae-diverse": _vae("autoencoder of the shipped shape, f=4, every material but zebra and galaxy"),
    "vae-narrow": _vae("the same, as many pictures and steps, of gold alone", materials=("gold",)),
    "vae-f2": _vae("vae-diverse with each side halved once", channels=(16, 32)),
    "vae-f8": _vae("vae-diverse with each side halved three times", channels=(16, 32, 48, 32)),
    "vae-kl": _vae("vae-diverse at half the width", channels=(8, 16, 32)),
    "vae-nokl": _vae("vae-kl without the KL term", channels=(8, 16, 32), kl_weight=0.0),
    "vae-strongkl": _vae("vae-kl with 300 times its KL weight", channels=(8, 16, 32), kl_weight=STRONG_KL_WEIGHT),
    "vae-prior": _vae(
        "autoencoder, f=32, with so strong a KL term that N(0, 1) can be decoded",
        channels=(8, 16, 16, 32, 32, 40),
        latent_channels=32,
        kl_weight=2e-5,
        edge_weight=0.0,
        materials=None,
        recipe=Recipe(3_600, 16, 1.5e-3, warmup=50, decay=0.6),
        equal_time=True,
    ),
    "gan": Baseline(
        "a small GAN: a generator that was trained against a discriminator",
        build=Generator,
        loss=None,
        recipe=Recipe(4_600, 32, 4e-4, ema=0.998),
        data=picture_batches,
        equal_time=True,
    ),
    "latent": Baseline(
        "diffusion (v) on the latents of vae-diverse, no text; trained, autoencoder included, for the same time as pixel",
        build=partial(build_small_unet, 16, 8, (24, 48)),
        loss=diffusion_loss,
        recipe=Recipe(2_000, 32, 1.5e-3, warmup=50, decay=0.6),
        data=partial(latent_batches, autoencoder="vae-diverse"),
        autoencoder="vae-diverse",
        equal_time=True,
    ),
    "pixel": Baseline(
        "diffusion (v) on 64 x 64 pixels, no text",
        build=partial(build_small_unet, 64, 3, (16, 16, 32, 40)),
        loss=diffusion_loss,
        recipe=Recipe(890, 32, 1.5e-3, warmup=50, decay=0.6),
        data=pixel_batches,
        equal_time=True,
    ),
    "clip-labels": _clip("a small CLIP that read the object's name only", label_batches),
    "clip-captions": _clip("the same, that read whole captions", caption_batches),
    "unet-skips": _unet("diffusion on latents (epsilon), no text", cut=False),
    "unet-noskips": _unet("the same with its skip connections cut", cut=True),
    **{f"pairs-{share}": _pair_model(share) for share in SHARES},
}
SHIPPED = tuple(name for name, baseline in BASELINES.items() if baseline.shipped)


def find_baseline(name: str) -> Baseline:
    """What a baseline is, by its name.

    Raises:
        UserError: for an unknown name.
    """
    if name not in BASELINES:
        raise UserError(f"There is no baseline {name!r}: choose one of {', '.join(BASELINES)}.")
    return BASELINES[name]


def build(name: str) -> nn.Module:
    """A baseline before its training (for the two CLIPs: with the shipped tokenizer's vocabulary)."""
    baseline = find_baseline(name)
    model = baseline.build()
    return cut_skips(model) if baseline.cut_skips else model


def scheduler_of(name: str):
    """The noise schedule that a diffusion baseline was trained with: the course's own, predicting epsilon or v."""
    return build_scheduler(find_baseline(name).prediction_type)


# --- shipped files --------------------------------------------------------------------------------------------------


def _check_files(start: str, folder: Path) -> None:
    """Compare the files whose names begin with ``start`` with checksums.json."""
    try:
        damaged = list(verify_checksums(folder, start))
    except (OSError, ValueError):
        what = start.strip("/")
        raise UserError(f"{what} is not in {folder}: make it with `ldm train baselines --out {folder}`.") from None
    if damaged:
        cure = "run `git checkout -- ldm_tutorial/weights`, or train it again"
        raise UserError(f"{folder / damaged[0]} is missing or damaged: {cure}.")


def load_baseline(name: str, device: str | torch.device | None = None, folder: str | Path = FOLDER) -> nn.Module:
    """A trained baseline, in float32, ready for inference: ``AutoencoderKL``, ``UNet2DModel``, ``CLIPModel``,
    :class:`Generator` or :class:`LabelledUNet`. Its shape is what its folder says.

    Raises:
        UserError: for an unknown name, and for files that are missing or damaged.
    """
    baseline = find_baseline(name)
    _check_files(f"{name}/", Path(folder))
    kind: Any = type(baseline.build())  # a class of diffusers or transformers, or one like theirs
    with quiet():
        model = kind.from_pretrained(str(Path(folder) / name)).float()
    if baseline.cut_skips:
        cut_skips(model)
    return model.to(device or default_device()).requires_grad_(False).eval()


def training_curve(name: str, folder: str | Path = FOLDER) -> dict:
    """How a baseline was trained: ``losses`` (at most 200, evenly spaced, each the mean of the steps around it),
    ``seconds`` of one processor core, ``steps``, ``batch``, ``seed``, ``parameters`` and ``command``; for a model on latents
    also its ``autoencoder``, the ``encoding_seconds`` and the ``autoencoder_seconds`` that a baseline among them took.

    Raises:
        UserError: for an unknown name, and when the file is missing or damaged.
    """
    find_baseline(name)
    _check_files("curves.json", Path(folder))
    found = json.loads((Path(folder) / "curves.json").read_text(encoding="utf-8"))
    if name not in found:
        raise UserError(f"{name} is not in {folder}: make it with `ldm train baselines --out {folder}`.")
    return found[name]
