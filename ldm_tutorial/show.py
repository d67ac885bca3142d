"""Figures: one visual style for the whole course, each picture with a text for those who can't see it."""

from __future__ import annotations

import io
import math
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


def png(picture) -> bytes:
    """A PIL image, or a matplotlib figure at its own fixed size (it is closed), as PNG bytes."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG")
    else:
        import matplotlib.pyplot as plt

        picture.savefig(buffer, format="png", metadata={"Software": None})
        plt.close(picture)
    return buffer.getvalue()


def show(picture, alt: str) -> None:
    """Display a matplotlib figure or a PIL image in a notebook with its alternative text."""
    from IPython.display import Image as Shown
    from IPython.display import display

    display(Shown(png(picture), alt=alt))


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
) -> Image.Image:
    """Pictures side by side, each enlarged ``zoom`` times without smoothing; ``frames`` gives some a coloured border."""
    images = [as_uint8(i) for i in images]
    columns = columns or min(len(images), 8)
    h, w = images[0].shape[0] * zoom, images[0].shape[1] * zoom
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (w + gap) + gap, rows * (h + gap) + gap), "white")
    for i, image in enumerate(images):
        x, y = gap + (i % columns) * (w + gap), gap + (i // columns) * (h + gap)
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
    """A matplotlib figure of pictures in a grid with a title over each."""
    import matplotlib.pyplot as plt

    style()
    columns = columns or min(len(images), 6)
    rows = math.ceil(len(images) / columns)
    lines = max((t.count("\n") + 1 for t in titles), default=0) if titles else 0
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


def contact_sheet(seed: int = 0, zoom: int = 1) -> Image.Image:
    """Every object (rows) in every material (columns), one view of each, with their names; held-out pairs are framed."""
    from PIL import ImageDraw

    from .curios import MATERIALS, OBJECTS, Curios, held_out

    data = Curios("all", len(OBJECTS) * len(MATERIALS), seed)
    frames = [COLORS["red"] if held_out(o, m) else None for o in OBJECTS for m in MATERIALS]
    table = grid(data.images.numpy(), len(MATERIALS), zoom, 3, frames)
    left, top = 92, 22
    sheet = Image.new("RGB", (table.width + left, table.height + top), "white")
    sheet.paste(table, (left, top))
    draw, step = ImageDraw.Draw(sheet), 64 * zoom + 3
    for i, name in enumerate(OBJECTS):
        draw.text((left - 6, top + 3 + i * step + 32 * zoom), name, "black", anchor="rm", font_size=12)
    for j, name in enumerate(MATERIALS):
        draw.text((left + 3 + j * step + 32 * zoom, 12), name, "black", anchor="mm", font_size=11)
    return sheet


class LiveCurve:
    """A loss curve that redraws itself in place while a model trains; pass it to ``fit`` as ``on_step``.

    The grey line is every step, the coloured one a running mean; ``good`` shades the range to expect at the end.
    """

    def __init__(self, title: str, steps: int, every: int = 25, good: tuple[float, float] | None = None):
        from IPython.display import Image as Shown
        from IPython.display import display

        self.title, self.steps, self.every, self.good, self.losses, self.first = title, steps, every, good, [], 0
        self.handle = display(Shown(self._draw(), alt=f"Loss curve of {title}"), display_id=True)

    def __call__(self, step: int, loss: float) -> None:
        from IPython.display import Image as Shown

        self.first = step if not self.losses else self.first  # a resumed run starts later
        self.losses.append(loss)
        if len(self.losses) % self.every == 0 or step + 1 == self.steps:
            alt = f"Loss curve of {self.title}: {self.losses[-1]:.3f} after {step + 1} steps"
            self.handle.update(Shown(self._draw(), alt=alt))

    def _draw(self) -> bytes:
        import matplotlib.pyplot as plt

        style()
        figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
        if self.losses:
            mean = np.convolve(self.losses, np.ones(w := min(20, len(self.losses))) / w, "valid")
            steps = self.first + np.arange(len(self.losses))
            axis.plot(steps, self.losses, color="0.8", linewidth=0.8)
            axis.plot(steps[w - 1 :], mean, linewidth=2)
            axis.set_ylim(0, np.quantile(self.losses, 0.98) * 1.2)
        if self.good:
            axis.axhspan(*self.good, color=COLORS["green"], alpha=0.2, label="good at the end")
            axis.legend(loc="upper right")
        axis.set(xlim=(0, self.steps), xlabel="step", ylabel="loss", title=self.title)
        return png(figure)


def system_map(shapes: dict[str, Sequence[int] | int]):
    """The whole system with the shape of what flows along every arrow; counterpart of Rombach et al. 2022, figure 3.

    ``shapes`` holds, without the batch: "image", "latents", "noise", "noisy", "denoised", "picture" (channels, height,
    width), "prompt" (number of characters), "tokens" (their number), "text" (tokens, width).
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    style()
    figure, axis = plt.subplots(figsize=(10, 6.4))
    figure.subplots_adjust(0, 0, 1, 1)
    axis.set(xlim=(0, 10), ylim=(0, 6.4))
    axis.axis("off")
    label = {k: "×".join(map(str, v)) if isinstance(v, Sequence) else str(v) for k, v in shapes.items()}

    def box(x: float, y: float, width: float, text: str, space: str, part: bool = False) -> None:
        """A box around (x, y): filled for a network or other part that computes, white for what flows."""
        patch = {"boxstyle": "round,pad=0,rounding_size=0.12", "edgecolor": SPACES[space], "linewidth": 2}
        fill = SPACES[space] if part else "white"
        axis.add_patch(FancyBboxPatch((x - width / 2, y - 0.35), width, 0.7, facecolor=fill, **patch))
        look = {"color": "white", "weight": "bold"} if part else {"color": COLORS["ink"]}
        axis.text(x, y - 0.02, text, ha="center", va="center", fontsize=14, linespacing=1.05, **look)

    def arrow(start: tuple, end: tuple, text: str, at: tuple, training: bool = False, bend: float = 0) -> None:
        line = {"arrowstyle": "-|>", "mutation_scale": 20, "linewidth": 2, "color": COLORS["ink"], "shrinkA": 0, "shrinkB": 0}
        if training:  # a dashed shaft under a head of its own: dashes would fray the head
            axis.plot(*zip(start, end, strict=True), color=COLORS["ink"], linewidth=2, linestyle=(0, (3, 2)))
            start = tuple(b - 0.02 * ((b > a) - (b < a)) for a, b in zip(start, end, strict=True))
        axis.annotate("", end, start, arrowprops=line | {"connectionstyle": f"arc3,rad={bend}"})
        axis.text(*at, text, ha="center", va="center", fontsize=13, color=COLORS["ink"])

    for name, left, low, width in (("pixel", 0.1, 0.1, 2.6), ("latent", 2.9, 0.1, 4.3), ("text", 7.4, 1.5, 2.5)):
        tint = {"boxstyle": "round,pad=0,rounding_size=0.2", "facecolor": SPACES[name] + "1c", "edgecolor": "none"}
        axis.add_patch(FancyBboxPatch((left, low), width, 6.3 - low, **tint))
        title = name if name == "text" else f"{name} space"
        axis.text(left + width / 2, 5.98, title, ha="center", va="center", fontsize=16, weight="bold", color=SPACES[name])

    for y, text, part in ((5.25, "image", 0), (3.7, "encoder", 1), (2.15, "decoder", 1), (0.6, "picture", 0)):
        box(1.4, y, 1.8, text, "pixel", bool(part))
    for y, text, part in ((5.25, "prompt", 0), (3.7, "tokenizer", 1), (2.15, "text encoder", 1)):
        box(8.65, y, 2.1, text, "text", bool(part))
    box(5.25, 5.25, 2.3, "random noise", "latent")
    box(4.85, 3.7, 1.5, "add noise", "latent", True)
    box(5.25, 2.15, 2.3, "U-Net with\ncross-attention", "latent", True)
    arrow((1.4, 4.9), (1.4, 4.05), label["image"], (0.82, 4.48), training=True)
    arrow((2.3, 3.7), (4.1, 3.7), label["latents"], (3.5, 3.93), training=True)
    arrow((4.85, 4.9), (4.85, 4.05), label["noise"], (4.27, 4.48), training=True)
    arrow((4.85, 3.35), (4.85, 2.5), label["noisy"], (4.27, 2.93), training=True)
    arrow((6.0, 4.9), (6.0, 2.5), label["noise"], (6.58, 2.93))
    arrow((5.95, 1.8), (4.55, 1.8), f"{label['noisy']}, a little cleaner each time", (5.05, 0.75), bend=-0.9)
    arrow((4.1, 2.15), (2.3, 2.15), label["denoised"], (3.5, 2.38))
    arrow((1.4, 1.8), (1.4, 0.95), label["picture"], (0.82, 1.38))
    arrow((8.3, 4.9), (8.3, 4.05), f"{label['prompt']} characters", (9.1, 4.48))
    arrow((8.3, 3.35), (8.3, 2.5), f"{label['tokens']} tokens", (8.95, 2.93))
    arrow((7.6, 2.15), (6.4, 2.15), label["text"], (6.81, 2.38))
    arrow((7.4, 0.95), (8.0, 0.95), "making a picture", (8.98, 0.95))
    arrow((7.4, 0.5), (8.0, 0.5), "only in training", (8.91, 0.5), training=True)
    return figure
