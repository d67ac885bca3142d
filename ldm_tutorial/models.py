"""The joined system: autoencoder, U-Net, text encoder, tokenizer and noise schedule (notebook 09).

Rombach et al. 2022, *High-resolution image synthesis with latent diffusion models*, figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .errors import UserError


def default_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU; the CPU where ACCELERATE_USE_CPU says so. Of several processes that train
    together (:func:`storage.resume.connect_processes`) each has its own."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    if torch.distributed.is_initialized():
        return PartialState().device
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


@dataclass
class Models:
    """The joined system, of this course or of any diffusers text-to-image U-Net checkpoint.

    ``encode`` and ``decode`` move between pixels (float32, -1..1) and scaled latents (variance about 1, in the U-Net's own
    dtype).
    """

    vae: AutoencoderKL | AutoencoderTiny
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin

    @property
    def device(self) -> torch.device:
        """Where the U-Net is; the other networks are there too."""
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
        trained = self.unet.config.sample_size or 0  # not every checkpoint says
        trained_height, trained_width = (trained, trained) if isinstance(trained, int) else trained
        factor = self.factor
        height = trained_height * factor if height is None else height
        width = trained_width * factor if width is None else width
        if min(height, width) < factor or height % factor or width % factor:
            raise UserError(f"A picture of {height} x {width} pixels can't be made: give multiples of {factor}.")
        return self.unet.config.in_channels, height // factor, width // factor

    def to(self, device: str | torch.device) -> Models:
        """The same object, with its networks on ``device``."""
        for part in (self.vae, self.unet, self.text_encoder):
            part.to(device)
        return self

    def for_inference(self) -> Models:
        """The same object, with its networks in evaluation mode and without gradients: nothing in them changes any more."""
        for part in (self.vae, self.unet, self.text_encoder):
            part.requires_grad_(False).eval()
        return self

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Texts -> ``input_ids`` [B, 77], padded to the tokenizer's full length, as the pipeline does."""
        longest = self.tokenizer.model_max_length
        encoded = self.tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        return encoded.input_ids

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Texts -> ``encoder_hidden_states`` [B, 77, 128]: as many tokens and as wide as the checkpoint's text encoder says."""
        input_ids = self.tokenize(prompts).to(self.device)
        return self.text_encoder(input_ids)[0].to(self.unet.dtype)

    @torch.no_grad()
    def encode(self, images: Tensor, streams: list[torch.Generator] | None = None) -> Tensor:
        """Pixels [B, 3, 64, 64] in -1..1 -> scaled latents [B, 8, 16, 16] (or another size, divided by ``factor``).

        They are the mean of the posterior, or, as in the library's editing pipelines, a sample of it from each picture's own
        random stream.
        """
        images = images.to(self.device, self.vae.dtype)
        if streams:
            parts = [_latents(self.vae.encode(x[None]), g) for x, g in zip(images, streams, strict=True)]
            z = torch.cat(parts)
        else:
            z = _latents(self.vae.encode(images))
        shift = self.vae.config.get("shift_factor") or 0
        return ((z - shift) * self.vae.config.scaling_factor).to(self.unet.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 8, 16, 16] -> pixels [B, 3, 64, 64], about -1..1."""
        shift = self.vae.config.get("shift_factor") or 0
        z = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor + shift
        return self.vae.decode(z).sample.float()


def _latents(encoded, stream: torch.Generator | None = None) -> Tensor:
    """What an autoencoder's ``encode`` returned, as a tensor: ``AutoencoderTiny`` has no posterior."""
    if hasattr(encoded, "latents"):
        return encoded.latents
    return encoded.latent_dist.sample(stream) if stream else encoded.latent_dist.mode()
