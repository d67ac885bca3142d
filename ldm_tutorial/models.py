"""The three models of latent diffusion, as diffusers' and transformers' own classes: build, save, load, check.

A saved folder is a plain diffusers pipeline folder (``StableDiffusionPipeline.from_pretrained(folder)`` reads it without
this package) with two additions: ``clip/``, the whole CLIP model of which ``text_encoder/`` is one half, and
``checksums.json``. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, figure 3.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from .doctor import check_weights
from .errors import UserError
from .files import seal

WEIGHTS = Path(__file__).parent / "weights" / "curios-64"


@dataclass(frozen=True)
class Profile:
    """How much to train: number of renders, then (steps, batch size, learning rate) of each model; the renders' side and the
    channels of their latents."""

    renders: int
    vae: tuple[int, int, float]
    clip: tuple[int, int, float]
    unet: tuple[int, int, float]
    unet_channels: tuple[int, ...]
    judge: tuple[int, int, float] = (2_600, 128, 2e-3)
    resolution: int = 64
    latent_channels: int = 8


# quick: 2 CPU cores, under half an hour; evening: 2 CPU cores, about two hours; full: a data-centre GPU
PROFILES = {
    "quick": Profile(16_384, (7_500, 8, 1.5e-3), (250, 128, 1e-3), (5_000, 32, 1e-3), (64, 128)),
    "evening": Profile(16_384, (2_600, 16, 2e-3), (1_200, 128, 1e-3), (2_100, 64, 1e-3), (64, 128)),
    "full": Profile(60_000, (12_000, 64, 1e-3), (3_000, 512, 1e-3), (16_000, 256, 7e-4), (64, 128)),
}


def profile(name: str | None = None) -> tuple[str, Profile]:
    """The profile by name, by ``LDM_TUTORIAL_PROFILE``, or by the hardware: full with a CUDA GPU, quick without.

    Raises:
        UserError: for a name that is none of these.
    """
    name = name or os.environ.get("LDM_TUTORIAL_PROFILE") or ("full" if torch.cuda.is_available() else "quick")
    if name not in PROFILES:
        raise UserError(f"There is no profile {name!r}: choose one of {', '.join(PROFILES)}.")
    return name, PROFILES[name]


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU (accelerate's own choice); each of several processes gets its own."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Without being told, accelerate takes several processes on a CPU for strangers.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu).device


def build_vae(latent_channels: int = 8, channels: tuple[int, ...] = (16, 32, 64), resolution: int = 64) -> AutoencoderKL:
    """An autoencoder 3 x 64 x 64 <-> ``latent_channels`` x 16 x 16: each further entry of ``channels`` halves the side."""
    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, block_out_channels=channels,
        layers_per_block=1, latent_channels=latent_channels, norm_num_groups=1, sample_size=resolution,
        mid_block_add_attention=False,
    )  # fmt: skip


def build_unet(
    latent_channels: int = 8, channels: tuple[int, ...] = (64, 128), text_width: int = 128, sample_size: int = 16
) -> UNet2DConditionModel:
    """A U-Net on 16 x 16 latents: residual blocks at 16 x 16, residual blocks with self- and cross-attention at 8 x 8."""
    return UNet2DConditionModel(
        sample_size=sample_size, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, cross_attention_dim=text_width, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def build_clip(
    tokenizer: CLIPTokenizer, width: int = 128, text_layers: int = 3, vision_layers: int = 4, resolution: int = 64
) -> CLIPModel:
    """A small CLIP: a causal text transformer and a vision transformer on 8 x 8 patches, into one space of 128 numbers."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    same = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "projection_dim": 128}
    text = {
        **same,
        **ids,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": text_layers,
        "max_position_embeddings": tokenizer.model_max_length,
    }
    vision = {**same, "num_hidden_layers": vision_layers, "image_size": resolution, "patch_size": resolution // 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def build_scheduler() -> DDIMScheduler:
    """1,000 timesteps, cosine schedule (Nichol and Dhariwal 2021, eq. 17), v-prediction (Salimans and Ho 2022), steps
    counted from the noisiest end ("trailing"; Lin et al. 2024)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


@dataclass
class Models:
    """The joined system, of this course or of any diffusers text-to-image U-Net checkpoint. ``encode`` and ``decode`` move
    between pixels (float32, -1..1) and scaled latents (variance about 1, in the U-Net's own dtype)."""

    vae: AutoencoderKL | AutoencoderTiny
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def factor(self) -> int:
        """How many pixels a latent is wide: 4 here, 8 in Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """The side, in pixels, of the pictures that it was trained for."""
        return self.latent_shape()[2] * self.factor

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the latents for a picture of this size, in pixels [the size it was trained for].

        Raises:
            UserError: for a size that the autoencoder can't make.
        """
        size, f = self.unet.config.sample_size, self.factor
        size = (size, size) if isinstance(size, int) else size
        high, wide = (f * s if pixels is None else pixels for s, pixels in zip(size, (height, width), strict=True))
        if high < f or wide < f or high % f or wide % f:
            raise UserError(f"A picture of {high} x {wide} pixels can't be made: give multiples of {f}.")
        return self.unet.config.in_channels, high // f, wide // f

    def to(self, device: str | torch.device) -> Models:
        for part in (self.vae, self.unet, self.text_encoder):
            part.to(device).requires_grad_(False).eval()
        return self

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Texts -> ``input_ids`` [B, 77], padded to the tokenizer's full length, as the pipeline does."""
        t = self.tokenizer
        return t(prompts, padding="max_length", max_length=t.model_max_length, truncation=True, return_tensors="pt").input_ids

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Texts -> ``encoder_hidden_states`` [B, 77, 128]: as many tokens and as wide as the checkpoint's text encoder says."""
        return self.text_encoder(self.tokenize(prompts).to(self.device))[0].to(self.unet.dtype)

    @torch.no_grad()
    def encode(self, images: Tensor, streams: list[torch.Generator] | None = None) -> Tensor:
        """Pixels [B, 3, 64, 64] in -1..1 -> scaled latents [B, 8, 16, 16] (or another size, divided by ``factor``): the mean
        of the posterior, or, as the library's editing pipelines do, a sample of it from each picture's own random stream."""
        c, images = self.vae.config, images.to(self.device, self.vae.dtype)
        if streams:
            z = torch.cat([_latents(self.vae.encode(i[None]), s) for i, s in zip(images, streams, strict=True)])
        else:
            z = _latents(self.vae.encode(images))
        return ((z - (c.get("shift_factor") or 0)) * c.scaling_factor).to(self.unet.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 8, 16, 16] -> pixels [B, 3, 64, 64], about -1..1."""
        c = self.vae.config
        z = latents.to(self.device, self.vae.dtype) / c.scaling_factor + (c.get("shift_factor") or 0)
        return self.vae.decode(z).sample.float()


def _latents(encoded, stream: torch.Generator | None = None) -> Tensor:
    """What an autoencoder's ``encode`` returned, as a tensor: ``AutoencoderTiny`` has no posterior."""
    if hasattr(encoded, "latents"):
        return encoded.latents
    return encoded.latent_dist.sample(stream) if stream else encoded.latent_dist.mode()


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


def save_models(models: Models, folder: str | Path, clip: CLIPModel | None = None) -> Path:
    """Write a folder that plain diffusers loads: fp16 tensors, safetensors only, with checksums. It is written beside its
    place and moved there when it is whole; a model that was there before goes then.

    Raises:
        UserError: see :func:`check_folder`.
    """
    folder = check_folder(folder)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _write(models, scratch, clip)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(scratch, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _write(models: Models, scratch: Path, clip: CLIPModel | None) -> None:
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
    seal(scratch)


def check_files(folder: str | Path) -> None:
    """Compare a folder with its ``checksums.json``.

    Raises:
        UserError: naming the first file that is missing, cut short or altered.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").exists():
        raise UserError(f"There is no model in {folder}: train one with `ldm train all --out {folder}` or name another folder.")
    if (folder / "checksums.json").exists():  # somebody else's folder has none: nothing to compare with
        for finding in check_weights(folder):
            if finding.level == "fault":
                advice = finding.advice if folder.absolute() == WEIGHTS else "train it again or copy it again"
                raise UserError(f"In {folder}, {finding.what}: {advice}.")


def load_models(
    folder: str | Path = WEIGHTS, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Models:
    """Load a checkpoint's folder, ready for inference: one of this course, checksums first, or any other that diffusers
    reads as a text-to-image U-Net (Stable Diffusion 1 and 2 and what was made of them).

    Raises:
        UserError: for a folder without a model, with damaged files, or with a model of another kind.
    """
    from .checkpoints import PARTS, join

    check_files(folder)
    return join(Path(folder), {name: Path(folder) / name for name in PARTS}, dtype, device)


def load_clip(folder: str | Path = WEIGHTS, device: str | torch.device | None = None) -> CLIPModel:
    """The whole CLIP model, both halves, in float32."""
    check_files(folder)
    transformers_logging.disable_progress_bar()
    clip = CLIPModel.from_pretrained(str(folder), subfolder="clip", dtype=torch.float32)
    return clip.to(device or default_device()).requires_grad_(False).eval()
