"""Figures: one visual style for the whole course, each picture with a text for those who can't see it."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import struct
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Okabe and Ito's palette: told apart by colour-blind readers too
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "ink": "#222222",
}
SPACES = {"pixel": "#D55E00", "latent": "#009E73", "text": "#0072B2"}  # the three parts of the system, everywhere


def style() -> None:
    """Set matplotlib's defaults for the course."""
    import matplotlib as mpl

    mpl.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 110, "font.size": 11, "axes.titlesize": 11,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": mpl.cycler(color=[COLORS[c] for c in ("blue", "orange", "green", "red", "purple", "sky")]),
        "figure.facecolor": "white", "axes.facecolor": "white", "legend.frameon": False,
    })  # fmt: skip


def png(picture, fast: bool = False) -> bytes:
    """A PIL image, or a matplotlib figure at its own fixed size (it is closed), as PNG bytes; ``fast``: sooner, and larger."""
    buffer, effort = io.BytesIO(), {"compress_level": 1 if fast else 6}
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG", **effort)
    else:
        import matplotlib.pyplot as plt

        picture.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs=effort)
        plt.close(picture)
    return buffer.getvalue()


class ImageWithAlt:
    """PNG bytes with their alternative text, for ``display``.

    JupyterLab leaves out the alternative text of a PNG, but keeps that of an HTML ``<img>``: a live page gets both. GitHub may
    drop such an ``<img>``, so ``make notebooks`` sets LDM_TUTORIAL_STATIC, and committed notebooks hold the PNG alone.
    """

    def __init__(self, content: bytes, alt: str):
        self.content, self.alt = content, alt

    def __repr__(self) -> str:
        return "picture"

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        static = os.environ.get("LDM_TUTORIAL_STATIC")
        data = {"image/png": base64.b64encode(quantize_png(self.content) if static else self.content).decode()}
        if not static:
            width, height = png_size(self.content)
            size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
            data["text/html"] = f'<img alt="{html.escape(self.alt)}" {size} src="data:image/png;base64,{data["image/png"]}">'
        return data, {"image/png": {"alt": self.alt}}


def quantize_png(content: bytes, above: int = 120_000) -> bytes:
    """A PNG of more than ``above`` bytes with 256 colours, about a third of its size: a repository keeps every version."""
    image, buffer = Image.open(io.BytesIO(content)), io.BytesIO()
    if len(content) <= above or image.mode == "P":
        return content
    image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, from a PNG's header."""
    return struct.unpack(">II", content[16:24])


def show(picture, alt: str) -> None:
    """Display a matplotlib figure or a PIL image in a notebook with its alternative text."""
    from IPython.display import display

    display(ImageWithAlt(png(picture), alt))


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def as_uint8(image) -> np.ndarray:
    """A picture as uint8 [H, W, 3], from a PIL image, an array or tensor uint8 [H, W, 3], or floats [3, H, W] in -1..1."""
    image = _array(image)
    if image.dtype != np.uint8:
        image = ((image.transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    return image


def grid(
    images: Sequence,
    columns: int | None = None,
    zoom: int = 2,
    gap: int = 4,
    frames: Sequence[str | None] | None = None,
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures side by side, each enlarged ``zoom`` times without smoothing, to the first one's size.

    ``frames`` gives some a coloured border; ``titles`` stand over the columns. Tens of times faster than :func:`pictures`."""
    from PIL import ImageDraw, ImageFont

    images = [as_uint8(i) for i in images]
    columns = columns or min(len(images), 8)
    h, w = images[0].shape[0] * zoom, images[0].shape[1] * zoom
    rows = math.ceil(len(images) / columns)
    head = 22 if titles else 0
    sheet = Image.new("RGB", (columns * (w + gap) + gap, rows * (h + gap) + gap + head), "white")
    for i, title in enumerate(titles or []):
        middle = gap + i * (w + gap) + w / 2, head / 2
        ImageDraw.Draw(sheet).text(middle, title, COLORS["ink"], ImageFont.load_default(14), anchor="mm")
    for i, image in enumerate(images):
        x, y = gap + (i % columns) * (w + gap), head + gap + (i // columns) * (h + gap)
        if frames and frames[i]:
            sheet.paste(frames[i], (x - gap, y - gap, x + w + gap, y + h + gap))
        sheet.paste(Image.fromarray(image).resize((w, h), Image.NEAREST), (x, y))
    return sheet


def pictures(
    images: Sequence,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    size: float = 1.5,
    title: str | None = None,
):
    """A matplotlib figure of pictures in a grid with a title over each, wrapped where it is wider than its picture."""
    import matplotlib.pyplot as plt

    style()
    columns = columns or min(len(images), 6)
    rows = math.ceil(len(images) / columns)
    fits = int(size * 14)  # characters of a title over one picture
    titles = ["\n".join(textwrap.fill(line, fits) for line in title.split("\n")) for title in titles or []]
    lines = max((t.count("\n") + 1 for t in titles), default=0)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size, rows * (size + 0.22 * lines) + (0.4 if title else 0)),
        squeeze=False,
        layout="constrained",
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(as_uint8(images[i]), interpolation="nearest")
            if titles:
                axis.set_title(titles[i], fontsize=9)
    if title:
        figure.suptitle(title)
    return figure


def latent_maps(latents) -> np.ndarray:
    """The first three channels of latents [C, H, W] as a colour picture uint8 [H, W, 3] (-3..3 becomes 0..255)."""
    z = _array(latents)[:3].transpose(1, 2, 0)
    return ((z / 6 + 0.5).clip(0, 1) * 255).astype(np.uint8)


def heat_overlay(image, heat) -> np.ndarray:
    """A picture [64, 64] pixels under a heat map [64, 64] of 0 (dark blue) to 1 (yellow): uint8 [64, 64, 3]."""
    from matplotlib import colormaps

    tint = colormaps["viridis"](_array(heat))[..., :3] * 255
    return (0.35 * as_uint8(image) + 0.65 * tint).astype(np.uint8)


def contact_sheet(seed: int = 0, zoom: int = 1, images=None) -> Image.Image:
    """Every object (rows) in every material (columns), one view of each, with their names; held-out pairs are framed.

    ``images`` uint8 [288, 64, 64, 3], in the order of ``pairs("all")``, replaces the renders."""
    from PIL import ImageDraw

    from ..curios import MATERIALS, OBJECTS, Curios, held_out

    if images is None:
        images = Curios("all", len(OBJECTS) * len(MATERIALS), seed).images
    frames = [COLORS["red"] if held_out(o, m) else None for o in OBJECTS for m in MATERIALS]
    table = grid(_array(images), len(MATERIALS), zoom, 3, frames)
    left, top = 92, 22
    sheet = Image.new("RGB", (table.width + left, table.height + top), "white")
    sheet.paste(table, (left, top))
    draw, step = ImageDraw.Draw(sheet), 64 * zoom + 3
    for i, name in enumerate(OBJECTS):
        draw.text((left - 6, top + 3 + i * step + 32 * zoom), name, "black", anchor="rm", font_size=12)
    for j, name in enumerate(MATERIALS):
        draw.text((left + 3 + j * step + 32 * zoom, 12), name, "black", anchor="mm", font_size=11)
    return sheet
