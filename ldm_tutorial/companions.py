"""The companions: small models that the notebooks compare with, all made by ``ldm train companions`` and shipped.

Each differs from another in one thing only (what it saw, how far it compresses, whether it has skip connections ...),
so that what comes out differently has one reason. What each of them is stands in :data:`COMPANIONS`, as data: how it is built,
what it is asked to do, how long it learns and from what. Their loss curves are shipped too: :func:`curve`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .curios import BACKGROUNDS, MATERIALS, OBJECTS, Curios, pairs, scene_at, to_model
from .curios.captions import article
from .errors import UserError
from .files import damage, seal, sha256, whole, write_json
from .models import WEIGHTS, build_clip, build_scheduler, build_vae, default_device
from .training import (
    SEED,
    CLIPLoss,
    Recipe,
    VAELoss,
    _cpu_bfloat16,
    cpu_has_bfloat16,
    digest,
    fit,
    flat,
    generator,
    restore,
)  # fmt: skip

FOLDER = WEIGHTS.parent / "companions"
RENDERS = 16_384
LATENTS = 4_096  # pictures whose latents the unconditional latent models learn from
PAIR_PICTURES = 4_096  # pictures that each of the models learns from that saw only some of the pairs
UNSEEN = ("zebra", "galaxy")  # materials that none of the compared autoencoders ever sees
SHARES = (10, 25, 50, 75, 100)  # percent of the training pairs
SAVE_EVERY = 100  # steps between checkpoints of the GAN
NOISE = 64  # numbers that the GAN's generator starts from
NO_LABEL = len(OBJECTS) + len(MATERIALS) + len(BACKGROUNDS)  # the label that means: nothing is said


# --- networks that are not the libraries' -----------------------------------------------------------------------------


class Generator(ModelMixin, ConfigMixin):
    """The generator of a GAN (Goodfellow et al. 2014), convolutional as in Radford et al. 2016.

    Noise [B, 64] of N(0, 1) -> pictures [B, 3, 64, 64] in -1..1; 0.3 M parameters.
    """

    @register_to_config
    def __init__(self, width: int = 16):
        super().__init__()
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(NOISE, 8 * width, 4, bias=False),  # 1 x 1 -> 4 x 4
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
        ]
        for channels in (8 * width, 4 * width, 2 * width):  # each doubles the side: 8, 16, 32
            layers.append(nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(channels // 2))
            layers.append(nn.ReLU())
        layers.append(nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1))
        layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise[:, :, None, None])


def build_discriminator(width: int = 24) -> nn.Module:
    """The other network of the GAN: pictures [B, 3, 64, 64] -> logits [B, 1, 1, 1], above 0 where it takes them for real.

    Spectral normalisation keeps it from winning too soon (Miyato et al. 2018). It is thrown away after training.
    """
    layers: list[nn.Module] = []
    sizes = [3, width, 2 * width, 4 * width, 8 * width]
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers.append(spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)))
        layers.append(nn.LeakyReLU(0.1))
    layers.append(spectral_norm(nn.Conv2d(8 * width, 1, 4)))
    return nn.Sequential(*layers)


class LabelledUNet(ModelMixin, ConfigMixin):
    """A small U-Net on latents that is told object, material and background as three labels.

    Each label has an embedding; their sum is added to the timestep's (diffusers' ``class_embed_type="identity"``). So what
    it knows of *avocado* and of *armchair* it must put together by itself. Latents [B, 8, 16, 16], timesteps [B] and labels
    [B, 3] (see :func:`label_ids`) -> v [B, 8, 16, 16].
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (32, 64)):
        super().__init__()
        self.unet = build_small_unet(16, 8, tuple(channels), class_embed_type="identity")
        self.labels = nn.Embedding(NO_LABEL + 1, 4 * channels[0])  # as wide as the timestep's embedding

    def forward(self, latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        told = self.labels(labels).sum(1)
        return self.unet(latents, timesteps, class_labels=told).sample


def label_ids(objects: Tensor, materials: Tensor, backgrounds: Tensor) -> Tensor:
    """Indices [B] into OBJECTS, MATERIALS and BACKGROUNDS -> labels [B, 3] of :class:`LabelledUNet`."""
    return torch.stack([objects, len(OBJECTS) + materials, len(OBJECTS) + len(MATERIALS) + backgrounds], 1)


def build_small_unet(side: int, depth: int, channels: tuple[int, ...], attention: bool = True, **options) -> UNet2DModel:
    """diffusers' U-Net without text on [B, depth, side, side], one block a level, self-attention at the lowest level only."""
    plain = len(channels) - 1
    lowest = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=side, in_channels=depth, out_channels=depth, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + (f"{lowest}DownBlock2D",),
        up_block_types=(f"{lowest}UpBlock2D",) + ("UpBlock2D",) * plain,
        add_attention=attention, attention_head_dim=8, norm_num_groups=8, **options,
    )  # fmt: skip


