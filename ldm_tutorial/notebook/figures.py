"""Figures: one visual style for the whole course, each picture with a text for those who can't see it.

Pictures of pixels are put together with Pillow (:func:`pictures` and what builds on it), charts and diagrams with matplotlib.
Each function returns a picture or a figure, and :func:`show` puts it on the page::

    show(before_and_after(images[:6], decoded[:6], ["original", "after the autoencoder"]), alt="...")
    show(bars_with_intervals({"trained": (0.98, 0.95, 1.0), "untrained": (0.11, 0.06, 0.18)}, "right pictures"))
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont, ImageOps

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
# One colour for one thing through the whole course: the three parts of the system, and the two sides of a comparison
SPACES = {"pixel": "#D55E00", "latent": "#009E73", "text": "#0072B2"}
ROLES = {"ours": "#882255", "library": "#B8860B", "trained": "#222222", "untrained": "#8A8A8A"}
MARKERS = ["o", "s", "^", "D", "v", "P"]
STYLE = Path(__file__).with_name("course.mplstyle")
GAP = 8  # pixels between pictures, and around them
FONT = ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 16)


def style() -> None:
    """Set matplotlib's defaults for a notebook's own figures. The functions here bring theirs along."""
    mpl.style.use(STYLE)


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
    if len(content) <= above or image.mode == "P" or getattr(image, "is_animated", False):
        return content
    image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels."""
    return Image.open(io.BytesIO(content)).size


def show(picture, alt: str = "") -> None:
    """Display a matplotlib figure or a PIL image in a notebook with its alternative text.

    Charts and diagrams of this module describe themselves, from the numbers that they show, where no ``alt`` is given.

    Raises:
        ValueError: when there is no text for those who can't see the picture.
    """
    from IPython.display import display

    if not alt and isinstance(picture, Figure):
        alt = str(picture.get_label())
    if not alt:
        raise ValueError("Say what the picture shows, for those who can't see it: show(picture, alt=...)")
    display(ImageWithAlt(png(picture), alt))


