"""Editing: a picture goes part of the way back to noise, and a prompt leads it out again.

SDEdit: Meng et al. 2022, section 3. Inpainting with a model that was not trained for it: Lugmayr et al. 2022, eq. 8 (one
pass). Both as ``StableDiffusionImg2ImgPipeline`` and ``StableDiffusionInpaintPipeline`` do them, number for number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .curios import to_model, to_picture
from .data import FORMATS, to_square
from .errors import UserError
from .models import Models
from .sampling import build_sampler, decode_quickly, generators, sample_latents


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


def _first_step(strength: float, steps: int) -> int:
    """How many of the steps are left out, counted as the pipelines do."""
    if not 0 < strength <= 1:
        raise UserError(f"The strength {strength} won't do: give a number above 0 (as it was) and at most 1 (all new).")
    if int(steps * strength) < 1:
        raise UserError(f"A strength of {strength} in {steps} steps is no step at all: give more of one of the two.")
    return steps - int(steps * strength)


def edit_latents(
    models: Models,
    images,
    prompts: list[str],
    seeds: list[int],
    strength: float = 0.6,
    masks=None,
    steps: int = 20,
    sampler: str = "ddim",
    **options,
) -> Tensor:
    """The latents of edited pictures [B, 8, 16, 16]; see :func:`img2img` and, with ``masks``, :func:`inpaint`."""
    images, skip = _pixels(images, models), _first_step(strength, steps)
    if not len(images) == len(prompts) == len(seeds):
        raise UserError(f"{len(images)} pictures need as many prompts and seeds, not {len(prompts)} and {len(seeds)}.")
    scheduler, streams = build_sampler(models, sampler, steps), generators(seeds)
    clean = models.encode(images, streams)  # from each stream first a sample of the posterior, then the noise: their order
    noise = torch.cat([torch.randn(1, *clean.shape[1:], generator=s) for s in streams]).to(clean)

    def noisy(i: int) -> Tensor:
        """The given picture's latents at the noise level of step i."""
        return scheduler.add_noise(clean, noise, scheduler.timesteps[i : i + 1].repeat(len(clean)))

    options = {"steps": steps, "sampler": sampler, **options}
    if masks is None:
        return sample_latents(models, prompts, seeds, latents=noisy(skip), skip=skip, **options)

    new = _latent_masks(masks, images, models).to(clean)
    last, watch = len(scheduler.timesteps) - 1, options.pop("callback", None)

    def keep(i: int, t: Tensor, z: Tensor) -> Tensor:
        """Outside the mask, what was given, at the noise level that the rest is at now."""
        z = (1 - new) * (noisy(i + 1) if i < last else clean) + new * z
        seen = watch(i, t, z) if watch else None
        return z if seen is None else seen

    begin = noise * scheduler.init_noise_sigma if strength == 1 else noisy(skip)
    return sample_latents(models, prompts, seeds, latents=begin, skip=skip, callback=keep, **options)


def _latent_masks(masks, images: Tensor, models: Models) -> Tensor:
    """Masks [B, H, W], true where the picture is to change -> 0 or 1 [B, 1, H / factor, W / factor]."""
    masks = _tensor(masks).bool()
    if masks.shape != (len(images), *images.shape[2:]):
        wanted = (len(images), *images.shape[2:])
        raise UserError(f"The masks have the shape {tuple(masks.shape)}, the pictures need {wanted}: make them fit.")
    small = F.interpolate(masks[:, None].float(), size=[n // models.factor for n in masks.shape[1:]])  # nearest, as theirs
    if not small.flatten(1).any(1).all():
        raise UserError(f"A mask is empty, or too thin for latents of {models.factor} pixels: mark a larger place to change.")
    return small


def img2img(models: Models, images, prompts: list[str], seeds: list[int], strength: float = 0.6, **options) -> np.ndarray:
    """Pictures changed by prompts, uint8 [B, H, W, 3]: each one's latents are noised as they are ``1 - strength`` into the
    run, and denoised from there. Little strength keeps much; at 1 hardly more than the layout is left.

    ``images`` are uint8 [B, H, W, 3] or floats [B, 3, H, W] in -1..1; options as for :func:`sampling.sample_latents`.

    Raises:
        UserError: for a strength outside 0..1, a size that the model can't take, or counts that differ.
    """
    return to_picture(decode_quickly(models, edit_latents(models, images, prompts, seeds, strength, **options))).numpy()


def inpaint(
    models: Models,
    images,
    masks,
    prompts: list[str],
    seeds: list[int],
    strength: float = 1.0,
    paste: bool = True,
    **options,
) -> np.ndarray:
    """Pictures that a prompt fills anew where ``masks`` [B, H, W] are true, uint8 [B, H, W, 3].

    At every step the latents outside the mask are put back, noised as much as the rest. The autoencoder still changes a
    little there; ``paste`` puts the given pixels back. ``images`` and options as for :func:`img2img`.

    Raises:
        UserError: see :func:`img2img`; also for masks of another size than the pictures, or empty ones.
    """
    latents = edit_latents(models, images, prompts, seeds, strength, masks=masks, **options)
    made = to_picture(decode_quickly(models, latents)).numpy()
    if not paste:
        return made
    inside = _tensor(masks).bool().cpu().numpy()
    return np.where(inside[..., None], made, to_picture(_pixels(images, models)).numpy())


def _open(path: Path, what: str) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
        fits = image.width * image.height <= 50e6 and max(image.size) <= 20 * min(image.size)
        image = ImageOps.exif_transpose(image) if fits else image
    except FileNotFoundError:
        raise UserError(f"There is no {what} {str(path)!r}: check its name and folder.") from None
    except Exception as error:  # a damaged file can raise nearly anything
        kind = type(error).__name__
        raise UserError(f"The {what} {str(path)!r} can't be read ({kind}): give a PNG, JPEG or WebP file.") from None
    if not fits:
        raise UserError(f"The {what} {str(path)!r} has {image.width} x {image.height} pixels: give a smaller or squarer one.")
    return image


def read_picture(path: str | Path, side: int, mask: str | Path | None = None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """A picture file as uint8 [side, side, 3], its mask file (white: change) as bool [side, side], and a note on what was done
    to fit it, if anything.

    Raises:
        UserError: for a file that can't be read, a mask of another size than the picture, or one with nothing white in it.
    """
    image = _open(Path(path), "picture")
    note = (
        f"The picture has {image.width} x {image.height} pixels, the model draws {side} x {side}: its centre is used, resized."
    )
    note = "" if image.size == (side, side) else note
    place = None
    if mask is not None:
        drawn = _open(Path(mask), "mask")
        if drawn.size != image.size:
            sizes = f"{drawn.width} x {drawn.height} pixels, the picture {image.width} x {image.height}"
            raise UserError(f"The mask has {sizes}: make them the same size, white where the picture is to change.")
        if drawn.has_transparency_data:  # what is not painted stays as it is
            drawn = drawn.convert("RGBA")
            drawn = Image.alpha_composite(Image.new("RGBA", drawn.size, "black"), drawn)
        place = to_square(drawn.convert("L"), side)[..., 0] >= 128
        if not place.any():
            raise UserError(f"The mask {str(mask)!r} is empty: paint white where the picture is to change.")
    return to_square(image, side), place, note