def cut_skips(unet: nn.Module) -> nn.Module:
    """Let zeros arrive where a ``UNet2DModel``'s up blocks expect what the down blocks saw: same class, same parameters."""

    def cut(block, inputs):
        hidden, skips, *rest = inputs
        return hidden, tuple(torch.zeros_like(s) for s in skips), *rest

    for block in unet.up_blocks:
        block.register_forward_pre_hook(cut)
    return unet


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


def _build_vae(channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    return build_vae(latent_channels, channels).to(memory_format=torch.channels_last)  # faster on a CPU with bfloat16


def _build_small_clip() -> nn.Module:
    return build_clip(_tokenizer(), width=48, text_layers=2, vision_layers=3)


# --- losses -----------------------------------------------------------------------------------------------------------


class UnconditionalLoss(nn.Module):
    """Mean squared error of a U-Net that is told the timestep and nothing else; the scheduler says whether it predicts
    the noise (epsilon; Ho et al. 2020, eq. 14) or v (Salimans and Ho 2022)."""

    def __init__(self, unet: nn.Module, scheduler):
        super().__init__()
        self.unet, self.scheduler = unet, scheduler

    def forward(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        epsilon = self.scheduler.config.prediction_type == "epsilon"
        target = noise if epsilon else self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps).sample, target)


class LabelledLoss(nn.Module):
    """Mean squared error of v, as predicted by a :class:`LabelledUNet`."""

    def __init__(self, unet: nn.Module, scheduler):
        super().__init__()
        self.unet, self.scheduler = unet, scheduler

    def forward(self, clean: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        target = self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, labels), target)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from the discriminator's logits (Goodfellow et al. 2014, eq. 1)."""
    return (F.softplus(-real) + F.softplus(fake)).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): the generator maximises log D(G(z)), as Goodfellow et al. 2014 advise in section 3."""
    return F.softplus(-fake).mean()


def _diffusion_scheduler(prediction_type: str):
    return build_scheduler().from_config(build_scheduler().config, prediction_type=prediction_type)


def _unconditional_loss(prediction_type: str, unet: nn.Module) -> nn.Module:
    return UnconditionalLoss(unet, _diffusion_scheduler(prediction_type))


def _labelled_loss(unet: nn.Module) -> nn.Module:
    return LabelledLoss(unet, _diffusion_scheduler("v_prediction"))


# --- what they learn from: functions of the training and the batch size that return a function of a random stream ------


def equal_pictures(data: Curios, materials: tuple[str, ...]) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] of some materials, always as many as there are of gold: no autoencoder that is compared
    sees more of them than another."""
    kinds = list(MATERIALS)
    count = int((data.materials == kinds.index("gold")).sum())
    chosen = torch.isin(data.materials, torch.tensor([kinds.index(name) for name in materials]))
    return data.images[chosen][:count]


def _autoencoder_batches(pictures: Callable[[Companions], Tensor], latent_shape: tuple[int, int, int], work, batch: int):
    images = pictures(work)

    def draw(g):
        rows = torch.randint(len(images), (batch,), generator=g)
        return {"images": to_model(images[rows]), "noise": torch.randn(batch, *latent_shape, generator=g)}

    return draw


def _compared_pictures(materials: tuple[str, ...], work: Companions) -> Tensor:
    return equal_pictures(work.data, materials)


