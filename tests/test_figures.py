"""Figures: a palette that everyone can tell apart, a text for every picture, and no word that is cut or covered."""

import base64
import io
import json
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image, ImageDraw

from ldm_tutorial.files import WEIGHTS
from ldm_tutorial.notebook import figures
from ldm_tutorial.notebook.figures import COLORS, ROLES, SPACES, ImageWithAlt, png, png_size
from ldm_tutorial.notebook.live import LiveCurve

# The package holds colours alone, and no formula of how they are seen: what follows tests them, and repeats no code of it.
# Machado, Oliveira and Fernandes 2009, table 1, severity 1: what is seen, in linear RGB, from what is shown
SEEN = {
    "by most": np.eye(3),
    "without red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "without blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LINES = ["blue", "orange", "green", "red", "purple", "sky"]


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("colours", [{name: COLORS[name] for name in LINES}, SPACES, ROLES], ids=["lines", "spaces", "roles"])
def test_colours_are_told_apart(eyes, colours):
    seen = {name: lab(SEEN[eyes] @ linear(colour)) for name, colour in colours.items()}
    for a, b in combinations(colours, 2):
        distance = np.linalg.norm(seen[a] - seen[b])
        assert distance > 10, f"{a} and {b} are {distance:.0f} apart; 2 is just noticeable"


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast(COLORS["ink"], "#ffffff") > 7
    assert all(contrast(colour, "#ffffff") > 3 for colour in [*SPACES.values(), *ROLES.values()]), "WCAG 1.4.11"


def test_a_picture_has_its_text_and_its_size(monkeypatch):
    content = png(Image.new("RGB", (30, 20)))
    assert png_size(content) == (30, 20)
    data, metadata = ImageWithAlt(content, 'a <"quoted"> picture')._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == content and metadata["image/png"]["alt"] == 'a <"quoted"> picture'
    assert 'alt="a &lt;&quot;quoted&quot;&gt; picture" width="30" height="20"' in data["text/html"]
    monkeypatch.setenv("LDM_TUTORIAL_STATIC", "1")
    assert set(ImageWithAlt(content, "")._repr_mimebundle_()[0]) == {"image/png"}


def test_show_wants_a_text(capsys):
    with pytest.raises(ValueError, match="can't see it"):
        figures.show(Image.new("RGB", (8, 8)))
    figures.show(figures.course_map())
    assert "picture" in capsys.readouterr().out


def test_quantized_pictures_keep_size_and_colours():
    gradient = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    content = png(gradient)
    small = Image.open(io.BytesIO(figures.quantize_png(content, 0)))
    assert small.size == gradient.size and small.mode == "P" and len(figures.quantize_png(content, 0)) < len(content) / 2
    assert np.abs(np.asarray(small.convert("RGB")).astype(int) - np.asarray(gradient)).mean() < 30
    assert figures.quantize_png(content) == content, "small ones stay as they are"


# ---- Every figure, rendered: is a word cut off at the margin, or written over another? ----

TINTS = [np.full((64, 64, 3), 40 * k, np.uint8) for k in range(1, 7)]
LATENT = torch.linspace(-1, 1, 3 * 16 * 16).view(3, 16, 16)
HEAT = np.linspace(0, 1, 64 * 64).reshape(64, 64)
LONG = "a checkerboard-patterned umbrella in the style of a watermelon, photographed from far above"
PLACES, WORDS, PARTS = ["place 1", "place 2", "place 3"], ["avocado", "armchair"], ["part 1", "part 2"]
NUMBERS = np.array([[1.0, -0.25], [0.5, 2.0], [0.0, -1.0]])
MEASURED = {"value": 0.75, "low": 0.66, "high": 0.82, "n": 64}
FIGURES = {
    "pictures": lambda: figures.pictures(TINTS, [LONG, "short"] * 3, 3, title=f"Six pictures: {LONG}"),
    "pictures of other shapes": lambda: figures.pictures([TINTS[0][:30], LATENT, TINTS[1]], ["wide", "latent", "square"]),
    "strip": lambda: figures.strip(TINTS, [f"step {k}\nof 20" for k in range(6)]),
    "in_rows": lambda: figures.in_rows({"original": TINTS[:3], "autoencoder, f = 4": TINTS[3:]}, ["one", "two", "three"]),
    "in_rows with a long name": lambda: figures.in_rows({"original": TINTS[:3], LONG: TINTS[3:]}),
    "grid": lambda: figures.grid(TINTS, 3, titles=["one", "two", "three"]),
    "heat_map": lambda: figures.heat_map(TINTS[0], HEAT, "avocado"),
    "bars_with_intervals": lambda: figures.bars_with_intervals(
        {"trained": MEASURED, LONG: (0.2, 0.1, 0.3), "untrained": 0.1}, "share of right pictures", reference=(0.5, "a coin")
    ),
    "bars without intervals": lambda: figures.bars_with_intervals({"a": 12, "b": -3}, "decibels", form="{:.0f} dB"),
    "curve": lambda: figures.curve(
        {"trained": (range(40), NUMBERS.repeat(7)[:40]), LONG: (range(40), range(40))},
        "timestep",
        "error",
        f"Errors: {LONG}",
        {"trained": ROLES["trained"], LONG: ROLES["untrained"]},
        {"trained": "-", LONG: ":"},
    ),
    "boxes": lambda: figures.boxes([("Q", NUMBERS, PLACES, PARTS), "×", ("V", NUMBERS[:2], WORDS, PARTS), "=\n?"], "{:.2f}"),
    "course_map": lambda: figures.course_map("encoder", "decoder", "U-Net"),
}


def background(picture: Image.Image) -> bool:
    """Whether the outermost pixels are all of one colour: a word that is cut off leaves some of its own there."""
    pixels = np.asarray(picture.convert("RGB"))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((edge == edge[0]).all())


def covered(boxes: list[tuple[str, tuple]]) -> list[str]:
    """Which two of the words with their boxes (left, top, right, bottom) stand over one another."""
    return [
        f"{one!r} and {other!r}"
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_no_word_is_cut_or_covered(name, monkeypatch):
    words, sizes = {}, []  # each text with its box (left, top, right, bottom), and the font sizes of charts
    write, draw = ImageDraw.ImageDraw.multiline_text, Text.draw

    def remember_writing(pen, place, text, *arguments, **options):
        looks = {k: v for k, v in options.items() if k in ("anchor", "spacing", "align")}
        if text:
            words[len(words)] = text, pen.multiline_textbbox(place, text, arguments[1], **looks)
        write(pen, place, text, *arguments, **options)

    def remember_drawing(text, renderer, *arguments, **options):
        if text.get_visible() and text.get_text().strip():
            words[text] = text.get_text(), text.get_window_extent(renderer).extents  # drawn twice, the second time for good
            sizes.append(text.get_fontsize())
        draw(text, renderer, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", remember_writing)
    monkeypatch.setattr(Text, "draw", remember_drawing)
    figure = FIGURES[name]()
    width, height = png_size(png(figure))
    assert words
    for text, (left, top, right, bottom) in words.values():
        assert left >= 0 and top >= 0 and right <= width and bottom <= height, f"cut off: {text!r}"
    if isinstance(figure, Image.Image):
        assert background(figure), "nothing reaches the margin"
    assert min(sizes, default=10) >= 9, "points"
    assert width <= 1120, "as wide as the page of a small laptop"
    assert not covered(list(words.values()))


def test_what_would_be_cut_or_covered_is_found():
    """The test above can fail: on a title that is too long, and on words one over the other."""
    assert covered([("a", (0, 0, 10, 10)), ("b", (5, 5, 15, 15))]) and not covered([("a", (0, 0, 9, 9)), ("b", (9, 0, 15, 9))])
    sheet = Image.new("RGB", (60, 30), "white")
    figures._write(sheet, (30, 5), LONG, "ma")
    assert not background(sheet)


def test_pictures_stand_in_their_places():
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in (80, 40)]
    plain, titled = figures.grid(images, zoom=4, gap=2), figures.grid(images, zoom=4, gap=2, titles=["a", "b"])
    assert plain.size == (70, 36) and titled.width == 70 and titled.height > 50
    assert (np.asarray(titled)[-36:] == np.asarray(plain)).all(), "titles stand above"
    assert plain.getpixel((10, 18)) == (80, 80, 80) and plain.getpixel((50, 18)) == (40, 40, 40)
    framed = figures.grid(images, zoom=4, gap=2, frames=[None, "#ff0000"])
    assert framed.getpixel((35, 18)) == (255, 0, 0) and framed.getpixel((0, 18)) == (255, 255, 255)


def test_pictures_are_large_enough_and_their_pixels_equal():
    sheet = figures.pictures([np.eye(16, dtype=np.uint8)[..., None].repeat(3, 2) * 255], size=1.05)
    assert sheet.size == (144, 144)
    inner = np.asarray(sheet)[8:-8, 8:-8, 0]
    assert (inner == np.kron(np.eye(16), np.ones((8, 8))) * 255).all(), "8 x 8 screen pixels for each"


def test_rows_are_named_in_their_order(monkeypatch):
    written = []
    monkeypatch.setattr(figures, "_write", lambda sheet, place, text, anchor: written.append((place, text, anchor)))
    sheet = figures.in_rows({"before": TINTS[:2], "after": TINTS[2:4]}, ["a", "b"])
    names = {text: place[1] for place, text, anchor in written if anchor == "rm"}
    column = np.asarray(sheet)[:, -20, 0]
    assert column[round(names["before"])] == 80 and column[round(names["after"])] == 160


def test_heat_overlay_keeps_the_picture_visible():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    shown = figures.heat_overlay(picture, HEAT)
    assert shown.shape == (64, 64, 3) and shown.dtype == np.uint8
    assert (shown[:, 32:].mean() - shown[:, :32].mean()) > 60 and shown[-1, :32, 1].mean() > shown[0, :32, 1].mean() + 50
    assert figures.heat_overlay(picture, HEAT[:8, :8]).shape == (64, 64, 3), "a coarse map is enlarged"


def test_heat_map_has_a_bar_in_the_colours_of_the_map():
    grey = np.full((64, 64, 3), 128, np.uint8)
    pixels = np.asarray(figures.heat_map(grey, np.ones((64, 64)), "armchair"))
    middle = pixels[-40, 328 + 168]
    assert (abs(pixels[-328 + 1, -78 + 5] - middle.astype(int)) <= 3).all(), "1 is the top of the bar"
    empty = figures.heat_map(grey, None, "")
    assert empty.size == pixels.shape[1::-1] and (np.asarray(empty)[:, 328 + 8 :] == 255).all()


def frames_of(content: bytes) -> list[np.ndarray]:
    film = Image.open(io.BytesIO(content))
    shots = []
    for k in range(film.n_frames):
        film.seek(k)
        shots.append(np.asarray(film.convert("RGB")))
    return shots


def test_animation_moves_over_a_strip_that_stays(monkeypatch):
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(20)]
    film = figures.animation(frames, "noise", 2.0, [f"step {k}" for k in range(20)], ["noise"])
    shots, info = frames_of(film.content), Image.open(io.BytesIO(film.content)).info
    assert len(shots) == 20 and len(film.content) < 400_000
    assert info["loop"] == 1 and len(shots) * info["duration"] == 2000
    below = 128 + 8  # the strip's pictures
    assert all((shot[-below:] == shots[0][-below:]).all() for shot in shots), "the strip stays"
    assert all((a != b).any() for a, b in zip(shots, shots[1:], strict=False)), "the picture above moves"
    monkeypatch.setenv("LDM_TUTORIAL_STATIC", "1")
    data, metadata = film._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == film.content and metadata["image/png"]["alt"] == "noise"
    assert background(Image.fromarray(shots[-1]))


def test_animation_of_two_pictures_side_by_side_is_short_and_small():
    titles = [f"step {k}" for k in range(6)]
    pair = [[TINTS[k], LATENT * k / 6] for k in range(6)]
    film = figures.animation(pair, "two pictures", 4.0, titles, ["seen", "predicted"])
    info = Image.open(io.BytesIO(film.content)).info
    assert info["loop"] == 1 and 3500 < info["duration"] * 6 <= 4000
    with pytest.raises(ValueError, match="at most five seconds"):
        figures.animation(TINTS, "", 6, titles, [""])
    with pytest.raises(ValueError, match="more than 1,000"):
        figures.animation(TINTS, "", 4, titles, [""], most=1000)


def test_bars_say_what_they_show():
    figure = figures.bars_with_intervals({"ours": MEASURED, "chance": 0.5}, "accuracy")
    assert figure.get_label() == "Bars, accuracy: ours 0.75; chance 0.50"
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [0.75, 0.5] and axis.get_xlabel() == "accuracy (lines: 95% intervals)"
    assert list(axis.lines[0].get_xdata()) == [0.66, 0.82] and len(axis.lines) == 1


def test_curves_differ_in_more_than_colour():
    x = range(5)
    colors = dict(zip("abcd", ROLES.values(), strict=True))
    dashes = dict(zip("abcd", ("-", "--", ":", "-."), strict=True))
    figure = figures.curve({name: (x, x) for name in "abcd"}, "x", "y", "four", colors, dashes)
    lines = figure.axes[0].lines
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 4 and lines[0].get_color() == ROLES["ours"]
    assert "a from 0 at 0 to 4 at 4" in figure.get_label()


def test_boxes_hold_the_numbers():
    figure = figures.boxes([("weights", NUMBERS, PLACES, WORDS), "="])
    (table,) = figure.axes[0].tables
    texts = [[table[i, j].get_text().get_text() for j in range(3)] for i in range(4)]
    assert texts == [["", *WORDS], ["place 1", "1.0", "-0.2"], ["place 2", "0.5", "2.0"], ["place 3", "0.0", "-1.0"]]
    red, _, blue = table[2, 2].get_facecolor()[:3]
    assert red > blue and table[3, 2].get_facecolor()[2] > table[3, 2].get_facecolor()[1], "orange above zero, purple below"


def test_the_map_tells_the_shapes_of_the_shipped_model():
    def config(part):
        return json.loads((WEIGHTS / part / "config.json").read_text())

    unet, text = config("unet"), config("text_encoder")
    latents = f"{unet['in_channels']}×{unet['sample_size']}×{unet['sample_size']}"
    side = unet["sample_size"] * 2 ** (len(config("vae")["block_out_channels"]) - 1)
    tokens = text["max_position_embeddings"]
    shapes = {
        "pixels": f"3×{side}×{side}",
        "latents": latents,
        "tokens": f"{tokens}",
        "text": f"{tokens}×{text['hidden_size']}",
    }
    assert shapes | {"prompt": ""} == figures.SHAPES


def test_the_map_hands_the_latents_from_the_scheduler_to_the_decoder():
    parts = {name: part["at"] for name, part in figures.MAP["parts"].items()}

    def nearest(place):
        return min(parts, key=lambda name: max(abs(parts[name][0] - place[0]) / 0.6, abs(parts[name][1] - place[1]) / 0.25))

    arrows = {(nearest(a["from"]), nearest(a["to"])) for a in figures.MAP["arrows"][:-2]}
    assert ("scheduler", "decoder") in arrows and ("U-Net", "decoder") not in arrows
    assert {("U-Net", "scheduler"), ("scheduler", "U-Net"), ("text encoder", "U-Net"), ("decoder", "picture")} <= arrows
    assert figures.course_map("U-Net").get_label().endswith("You are here: U-Net.")


def test_figures_leave_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    for draw in FIGURES.values():
        draw()
    LiveCurve("a model", 10)
    assert dict(mpl.rcParams) == before


def test_an_interrupted_loss_curve_leaves_no_half_drawn_figure(monkeypatch):
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    curve = LiveCurve("a model", 10)

    def interrupted(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curve._draw()
    assert not plt.get_fignums(), "the notebook would show it below the error"


def test_marks_of_a_loss_curve_are_named_above_their_lines(monkeypatch):
    drawn = []
    monkeypatch.setattr("ldm_tutorial.notebook.live.png", lambda figure: drawn.append(figure) or b"a PNG")
    curve = LiveCurve("a model", 10, good=(0.2, 0.4), marks={"a rival": 0.5, "another": 0.3})
    curve.losses = [0.4] * 10
    curve._draw()
    (axis,) = drawn[-1].axes
    words = [word.get_text() for word in axis.get_legend().get_texts()]
    assert words == ["good at the end", "a rival: 0.50", "another: 0.30"]
    assert axis.get_ylim()[1] == pytest.approx(1.4 * 0.5), "room for the legend above the marks"


@pytest.mark.parametrize("part", figures.MAP["parts"])
def test_the_name_of_each_part_lies_inside_its_box_on_the_map(part):
    figure = figures.course_map(part)
    figure.canvas.draw()
    (axis,) = figure.axes
    (name,) = [text.get_window_extent() for text in axis.texts if text.get_text() == f"★ {part}"]
    middle = (name.x0 + name.x1) / 2, (name.y0 + name.y1) / 2
    around = [patch.get_window_extent() for patch in axis.patches if patch.get_window_extent().contains(*middle)]
    box = min(around, key=lambda extent: extent.width)  # the other one is the whole space
    margin = 0.06 * figure.dpi  # inches to pixels
    assert box.x0 + margin < name.x0 and name.x1 < box.x1 - margin
