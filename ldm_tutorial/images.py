"""Pictures: files, pixels 0..255, and the -1..1 that models read.

Notebook 01 builds these conversions by hand.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none of them runs another program to be read
LARGEST = 89_478_485  # pixels of one picture: above this, Pillow warns of files made to fill the memory


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


def load_picture(source, background: str = "white", side: int | None = None) -> Image.Image:
    """A picture file (a path, or a file that is open for reading bytes) as an RGB image: turned as its EXIF tag says, its
    colours brought to sRGB, 16 bit to 8, the first picture of an animation, laid on ``background`` where it is transparent.
    Where only a small one of this ``side`` is wanted, a large JPEG is decoded no larger than needed.

    Raises:
        UserError: for a file that is no picture, or one whose pixels can't be shown. The message is the reason alone, for the
            caller knows what the picture is called.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST or max(width, height) > 20 * min(width, height):
                raise UserError(f"it has {width:,} x {height:,} pixels: give a smaller or squarer one")
            if side:
                image.draft("RGB", (2 * side, 2 * side))
            return to_rgb(image, background)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Why a file is no picture."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is in none of the formats {', '.join(FORMATS)}"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.splitlines()[0][:120].rstrip(".")


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Any image that Pillow opens as RGB, 8 bit; see :func:`load_picture`.

    Raises:
        UserError: for pixels that have no defined range (floating point, 32 bit); the message is the reason alone.
    """
    image.load()
    image = _upright(image)
    if image.mode == "F":
        raise UserError("its pixels are floating-point numbers, which have no defined range: save it with 8 bits a channel")
    if image.mode.startswith("I"):  # 16 bit, which Pillow's own conversion would cut off at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError("its pixels are 32-bit numbers, which have no defined range: save it with 8 bits a channel")
        image = Image.fromarray((values // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    image = _to_srgb(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    image = image.convert("RGB")
    image.info = {}  # what the file said of turning and colours has been done
    return image


TURN = Image.Transpose
# What undoes each value of EXIF's orientation. (ImageOps.exif_transpose also writes the other tags anew, and fails where one
# of them is odd.)
UPRIGHT = {
    2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE, 6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE, 8: TURN.ROTATE_90,
}  # fmt: skip


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a damaged tag says nothing
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The image with its colours as its own colour profile means them, where it has one that can be used."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=target)
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another kind of pixels
        return image


def to_square(image: Image.Image, side: int) -> np.ndarray:
    """Any image -> uint8 [side, side, 3]: :func:`to_rgb`, then its centre cut out and resized (Lanczos)."""
    return np.asarray(ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.LANCZOS))