def _all_pictures(work: Companions) -> Tensor:
    return work.data.images


def _noised(clean: Tensor, g: torch.Generator) -> dict[str, Tensor]:
    """Clean tensors with the noise and the timesteps of one training step."""
    timesteps = torch.randint(build_scheduler().config.num_train_timesteps, (len(clean),), generator=g)
    return {"clean": clean, "noise": torch.randn(clean.shape, generator=g), "timesteps": timesteps}


def _pixel_batches(work: Companions, batch: int):
    images = work.data.images

    def draw(g):
        rows = torch.randint(len(images), (batch,), generator=g)
        return _noised(to_model(images[rows]), g)

    return draw


def _latent_batches(autoencoder: str, work: Companions, batch: int):
    latents = work.latents(autoencoder)

    def draw(g):
        rows = torch.randint(len(latents), (batch,), generator=g)
        return _noised(latents[rows], g)

    return draw


def _labelled_batches(share: int, work: Companions, batch: int):
    latents, labels = work.labelled_latents(share)

    def draw(g):
        rows = torch.randint(len(latents), (batch,), generator=g)
        silent = torch.rand(batch, generator=g) < 0.1  # label dropout: what guidance needs
        told = labels[rows].masked_fill(silent[:, None], NO_LABEL)
        return {**_noised(latents[rows], g), "labels": told}

    return draw


def label_text(name: str) -> str:
    """An object's label: "a mug"; both bats are "a bat", as a label would have it."""
    return article("bat" if name.endswith(" bat") else name)


def _clip_batches(captions: bool, work: Companions, batch: int):
    data = work.data
    texts = data.captions if captions else [label_text(OBJECTS[i]) for i in data.objects.tolist()]
    ids = _tokenizer()(texts, padding="longest", return_tensors="pt").input_ids

    def draw(g):
        rows = torch.randint(len(ids), (batch,), generator=g)
        return {"images": to_model(data.images[rows]), "input_ids": ids[rows]}

    return draw


def pair_order() -> list[tuple[str, str]]:
    """The training pairs in the fixed random order in which shares of them are taken: first pairs that make every object and
    every material occur (a label that was never seen can mean nothing), then the others."""
    shuffled = pairs("train")
    random.Random(SEED).shuffle(shuffled)
    first: list[tuple[str, str]] = []
    for needed in (2, 1):  # pairs that bring a new object and a new material, then pairs that bring one of the two
        for pair in shuffled:
            new_object = pair[0] not in {p[0] for p in first}
            new_material = pair[1] not in {p[1] for p in first}
            if new_object + new_material >= needed:
                first.append(pair)
    return first + [pair for pair in shuffled if pair not in first]


def pair_scenes(share: int) -> list[int]:
    """Numbers of the scenes of the split "train" that a model learns from that sees ``share`` percent of the pairs:
    ``PAIR_PICTURES`` of them, every pair equally often."""
    every = pairs("train")
    chosen = pair_order()[: round(len(every) * share / 100)]
    numbers = []
    for k in range(PAIR_PICTURES):
        pair, view = chosen[k % len(chosen)], k // len(chosen)
        numbers.append(every.index(pair) + len(every) * view)
    return numbers


