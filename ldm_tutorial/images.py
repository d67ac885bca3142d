"""Pictures: pixels 0..255, and the -1..1 that models read.

Notebook 01 builds these conversions by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
