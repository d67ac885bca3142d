"""Picture files of any kind, as the pixels that a model reads: for training, for editing, and for what is uploaded."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from ..errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none of them runs another program to be read
ONE_AT_A_TIME = threading.Lock()


def load_picture(source, background: str = "white", side: int | None = None) -> Image.Image:
    """A picture file (a path, or a file that is open for reading bytes) as an RGB image: turned as its EXIF tag says, its
    colours brought to sRGB, 16 bit to 8, the first picture of an animation, laid on ``background`` where it is transparent.
    Where only a small one of this ``side`` is wanted, a large JPEG is decoded no larger than needed.

    Raises:
        UserError: for a file that is no picture, or one whose pixels can't be shown. The message is the reason alone, for the
            caller knows what the picture is called.
    """
    if isinstance(source, str | Path) and Path(source).exists() and not Path(source).is_file():
        raise UserError("it is a folder, a pipe or a device, not a file")  # a pipe that nobody writes to would never end
    try:
        try:
            return _decode(source, background, side)
        except ValueError as error:
            if "MAX_TEXT_CHUNK" not in str(error):
                raise
            with _long_texts():
                return _decode(source, background, side)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(_reason(error)) from None


def _decode(source, background: str, side: int | None) -> Image.Image:
    """What :func:`load_picture` returns, or whatever Pillow raises."""
    with Image.open(source, formats=FORMATS) as image:
        if side:
            image.draft("RGB", (2 * side, 2 * side))
        return to_rgb(image, background)


@contextlib.contextmanager
def _long_texts() -> Iterator[None]:
    """Inside, one text or colour profile of a PNG may be as long as Pillow lets all of them be together: 64 MB, not 1 MB.
    Some programs write a megabyte of text into a picture. The limit is one for the whole process, and is put back."""
    with ONE_AT_A_TIME:
        before = PngImagePlugin.MAX_TEXT_CHUNK
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        try:
            yield
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK = before


def _reason(error: Exception) -> str:
    """Why a file is no picture."""
    if "MAX_TEXT" in str(error):
        return f"its texts or its colour profile exceed {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MB: save it without them"
    if isinstance(error, UnidentifiedImageError):
        return f"it is in none of the formats {', '.join(FORMATS)}, or too damaged to tell"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.splitlines()[0][:120].rstrip(".")


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Any image that Pillow opens as RGB, 8 bit; see :func:`load_picture`.

    Raises:
        UserError: for pixels that have no defined range (floating point, 32 bit); the message is the reason alone.
    """
    image = image.copy()
    with contextlib.suppress(Exception):  # a damaged tag; the turn comes before the other tags are written anew
        ImageOps.exif_transpose(image, in_place=True)
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


def _to_srgb(image: Image.Image) -> Image.Image:
    """The image with its colours as its own colour profile means them, where it has one that can be used."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        changed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=target)
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another kind of pixels
        return image
    return changed or image


def to_square(image: Image.Image, side: int) -> np.ndarray:
    """Any image -> uint8 [side, side, 3]: :func:`to_rgb`, then its centre cut out and resized (Lanczos)."""
    return np.asarray(ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.LANCZOS))


def read_picture(path: Path, side: int, mask: Path | None = None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """A picture to edit as uint8 [side, side, 3], its mask (white: change) as bool [side, side], and a note on what was done
    to fit it, if anything.

    Raises:
        UserError: for a file that can't be read, a mask of another size than the picture, or one with nothing white in it.
    """
    image = _named(path, "picture", "white")
    note = ""
    if image.size != (side, side):
        size = f"{image.width} x {image.height}"
        note = f"The picture has {size} pixels, the model draws {side} x {side}: its centre is used, resized."
    if mask is None:
        return to_square(image, side), None, note
    drawn = _named(mask, "mask", "black")  # what is not painted stays as it is
    if drawn.size != image.size:
        sizes = f"{drawn.width} x {drawn.height} pixels, the picture {image.width} x {image.height}"
        raise UserError(f"The mask has {sizes}: make them the same size, white where the picture is to change.")
    place = to_square(drawn.convert("L"), side)[..., 0] >= 128
    if not place.any():
        raise UserError(f"The mask {str(mask)!r} is empty: paint white where the picture is to change.")
    return to_square(image, side), place, note


def _named(path: Path, what: str, background: str) -> Image.Image:
    """A picture file that was named on the command line; see :func:`load_picture`."""
    try:
        return load_picture(path, background)
    except UserError as error:
        raise UserError(f"The {what} {str(path)!r} can't be read: {error}.") from None