# --- what each of them is ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """One small model: how it is built, what it is asked to do, how long it learns and from what.

    ``build()`` returns the untrained model, ``loss(model)`` a module whose forward returns a scalar (None for the GAN, whose
    two networks have a loop of their own), ``data(work, batch)`` a function that draws a batch from a random stream.
    ``autoencoder``: whose latents it learns from, a companion's name or "shipped". ``prediction_type``: what a diffusion model
    predicts. ``equal_time``: compared with the others of whom it is true after equally many seconds of one core. ``shipped``:
    whether its weights are kept with the course. ``bfloat16``: whether a CPU that can computes in bfloat16; the CLIPs, mostly
    attention, are five times slower so.
    """

    what: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module], nn.Module] | None
    recipe: Recipe
    data: Callable[[Companions, int], Callable[[torch.Generator], dict[str, Tensor]]]
    autoencoder: str | None = None
    prediction_type: str = "v_prediction"
    cut_skips: bool = False
    equal_time: bool = False
    shipped: bool = True
    bfloat16: bool = True


SEEN = tuple(name for name in MATERIALS if name not in UNSEEN)
VAE_RECIPE = Recipe(1_200, 8, 1.5e-3, warmup=50, decay=0.6)
KL_WEIGHT = 1e-7  # the shipped autoencoder's
STRONG_KL_WEIGHT = 3e-5


def _autoencoder(
    what: str,
    channels: tuple[int, ...] = (16, 32, 64),
    latent_channels: int = 8,
    kl_weight: float = KL_WEIGHT,
    edge_weight: float = 2.0,
    pictures: Callable[[Companions], Tensor] = partial(_compared_pictures, SEEN),
    recipe: Recipe = VAE_RECIPE,
    **options,
) -> Baseline:
    side = 64 // 2 ** (len(channels) - 1)
    return Baseline(
        what,
        partial(_build_vae, channels, latent_channels),
        partial(VAELoss, kl_weight=kl_weight, edge_weight=edge_weight),
        recipe,
        partial(_autoencoder_batches, pictures, (latent_channels, side, side)),
        **options,
    )


def _unet_on_latents(what: str, cut: bool) -> Baseline:
    return Baseline(
        what,
        partial(build_small_unet, 16, 8, (16, 32), attention=False),
        partial(_unconditional_loss, "epsilon"),
        Recipe(500, 64, 2e-3, warmup=30),
        partial(_latent_batches, "shipped"),
        autoencoder="shipped",
        prediction_type="epsilon",
        cut_skips=cut,
    )


def _pair_model(share: int) -> Baseline:
    return Baseline(
        f"diffusion on latents, told three labels, that saw {share}% of the training pairs",
        LabelledUNet,
        _labelled_loss,
        Recipe(1_100, 32, 2e-3, warmup=50, decay=0.6),
        partial(_labelled_batches, share),
        autoencoder="shipped",
        shipped=False,
    )


COMPANIONS = {
    "vae-diverse": _autoencoder("autoencoder of the shipped shape, f=4, every material but zebra and galaxy"),
    "vae-narrow": _autoencoder(
        "the same, as many pictures and steps, of gold alone", pictures=partial(_compared_pictures, ("gold",))
    ),
    "vae-f2": _autoencoder("vae-diverse with each side halved once", channels=(16, 32)),
    "vae-f8": _autoencoder("vae-diverse with each side halved three times", channels=(16, 32, 48, 32)),
    "vae-kl": _autoencoder("vae-diverse at half the width", channels=(8, 16, 32)),
    "vae-nokl": _autoencoder("vae-kl without the KL term", channels=(8, 16, 32), kl_weight=0.0),
    "vae-strongkl": _autoencoder("vae-kl with 300 times its KL weight", channels=(8, 16, 32), kl_weight=STRONG_KL_WEIGHT),
    "vae-prior": _autoencoder(
        "autoencoder, f=32, with so strong a KL term that N(0, 1) can be decoded",
        channels=(8, 16, 16, 32, 32, 40),
        latent_channels=32,
        kl_weight=2e-5,
        edge_weight=0.0,
        pictures=_all_pictures,
        recipe=Recipe(3_600, 16, 1.5e-3, warmup=50, decay=0.6),
        equal_time=True,
    ),
    "gan": Baseline(
        "a small GAN: a generator that was trained against a discriminator",
        Generator,
        None,
        Recipe(4_600, 32, 4e-4, ema=0.998),
        _pixel_batches,
        equal_time=True,
    ),
    "latent": Baseline(
        "diffusion (v) on the latents of vae-diverse, no text; trained, autoencoder included, for the same time as pixel",
        partial(build_small_unet, 16, 8, (24, 48)),
        partial(_unconditional_loss, "v_prediction"),
        Recipe(2_000, 32, 1.5e-3, warmup=50, decay=0.6),
        partial(_latent_batches, "vae-diverse"),
        autoencoder="vae-diverse",
        equal_time=True,
    ),
    "pixel": Baseline(
        "diffusion (v) on 64 x 64 pixels, no text",
        partial(build_small_unet, 64, 3, (16, 16, 32, 40)),
        partial(_unconditional_loss, "v_prediction"),
        Recipe(890, 32, 1.5e-3, warmup=50, decay=0.6),
        _pixel_batches,
        equal_time=True,
    ),
    **{f"pairs-{share}": _pair_model(share) for share in SHARES},
    "clip-labels": Baseline(
        "a small CLIP that read the object's name only",
        _build_small_clip,
        CLIPLoss,
        Recipe(700, 128, 1e-3, warmup=40),
        partial(_clip_batches, False),
        bfloat16=False,
    ),
    "clip-captions": Baseline(
        "the same, that read whole captions",
        _build_small_clip,
        CLIPLoss,
        Recipe(700, 128, 1e-3, warmup=40),
        partial(_clip_batches, True),
        bfloat16=False,
    ),
    "unet-skips": _unet_on_latents("diffusion on latents (epsilon), no text", cut=False),
    "unet-noskips": _unet_on_latents("the same with its skip connections cut", cut=True),
}
SHIPPED = tuple(name for name, baseline in COMPANIONS.items() if baseline.shipped)


def _known(name: str) -> Baseline:
    if name not in COMPANIONS:
        raise UserError(f"There is no companion {name!r}: choose one of {', '.join(COMPANIONS)}.")
    return COMPANIONS[name]


def build(name: str) -> nn.Module:
    """A companion before its training (for the two CLIPs: with the shipped tokenizer's vocabulary).

    Raises:
        UserError: for an unknown name.
    """
    baseline = _known(name)
    model = baseline.build()
    return cut_skips(model) if baseline.cut_skips else model


def scheduler_of(name: str):
    """The noise schedule that a diffusion companion was trained with: the course's own, predicting epsilon or v.

    Raises:
        UserError: for an unknown name.
    """
    return _diffusion_scheduler(_known(name).prediction_type)


# --- shipped files --------------------------------------------------------------------------------------------------


def _checked(start: str, folder: Path) -> None:
    """Compare the files whose names begin with ``start`` with checksums.json."""
    try:
        damaged = list(damage(folder, start))
    except (OSError, ValueError):
        what = start.strip("/")
        raise UserError(f"{what} is not in {folder}: make it with `ldm train companions --out {folder}`.") from None
    if damaged:
        cure = "run `git checkout -- ldm_tutorial/weights`, or train it again"
        raise UserError(f"{folder / damaged[0]} is missing or damaged: {cure}.")


def load_companion(name: str, device: str | torch.device | None = None, folder: str | Path = FOLDER) -> nn.Module:
    """A trained companion, in float32, ready for inference: ``AutoencoderKL``, ``UNet2DModel``, ``CLIPModel`` or
    :class:`Generator`.

    Raises:
        UserError: for an unknown name, and for files that are missing or damaged.
    """
    from transformers.utils import logging

    baseline = _known(name)
    _checked(f"{name}/", Path(folder))
    logging.disable_progress_bar()
    model = type(baseline.build()).from_pretrained(str(Path(folder) / name)).float()
    if baseline.cut_skips:
        cut_skips(model)
    return model.to(device or default_device()).requires_grad_(False).eval()


def curve(name: str, folder: str | Path = FOLDER) -> dict:
    """How a companion was trained: ``losses`` (at most 200, evenly spaced, each the mean of the steps around it),
    ``seconds`` of one processor core, ``steps``, ``batch``, ``seed``, ``parameters``, ``command`` and a digest of the
    ``source``; for a model on latents also ``encoding_seconds`` and the ``autoencoder_seconds`` that its autoencoder took.

    Raises:
        UserError: for an unknown name, and when the file is missing or damaged.
    """
    _known(name)
    _checked("curves.json", Path(folder))
    found = json.loads((Path(folder) / "curves.json").read_text(encoding="utf-8"))
    if name not in found:
        raise UserError(f"{name} is not in {folder}: make it with `ldm train companions --out {folder}`.")
    return found[name]


def save_companion(name: str, model: nn.Module, record: dict, folder: str | Path) -> None:
    """Put a companion (fp16) and the record of its training into a folder, whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    half = copy.deepcopy(model).cpu().half().to(memory_format=torch.contiguous_format)
    half.save_pretrained(scratch, safe_serialization=True)
    config = json.loads((scratch / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
    if "dtype" in config:
        config["dtype"] = "float32"  # loaders compute in float32
    write_json(scratch / "config.json", config)
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(scratch, folder / name)
    curves = json.loads((folder / "curves.json").read_text()) if (folder / "curves.json").exists() else {}
    curves[name] = record
    write_json(folder / "curves.json", {known: curves[known] for known in COMPANIONS if known in curves})
    seal(folder)


# --- training -------------------------------------------------------------------------------------------------------


class Companions:
    """Trains companions in ``folder`` (checkpoints) into ``out``; those that are not shipped stay in ``folder/not_shipped``.

    ``scale`` multiplies steps and renders; ``vae`` is the folder of the shipped autoencoder; ``seed`` decides initial weights
    and batches (the pictures stay the same).
    """

    def __init__(
        self,
        folder: str | Path,
        out: str | Path,
        scale: float = 1.0,
        vae: str | Path = WEIGHTS / "vae",
        seed: int = SEED,
    ):
        self.folder, self.out, self.scale, self.vae, self.seed = Path(folder), Path(out), scale, Path(vae), seed
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def data(self) -> Curios:
        return Curios("train", min(RENDERS, max(256, round(RENDERS * self.scale))), SEED)

    def place(self, name: str) -> Path:
        """The folder that a companion is saved in."""
        return self.out if _known(name).shipped else self.folder / "not_shipped"

    def recipe(self, name: str) -> Recipe:
        """A companion's recipe, scaled, with this training's seed."""
        before = _known(name).recipe
        return dataclasses.replace(before, steps=max(2, round(before.steps * self.scale)), seed=self.seed)

    def autoencoder(self, name: str) -> tuple[AutoencoderKL, str]:
        """The autoencoder ("shipped", or a companion that is trained already) and a digest of its weights."""
        if name == "shipped":
            vae = AutoencoderKL.from_pretrained(str(self.vae), torch_dtype=torch.float32).to(default_device())
            return vae, sha256(self.vae / "diffusion_pytorch_model.safetensors")
        vae = load_companion(name, folder=self.out)
        return vae, sha256(self.out / name / "diffusion_pytorch_model.safetensors")

    def latents(self, autoencoder: str) -> Tensor:
        """Scaled latents [N, C, 16, 16] of the first pictures; the seconds that encoding took are kept beside them."""
        return self._encoded(f"latents-{autoencoder}", autoencoder, lambda: self.data.images[:LATENTS])

    def labelled_latents(self, share: int) -> tuple[Tensor, Tensor]:
        """Scaled latents [N, 8, 16, 16] and labels [N, 3] of pictures of a share (percent) of the training pairs."""
        numbers = pair_scenes(share)
        scenes = [scene_at("train", i, SEED)[0] for i in numbers]
        objects = torch.tensor([OBJECTS.index(s.object) for s in scenes])
        materials = torch.tensor([list(MATERIALS).index(s.material) for s in scenes])
        backgrounds = torch.tensor([BACKGROUNDS.index(s.background) for s in scenes])
        latents = self._encoded(f"latents-pairs-{share}", "shipped", lambda: self._pictures(numbers))
        return latents, label_ids(objects, materials, backgrounds)

    def _pictures(self, numbers: list[int]) -> Tensor:
        """Pictures uint8 [N, 64, 64, 3] of scenes of the split "train"; what is not in the data set is rendered."""
        from .curios.render import render

        images = torch.empty(len(numbers), 64, 64, 3, dtype=torch.uint8)
        places = []
        for place, number in enumerate(numbers):
            if number < len(self.data):
                images[place] = self.data.images[number]
            else:
                places.append(place)
        scenes = [scene_at("train", numbers[place], SEED)[0] for place in places]
        for i, image, _ in render(scenes, 64, "cuda" if torch.cuda.is_available() else "cpu"):
            images[places[i]] = image
        return images

    @torch.no_grad()
    def _encoded(self, file: str, autoencoder: str, pictures: Callable[[], Tensor]) -> Tensor:
        """Scaled latents of pictures, read from the run's folder or computed and put there."""
        vae, origin = self.autoencoder(autoencoder)
        path = self.folder / f"{file}.safetensors"
        try:
            with safe_open(path, "pt") as f:
                if f.metadata()["origin"] == origin:
                    return f.get_tensor("latents")
        except (OSError, SafetensorError, KeyError, TypeError):
            pass  # absent or damaged: compute it again
        images = pictures()
        start = time.process_time()
        parts = [vae.encode(to_model(some).to(vae.device)).latent_dist.mode() for some in images.split(64)]
        latents = (torch.cat(parts).cpu() * vae.config.scaling_factor).contiguous()
        seconds = time.process_time() - start
        with whole(path) as scratch:
            save_file({"latents": latents}, scratch, {"origin": origin, "seconds": f"{seconds:.1f}"})
        return latents

    def train(self, name: str, progress: bool = True) -> None:
        """Train (or go on with) one companion and put it among the others."""
        baseline, recipe = _known(name), self.recipe(name)
        torch.manual_seed(self.seed)
        model = build(name)
        clock = _Clock(self.folder / f"{name}.clock.json")
        draw = baseline.data(self, recipe.batch)
        losses = self.teach(name, model, draw, recipe, clock, progress)
        if len(losses) < recipe.steps:
            raise UserError(f"{name} was stopped at step {len(losses)} of {recipe.steps}: the same command goes on from there.")
        if isinstance(model, AutoencoderKL):
            _measure_scale(model, draw)
        every = -(-len(losses) // 200)
        thin = [round(part.mean().item(), 4) for part in torch.as_tensor(losses).split(every)]
        source = digest(*(Path(__file__).with_name(f"{f}.py").read_text() for f in ("companions", "models", "training")))
        record = {"losses": thin, "seconds": round(clock.seconds[-1]), "steps": recipe.steps, "batch": recipe.batch}
        if baseline.autoencoder:
            record |= self._autoencoder_costs(name)
        record |= {"seed": self.seed, "parameters": sum(p.numel() for p in model.parameters())}
        record |= {"command": "ldm train companions", "source": source}
        save_companion(name, model, record, self.place(name))

    def teach(self, name: str, model: nn.Module, draw, recipe: Recipe, on_step: Callable[[int, float], None], progress: bool):
        """The losses [steps] of one training, checkpointed in the run's folder; the model is left with averaged weights."""
        baseline = _known(name)
        learnt_from = [_dataset_version(), str(self.scale), baseline.what]
        if baseline.autoencoder:
            learnt_from.append(self.autoencoder(baseline.autoencoder)[1])
        about = digest(*learnt_from)
        if baseline.loss is None:
            return self._adversarial(name, model, draw, recipe, on_step, progress, about)
        options = {"on_step": on_step, "about": about, "cpu_bfloat16": baseline.bfloat16}
        return fit(name, baseline.loss(model), draw, recipe, self.folder, progress, **options)

    def _autoencoder_costs(self, name: str) -> dict:
        """What a model on latents owes to its autoencoder, in seconds of one core (the shipped one's training is not among
        what is compared, and is not counted)."""
        autoencoder = _known(name).autoencoder
        share = name.removeprefix("pairs-")
        file = f"latents-pairs-{share}" if share != name else f"latents-{autoencoder}"
        with safe_open(self.folder / f"{file}.safetensors", "pt") as f:
            costs = {"autoencoder": autoencoder, "encoding_seconds": round(float(f.metadata()["seconds"]))}
        if autoencoder != "shipped":
            costs["autoencoder_seconds"] = curve(autoencoder, self.out)["seconds"]
        return costs

    def _adversarial(
        self, name: str, model: nn.Module, draw, recipe: Recipe, on_step, progress: bool, about: str
    ) -> list[float]:
        """Two optimisers, so a loop of its own; it is checkpointed and resumed as ``fit`` does. Leaves the averaged weights
        in the generator and returns its losses.

        Raises:
            UserError: when the folder holds a run with other settings.
        """
        from tqdm.auto import tqdm

        device = default_device()
        precise = _cpu_bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else nullcontext
        maker = model.to(device).train().to(memory_format=torch.channels_last)
        discriminator = build_discriminator().to(device).to(memory_format=torch.channels_last)
        average = AveragedModel(maker, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        maker_adam = torch.optim.Adam(maker.parameters(), recipe.lr, betas=(0.5, 0.99))
        discriminator_adam = torch.optim.Adam(discriminator.parameters(), recipe.lr, betas=(0.5, 0.99))
        parts = {"generator": maker, "discriminator": discriminator, "average": average}
        parts |= {"generator_adam": maker_adam, "discriminator_adam": discriminator_adam}
        path, losses = self.folder / f"{name}.safetensors", []
        settings = json.dumps({"name": name, **dataclasses.asdict(recipe), "about": about})
        if path.exists():
            with safe_open(path, "pt") as f:
                found = (f.metadata() or {}).get("settings")
            if found != settings:
                raise UserError(
                    f"{path} belongs to a run with other settings: choose another folder, or delete it to start again."
                )
            state = load_file(path)
            losses = state.pop("losses").tolist()
            for key, part in parts.items():
                restore(part, {k.removeprefix(f"{key}/"): v for k, v in state.items() if k.startswith(f"{key}/")})
        steps = range(len(losses), recipe.steps)
        for step in tqdm(steps, initial=len(losses), total=recipe.steps, desc=f"train {name}", disable=not progress):
            g = generator(recipe.seed, step)
            real = draw(g)["clean"].to(device)
            noise = torch.randn(recipe.batch, NOISE, generator=g).to(device)

            with precise():
                fake = maker(noise)
                loss = discriminator_loss(discriminator(real).float(), discriminator(fake.detach()).float())
            discriminator_adam.zero_grad()
            loss.backward()
            discriminator_adam.step()

            with precise():
                loss = generator_loss(discriminator(fake).float())
            maker_adam.zero_grad()
            loss.backward()
            maker_adam.step()
            average.update_parameters(maker)

            losses.append(loss.item())
            on_step(step, losses[-1])
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.steps:
                state = {f"{key}/{k}": v.cpu().contiguous() for key, part in parts.items() for k, v in flat(part).items()}
                with whole(path) as scratch:
                    state["losses"] = torch.tensor(losses, dtype=torch.float64)
                    save_file(state, scratch, {"settings": settings})
        model.load_state_dict(average.module.state_dict())
        model.eval()
        return losses


def _dataset_version() -> str:
    from .curios.dataset import _version

    return _version()


@torch.no_grad()
def _measure_scale(vae: AutoencoderKL, draw) -> None:
    """Set the autoencoder's scaling factor so that its latents have variance 1, as noise of variance 1 wants it."""
    batches = [draw(generator(SEED, k))["images"] for k in range(32)]
    sample = torch.cat([vae.encode(images.to(vae.device)).latent_dist.mean for images in batches])
    vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 4))


class _Clock:
    """Seconds of one processor core, carried over an interruption (a busy machine does not make them longer)."""

    def __init__(self, path: Path):
        self.path, self.last = path, None
        self.seconds = json.loads(path.read_text()) if path.exists() else []  # after each step

    def __call__(self, step: int, loss: float) -> None:
        now = time.process_time()
        if self.last is None:
            del self.seconds[step:]  # steps after the last checkpoint are made again
        self.seconds.append((self.seconds or [0.0])[-1] + (now - self.last if self.last else 0))
        self.last = now
        if (step + 1) % 10 == 0:
            self.path.write_text(json.dumps([round(s, 2) for s in self.seconds]))


def train_companions(
    folder: str | Path,
    out: str | Path,
    scale: float = 1.0,
    names: list[str] | None = None,
    vae: str | Path = WEIGHTS / "vae",
    progress: bool = True,
    seed: int = SEED,
) -> Path:
    """Train all companions (or the named ones) with checkpoints in ``folder``, saved in ``out``; interrupt at will.

    Raises:
        UserError: for an unknown name, and when a training was stopped.
    """
    work = Companions(folder, out, scale, vae, seed)
    for name in names or COMPANIONS:
        work.train(name, progress)
    return Path(out)
