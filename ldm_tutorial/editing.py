"""Editing: a picture goes part of the way back to noise, and a prompt leads it out again (notebook 10).

SDEdit: Meng et al. 2022, section 3. Inpainting with a model that was not trained for it: Lugmayr et al. 2022, eq. 8 (one
pass). Both as ``StableDiffusionImg2ImgPipeline`` and ``StableDiffusionInpaintPipeline`` do them, number for number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError
from .images import to_model, to_picture
from .models import Models
from .sampling import build_guide, build_sampler, decode_pictures, denoise, generators
from .settings import PLAIN_SAMPLING, Sampling, adjust
from .storage.threads import few_pictures


def edit_latents(
    models: Models,
    images,
    prompts: list[str],
    seeds: list[int],
    strength: float = 0.6,
    sampling: Sampling = PLAIN_SAMPLING,
    *,
    masks=None,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool = True,
    **options,
) -> Tensor:
    """The latents of edited pictures [B, 8, 16, 16]; see :func:`img2img` and, with ``masks``, :func:`inpaint`."""
    sampling = adjust(sampling, **options)
    images = _pixels(images, models)  # [B, 3, H, W] in -1..1
    if not len(images) == len(prompts) == len(seeds):
        raise UserError(f"{len(images)} pictures need as many prompts and seeds, not {len(prompts)} and {len(seeds)}.")
    new = None if masks is None else _latent_masks(masks, images, models)
    scheduler = build_sampler(models, sampling.sampler, sampling.steps, inpainting=masks is not None)
    if not hasattr(scheduler, "add_noise"):
        raise UserError(f"{type(scheduler).__name__} can't add noise to a picture, so it can't edit: choose another sampler.")
    first_step = _first_step(strength, sampling.steps, scheduler)

    # From each picture's stream first a sample of the posterior, then the noise, then what the sampler draws.
    streams = generators(seeds)
    clean = models.encode(images, streams)
    noise = torch.cat([torch.randn(1, *clean.shape[1:], generator=g) for g in streams]).to(clean)

    def noisy(step: int) -> Tensor:
        """The given pictures' latents at the noise level of a step."""
        t = scheduler.timesteps[step : step + 1].repeat(len(clean))
        return scheduler.add_noise(clean, noise, t)

    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first_step)
    z = noisy(first_step)
    blend = None
    if new is not None:
        new = new.to(clean)
        # The library's pipeline encodes what is kept as well, for U-Nets that read it, and so draws once more from the streams.
        models.encode(images, streams)
        last_step = len(scheduler.timesteps) - 1
        if strength == 1:
            z = noise * scheduler.init_noise_sigma

        def blend(step: int, z: Tensor) -> Tensor:
            """Outside the mask, what was given, at the noise level that the rest is at now."""
            given = noisy(step + 1) if step < last_step else clean
            return (1 - new) * given + new * z

    guide = build_guide(models, prompts, sampling)
    with few_pictures(len(z)):
        return denoise(z, scheduler, guide, streams, first_step, blend, on_step, progress)


def img2img(models: Models, images, prompts: list[str], seeds: list[int], strength: float = 0.6, **options) -> np.ndarray:
    """Pictures changed by prompts, uint8 [B, H, W, 3]: each one's latents are noised as they are ``1 - strength`` into the
    run, and denoised from there. Little strength keeps much; at 1 nothing is kept where the schedule ends in pure noise (as
    the course's does), and elsewhere a little.

    ``images`` are uint8 [B, H, W, 3] or floats [B, 3, H, W] in -1..1; options as for :func:`sampling.sample_latents`.

    Raises:
        UserError: for a strength outside 0..1, a size that the model can't take, or counts that differ.
    """
    return decode_pictures(models, edit_latents(models, images, prompts, seeds, strength, **options))


def inpaint(
    models: Models, images, masks, prompts: list[str], seeds: list[int], strength: float = 1.0, paste: bool = True, **options
) -> np.ndarray:
    """Pictures that a prompt fills anew where ``masks`` [B, H, W] are true, uint8 [B, H, W, 3].

    At every step the latents outside the mask are put back, noised as much as the rest. The autoencoder still changes a
    little there; ``paste`` puts the given pixels back. ``images`` and options as for :func:`img2img`.

    Raises:
        UserError: see :func:`img2img`; also for masks of another size than the pictures, or empty ones.
    """
    latents = edit_latents(models, images, prompts, seeds, strength, masks=masks, **options)
    made = decode_pictures(models, latents)
    if not paste:
        return made
    inside = _tensor(masks).bool().cpu().numpy()
    given = to_picture(_pixels(images, models)).numpy()
    return np.where(inside[..., None], made, given)


def _tensor(values) -> Tensor:
    """A tensor, an array, or a list of arrays (which may be read-only) as a tensor."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _pixels(images, models: Models) -> Tensor:
    """Pictures uint8 [B, H, W, 3], or floats [B, 3, H, W] in -1..1, as the latter, of a size that the model can take."""
    images = _tensor(images)
    if images.ndim != 4 or 3 not in images.shape[1::2]:
        raise UserError(f"Pictures are uint8 [B, H, W, 3] or floats [B, 3, H, W], not of shape {tuple(images.shape)}.")
    images = to_model(images) if images.dtype == torch.uint8 else images
    models.latent_shape(*images.shape[2:])
    return images


def _first_step(strength: float, steps: int, scheduler) -> int:
    """How many of the scheduler's steps are left out, counted as the pipelines do. A scheduler of order 2 calls the U-Net
    twice a step."""
    if not 0 < strength <= 1:
        raise UserError(f"The strength {strength} must be above 0 (as it was) and at most 1 (all new).")
    done = int(steps * strength)
    if done < 1:
        raise UserError(f"A strength of {strength} in {steps} steps is no step at all: give more of one of the two.")
    return (steps - done) * scheduler.order


def _latent_masks(masks, images: Tensor, models: Models) -> Tensor:
    """Masks [B, H, W], true where the picture is to change -> 0 or 1 [B, 1, H / factor, W / factor]."""
    masks = _tensor(masks).bool()
    wanted = (len(images), *images.shape[2:])
    if masks.shape != wanted:
        raise UserError(f"The masks have the shape {tuple(masks.shape)}, the pictures need {wanted}: make them fit.")
    size = [side // models.factor for side in masks.shape[1:]]
    small = F.interpolate(masks[:, None].float(), size=size)  # the nearest pixel, as in the library's pipeline
    if not small.flatten(1).any(1).all():
        raise UserError(f"A mask is empty, or too thin for latents of {models.factor} pixels: mark a larger place to change.")
    return small