# ---- Pictures of pixels ----


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def as_uint8(image) -> np.ndarray:
    """A picture as uint8 [H, W, 3], from a PIL image, an array or tensor uint8 [H, W, 3], or floats [3, H, W] in -1..1."""
    image = _array(image)
    if image.dtype != np.uint8:
        image = ((image.transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    return image


def latent_maps(latents) -> np.ndarray:
    """The first three channels of latents [C, H, W] as a colour picture uint8 [H, W, 3] (-3..3 becomes 0..255)."""
    z = _array(latents)[:3].transpose(1, 2, 0)
    return ((z / 6 + 0.5).clip(0, 1) * 255).astype(np.uint8)


def _size(text: str) -> tuple[int, int]:
    """Width and height of a text in pixels, with the room below it that no other text should enter."""
    if not text:
        return 0, 0
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, FONT, spacing=3)
    return math.ceil(right), math.ceil(bottom) + 6


def _wrap(text: str, width: int) -> str:
    """The text in lines of at most ``width`` pixels; only words that are longer than a line are broken."""
    wrapped = []
    for paragraph in text.split("\n"):
        lines = [paragraph]
        letters = min(len(paragraph), width // 3)  # no letter is narrower than 3 pixels
        while letters and any(_size(line)[0] > width for line in lines):
            lines = textwrap.wrap(paragraph, letters)
            letters -= 1
        wrapped += lines
    return "\n".join(wrapped)


def _write(picture: Image.Image, place: tuple[float, float], text: str, anchor: str) -> None:
    """Write a text at a place; ``anchor`` says which point of the text stands there (Pillow's letters)."""
    align = {"l": "left", "m": "center", "r": "right"}[anchor[0]]
    ImageDraw.Draw(picture).multiline_text(place, text, COLORS["ink"], FONT, anchor=anchor, spacing=3, align=align)


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, each in the middle."""
    width = max(part.width for part in parts)
    height = sum(part.height for part in parts)
    sheet = Image.new("RGB", (width, height), "white")
    y = 0
    for part in parts:
        sheet.paste(part, ((width - part.width) // 2, y))
        y += part.height
    return sheet


def _scaled(image, side: int | None) -> Image.Image:
    """A picture whose longer side is ``side`` pixels: its own pixels stay visible as squares, unless it is made smaller."""
    picture = Image.fromarray(as_uint8(image)).convert("RGB")
    if side is None:
        return picture
    how = Image.Resampling.NEAREST if side >= max(picture.size) else Image.Resampling.LANCZOS
    return ImageOps.contain(picture, (side, side), how)


def pictures(
    images: Sequence,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    size: float | None = 1.28,
    title: str = "",
    names: Sequence[str] = (),
    frames: Sequence[str | None] = (),
    gap: int = GAP,
) -> Image.Image:
    """Pictures in rows, a title over each, ``names`` at the left of the rows, and one ``title`` over all.

    ``size`` is a picture's longer side in hundreds of screen pixels, rounded to a multiple of 64 pixels, so that all pixels of
    a small picture are equally large, and at least 128 (None: as large as the pictures are). Titles are wrapped where they
    are wider than their picture. ``frames`` gives some a border of a colour; ``gap`` is the room between them, in pixels.
    """
    columns = columns or min(len(images), 6)
    images = [_scaled(image, None if size is None else 64 * max(2, round(size * 100 / 64))) for image in images]
    side = max(image.width for image in images)
    names = [_wrap(name, 120) for name in names]
    left = max((_size(name)[0] + gap for name in names), default=0) + gap
    width = left + columns * (side + gap)
    heading = _wrap(title, width - 2 * gap)
    titles = [_wrap(text, side) for text in titles or []]
    starts = range(0, len(images), columns)
    names += [""] * (len(starts) - len(names))
    lift = gap if any(frames) else 0  # so that no frame covers the title over it
    heads, heights = [], []  # of each row: the room for its titles, the height of its pictures
    for k in starts:
        row_titles = [_size(text)[1] for text in titles[k : k + columns]]
        heads.append(max(row_titles) + lift if row_titles else 0)
        heights.append(max(image.height for image in images[k : k + columns]))
    y = _size(heading)[1] + gap
    sheet = Image.new("RGB", (width, y + sum(heads) + sum(heights) + gap * len(starts)), "white")
    _write(sheet, (width / 2, gap), heading, "ma")
    for k, head, height, name in zip(starts, heads, heights, names, strict=True):
        y += head
        _write(sheet, (left - gap, y + height / 2), name, "rm")
        for i, image in enumerate(images[k : k + columns]):
            x = left + i * (side + gap) + (side - image.width) // 2
            frame = frames[k + i] if frames else None
            if frame:
                sheet.paste(frame, (x - gap, y - gap, x + image.width + gap, y + image.height + gap))
            sheet.paste(image, (x, y))
        for i, text in enumerate(titles[k : k + columns]):
            _write(sheet, (left + i * (side + gap) + side / 2, y - 4 - lift), text, "md")
        y += height + gap
    return sheet


def grid(
    images: Sequence, columns: int | None = None, zoom: int = 2, gap: int = 4, frames: Sequence = (), titles: Sequence = ()
) -> Image.Image:
    """Pictures side by side, each enlarged ``zoom`` times without smoothing.

    ``frames`` gives some a coloured border; ``titles`` stand over the columns."""
    larger = [ImageOps.scale(Image.fromarray(as_uint8(image)), zoom, Image.Resampling.NEAREST) for image in images]
    return pictures(larger, titles, columns or min(len(images), 8), None, frames=frames, gap=gap)


def strip(images: Sequence, titles: Sequence[str] | None = None, size: float | None = 1.28) -> Image.Image:
    """Pictures in one row, a title over each."""
    return pictures(images, titles, len(images), size)


def in_rows(rows: Mapping[str, Sequence], titles: Sequence[str] | None = None, size: float = 1.28) -> Image.Image:
    """Rows of pictures, each row under its name at the left; ``titles`` stand over the columns."""
    every = list(itertools.chain.from_iterable(rows.values()))
    return pictures(every, titles, len(every) // len(rows), size, names=list(rows))


def heat_overlay(image, heat) -> np.ndarray:
    """A picture [H, W], in grey, under a heat map [h, w] of 0 (dark blue) to 1 (yellow): uint8 [H, W, 3]."""
    picture = Image.fromarray(as_uint8(image))
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    level = np.asarray(Image.fromarray(_array(heat).astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    tint = mpl.colormaps["viridis"](level)[..., :3] * 255
    return (0.25 * grey + 0.75 * tint).astype(np.uint8)


def heat_map(image, heat, word: str) -> Image.Image:
    """A picture, and beside it where a word acts in it (a map of 0 to 1, as in :func:`heat_overlay`), with its colour bar.

    Without a map (None) the place beside the picture stays empty: the size is the same.
    """
    blank = Image.new("RGB", (64, 64), "white")
    other = blank if heat is None else heat_overlay(image, heat)
    pair = pictures([image, other], ["the picture", " " if heat is None else f"where {word!r} acts"], 2, 3.2)
    sheet = Image.new("RGB", (pair.width + 78, pair.height), "white")
    sheet.paste(pair)
    if heat is not None:
        side = (pair.width - 3 * GAP) // 2
        top = pair.height - GAP - side
        levels = np.linspace(1, 0, side)[:, None].repeat(16, 1)
        sheet.paste(Image.fromarray(heat_overlay(np.full((side, 16, 3), 128, np.uint8), levels)), (pair.width, top))
        for share, text in ((0, "most"), (0.5, "half"), (1, "least")):
            _write(sheet, (pair.width + 20, top + 7 + share * (side - 14)), text, "lm")
    return sheet


def animation(
    frames: Sequence,
    alt: str,
    seconds: float,
    titles: Sequence[str],
    names: Sequence[str],
    most: int = 400_000,
) -> ImageWithAlt:
    """Pictures one after the other, over a strip of six of them for paper and for whoever reads slowly: one animated PNG.

    It plays once and rests on its last frame. A frame is a picture, or a list of pictures side by side, which ``names``
    name; ``titles`` say for each frame what it is.

    Raises:
        ValueError: for more than five seconds (what moves for longer must have a button that stops it), and for more than
            ``most`` bytes in 32 colours.
    """
    if not 0 < seconds <= 5:
        raise ValueError(f"An animation takes at most five seconds, not {seconds}")
    panels = [list(frame) if isinstance(frame, list | tuple) else [frame] for frame in frames]
    chosen = np.linspace(0, len(panels) - 1, min(6, len(panels))).round().astype(int).tolist()
    some = []
    for k in range(len(panels[0])):
        some += [panels[i][k] for i in chosen]
    below = pictures(some, [titles[i] for i in chosen], 6, names=names)
    tops = [pictures(row, names, len(row), 2.56, title) for row, title in zip(panels, titles, strict=True)]
    sheets = [stack([top, below]) for top in tops]
    sample = below.resize((below.width // 2, below.height // 2), Image.Resampling.NEAREST)  # enough to choose colours from
    for colours in (256, 96, 32):
        palette = sample.quantize(colours, kmeans=1, dither=Image.Dither.NONE)
        film = [sheet.quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
        buffer = io.BytesIO()
        film[0].save(
            buffer,
            format="PNG",
            save_all=True,
            append_images=film[1:],
            duration=int(1000 * seconds / len(film)),
            loop=1,
        )
        if buffer.tell() <= most:
            return ImageWithAlt(buffer.getvalue(), alt)
    raise ValueError(f"The animation has {buffer.tell():,} bytes, which is more than {most:,}: give fewer frames")


def contact_sheet(seed: int = 0, images=None) -> Image.Image:
    """Every object (rows) in every material (columns), one view of each, with their names; held-out pairs are framed.

    ``images`` uint8 [288, 64, 64, 3], in the order of ``pairs("all")``, replaces the renders."""
    from ..curios import MATERIALS, OBJECTS, Curios, held_out

    if images is None:
        images = Curios("all", len(OBJECTS) * len(MATERIALS), seed).images
    frames = []
    for pair in itertools.product(OBJECTS, MATERIALS):
        frames.append(COLORS["red"] if held_out(*pair) else None)
    return pictures(images, list(MATERIALS), len(MATERIALS), names=list(OBJECTS), frames=frames)


# ---- Charts ----


def _numbers(value) -> tuple[float, float, float]:
    """A measured number with the ends of its interval, from a number, three of them, or a table with ``value, low, high``."""
    if isinstance(value, Mapping):
        return value["value"], value["low"], value["high"]
    if isinstance(value, Sequence):
        return value[0], value[1], value[2]
    return value, value, value


@mpl.rc_context(fname=STYLE)
def bars_with_intervals(
    found: Mapping[str, object],
    label: str,
    colors: Mapping[str, str] | None = None,
    form: str = "{:.2f}",
    reference: tuple[float, str] | None = None,
) -> Figure:
    """A bar for each measured number, the number at its end, and a line for its interval where it has one.

    ``found`` has numbers, (value, low, high), or tables with these three, by the names of the bars; ``reference`` is a place
    and its name, for a line across all bars (chance, a floor); ``colors`` gives some of the bars another colour.
    """
    numbers = {name: _numbers(value) for name, value in found.items()}
    figure = Figure(figsize=(7.4, 0.95 + 0.36 * len(found)), layout="constrained")
    axis = figure.subplots()
    for k, (name, (value, low, high)) in enumerate(numbers.items()):
        color = (colors or {}).get(name, COLORS["sky"])
        axis.barh(k, value, color=color)
        if low < high:
            axis.plot([low, high], [k, k], color=COLORS["ink"], marker="|", linewidth=1.5)
        axis.annotate(form.format(value), (max(value, high), k), (7, 0), textcoords="offset points", va="center")
    if reference:
        axis.axvline(reference[0], color=COLORS["ink"], linestyle="--", linewidth=1)
        axis.annotate(reference[1], (reference[0], -0.62), (3, 0), textcoords="offset points", va="center", fontsize=10)
    axis.set_yticks(range(len(numbers)), [textwrap.fill(name, 34) for name in numbers])
    axis.set_ylim(len(numbers) - 0.4, -1 if reference else -0.6)
    axis.set_xlim(right=1.12 * max(high for _, _, high in numbers.values()))
    some = any(low < high for _, low, high in numbers.values())
    axis.set_xlabel(f"{label} (lines: 95% intervals)" if some else label)
    told = [f"{name} {form.format(value)}" for name, (value, _, _) in numbers.items()]
    figure.set_label(f"Bars, {label}: {'; '.join(told)}")
    return figure


@mpl.rc_context(fname=STYLE)
def curve(
    lines: Mapping[str, tuple[Sequence, Sequence]],
    xlabel: str,
    ylabel: str,
    title: str,
    colors: Mapping[str, str],
    dashes: Mapping[str, str],
) -> Figure:
    """Lines (x values, y values) by their names, told apart by colour, mark and dash (matplotlib's "-", "--" or ":")."""
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    axis = figure.subplots()
    told = []
    for (name, (x, y)), mark in zip(lines.items(), itertools.cycle(MARKERS), strict=False):
        (line,) = axis.plot(x, y, label=textwrap.fill(name, 24), linewidth=2, markersize=5)
        line.set(color=colors[name], linestyle=dashes[name], marker=mark)
        told.append(f"{name} from {y[0]:.3g} at {x[0]:.3g} to {y[-1]:.3g} at {x[-1]:.3g}")
    axis.set(xlabel=xlabel, ylabel=ylabel, title=textwrap.fill(title, 70))
    figure.legend(loc="outside right upper")
    figure.set_label(f"Lines, {ylabel} against {xlabel}: {'; '.join(told)}")
    return figure


# ---- Diagrams ----


@mpl.rc_context(fname=STYLE)
def boxes(line: Sequence, form: str = "{:.1f}", largest: float | None = None) -> Figure:
    """Small matrices with their numbers, a box for each number, and what is done with them: attention on a page.

    ``line`` has texts, such as "×", and matrices: (name, [rows, columns], names of the rows, names of the columns). Orange
    boxes are positive, purple ones negative, the stronger the larger: in full at ``largest``, or else at each matrix's own.
    """
    ratios = [0.6 if isinstance(part, str) else len(part[3]) + 1 for part in line]
    tall = 1 + max(len(part[2]) for part in line if not isinstance(part, str))
    figure = Figure(figsize=(0.8 * sum(ratios), 0.4 * tall + 0.4), layout="constrained")
    told = []
    for axis, part in zip(figure.subplots(1, len(line), width_ratios=ratios, squeeze=False)[0], line, strict=True):
        axis.axis("off")
        if isinstance(part, str):
            axis.text(0.5, 0.5, part, ha="center", va="center", fontsize=13)
            continue
        name, matrix, rows, columns = part
        matrix = _array(matrix)
        strengths = matrix / (largest or abs(matrix).max() + 1e-9)  # -1..1
        tints = mpl.colormaps["PuOr_r"](0.5 + strengths / 4)  # pale enough for black numbers
        texts = [["", *columns]]
        colors = [["white"] * (len(columns) + 1)]
        for row, numbers, tint in zip(rows, matrix, tints, strict=True):
            texts.append([row, *map(form.format, numbers)])
            colors.append(["white", *tint])
        high = len(texts) / tall
        table = axis.table(texts, colors, cellLoc="center", bbox=(0, 1 - high, 1, high))
        table.auto_set_font_size(False)
        for (i, j), cell in table.get_celld().items():
            cell.set(linewidth=0.8 if i and j else 0)
        axis.set_title(name, weight="bold")
        told.append(f"{name} {np.round(np.asarray(matrix, np.float64), 2).tolist()}")
    figure.set_label(f"Matrices as boxes of numbers: {'; '.join(told)}")
    return figure


# What flows along the arrows of the map, in the shipped model, without the batch; the prompt is what one types
SHAPES = {"pixels": "3×64×64", "latents": "8×16×16", "tokens": "77", "text": "77×128", "prompt": ""}
MAP = json.loads(Path(__file__).with_name("course_map.json").read_text(encoding="utf-8"))  # boxes and arrows, in inches


@mpl.rc_context(fname=STYLE)
def course_map(*here: str, dashed: str = "only in training") -> Figure:
    """The system with the shape of what flows along each arrow; a star and a ring at the parts ``here``. ``dashed`` says when
    the dashed arrows are used."""
    figure = Figure(figsize=(9.4, 3.8))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 9.4), ylim=(0, 3.8))
    axis.axis("off")
    for space, (left, right) in MAP["rooms"].items():
        low = 1.3 if space == "text" else 0.1
        room = FancyBboxPatch((left, low), right - left, 3.72 - low, "round,pad=0,rounding_size=0.12")
        room.set(facecolor=SPACES[space] + "1c", edgecolor="none")
        axis.add_patch(room)
        title = axis.text((left + right) / 2, 3.5, "text" if space == "text" else f"{space} space", ha="center", va="center")
        title.set(color=SPACES[space], weight="bold", fontsize=13)
    for name, part in MAP["parts"].items():
        (x, y), space, computes = part["at"], part["space"], part["computes"]
        half = part.get("half", 0.57)  # of its width: "★ text encoder" needs more than the others
        box = FancyBboxPatch((x - half, y - 0.22), 2 * half, 0.44, "round,pad=0,rounding_size=0.08")
        box.set(facecolor=SPACES[space] if computes else "white", edgecolor=SPACES[space], linewidth=1.5)
        if name in here:
            box.set(edgecolor=COLORS["ink"], linewidth=4)
        axis.add_patch(box)
        color = "white" if computes else COLORS["ink"]
        axis.text(x, y, f"★ {name}" if name in here else name, color=color, ha="center", va="center", fontsize=11)
    labels = SHAPES | {"when dashed": dashed}
    for arrow in MAP["arrows"]:
        start, end, text = arrow["from"], arrow["to"], labels.get(arrow["flows"], arrow["flows"])
        line = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5}
        dashes = "--" if arrow["training"] else "-"
        axis.annotate("", end, start, arrowprops=line | {"color": COLORS["ink"], "linestyle": dashes})
        x, y = arrow["text_at"]
        axis.text(x, y, text, ha=arrow["align"], va="center", fontsize=10)
    if here:
        axis.text(7.5, 0.35, "★ you are here", va="center", fontsize=10, weight="bold")
    figure.set_label(
        "Map of the system. Pixel space: an image goes through the encoder to latents, and the decoder makes a picture of "
        "latents. Latent space: noise enters the U-Net, the scheduler takes a step and hands the latents back to the U-Net, "
        "after the last step to the decoder; in training noise is added to the image's latents. Text: prompt, tokenizer, text "
        "encoder, U-Net." + (f" You are here: {', '.join(here)}." if here else "")
    )
    return figure
