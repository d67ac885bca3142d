"""Pictures: files, pixels 0..255, and the -1..1 that models read.

Notebook 01 builds these conversions by hand.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none of them runs another program to be read


def to_model(images: Tensor) -> Tensor:
    """Pictures uint8 [B, H, W, 3] -> floats [B, 3, H, W] in -1..1, channels first, as PyTorch's convolutions want them."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_picture(images: Tensor) -> Tensor:
    """Floats [B, 3, H, W] in -1..1 (what lies outside is cut off) -> pictures uint8 [B, H, W, 3] on the CPU, rounded as
    diffusers rounds."""
    share = (images / 2 + 0.5).clamp(0, 1)  # 0..1
    return (share.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu()


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB of pictures [B, C, H, W] in -1..1: at 20 dB the error is a tenth of the range."""
    error = ((images - others.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def to_square(image: Image.Image, side: int) -> np.ndarray:
    """Any picture -> uint8 [side, side, 3]: turned as its EXIF tag says, on white where it is transparent, grey (16 bit
    too) to RGB, its centre cut out and resized (Lanczos).

    Raises:
        ValueError: for pixels that have no defined range (floating point).
    """
    image.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded no larger than needed
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit, which PIL's own conversion would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS))
