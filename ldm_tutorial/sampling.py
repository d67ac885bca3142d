"""Sampling: from a prompt and a seed to a picture, one loop for all samplers.

DDPM: Ho et al. 2020, algorithm 2. DDIM: Song et al. 2021, eq. 12 with sigma = 0. Classifier-free guidance: Ho and
Salimans 2022, eq. 6, in the form that ``StableDiffusionPipeline`` uses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from numpy import ndarray
from torch import Tensor

from .curios import to_picture
from .errors import UserError
from .models import Models

SAMPLERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}


def generators(seeds: list[int]) -> list[torch.Generator]:
    """One random stream per picture, on the CPU: a seed means the same picture alone, in a batch, and on a GPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial_latents(models: Models, streams: list[torch.Generator]) -> Tensor:
    """Pure noise N(0, 1) [B, 8, 16, 16], picture k from stream k."""
    size = models.unet.config.in_channels, models.unet.config.sample_size, models.unet.config.sample_size
    return torch.cat([torch.randn(1, *size, generator=g) for g in streams]).to(models.device)


@torch.no_grad()
def sample_latents(
    models: Models,
    prompts: list[str],
    seeds: list[int],
    steps: int = 20,
    guidance_scale: float = 3.0,
    sampler: str = "ddim",
    negative_prompt: str = "",
    latents: Tensor | None = None,
    progress: bool = True,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Denoise to clean latents [B, 8, 16, 16].

    ``latents`` [B, 8, 16, 16] replaces the noise that the seeds would give. A ``guidance_scale`` of at most 1 means no
    guidance: the unconditional half is not computed. ``callback(step, timestep, latents)`` sees the latents after each step.

    Raises:
        UserError: for an unknown sampler, or when there are not as many seeds as prompts.
    """
    from tqdm.auto import tqdm

    if sampler not in SAMPLERS:
        raise UserError(f"There is no sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}.")
    if len(prompts) != len(seeds):
        raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.")
    scheduler = SAMPLERS[sampler].from_config(models.scheduler.config)
    scheduler.set_timesteps(steps, device=models.device)
    guided = guidance_scale > 1
    text = models.encode_text(prompts)  # encoder_hidden_states [B, 77, 128]
    if guided:
        text = torch.cat([models.encode_text([negative_prompt]).expand_as(text), text])
    streams = generators(seeds)
    z = initial_latents(models, streams)
    z = z if latents is None else latents.to(models.device)
    extra = {"generator": streams} if sampler == "ddpm" else {}
    for i, t in enumerate(tqdm(scheduler.timesteps, desc="denoise", disable=not progress, leave=False)):
        predicted = models.unet(torch.cat([z, z]) if guided else z, t, encoder_hidden_states=text).sample
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + guidance_scale * (with_text - without)
        z = scheduler.step(predicted, t, z, **extra).prev_sample
        if callback:
            callback(i, t, z)
    return z


def sample(models: Models, prompts: list[str], seeds: list[int], **options) -> ndarray:
    """Prompts and seeds to pictures, uint8 [B, 64, 64, 3]; options as for :func:`sample_latents`.

    Picture k equals the picture made alone with its seed, to within 1 of 255 (a U-Net call rounds differently by batch).
    """
    return to_picture(models.decode(sample_latents(models, prompts, seeds, **options))).numpy()
