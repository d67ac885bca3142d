"""Figures: a palette that everyone can tell apart, and a text for every picture."""

import base64
import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from ldm_tutorial.show import COLORS, SPACES, LiveCurve, Shown, grid, lean, png, png_size

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
def test_lines_are_told_apart(eyes):
    seen = {name: lab(SEEN[eyes] @ linear(COLORS[name])) for name in LINES}
    for a, b in combinations(LINES, 2):
        distance = np.linalg.norm(seen[a] - seen[b])
        assert distance > 10, f"{a} and {b} are {distance:.0f} apart; 2 is just noticeable"


def test_grid_with_titles():
    images = [np.full((side, side, 3), 10 * side, np.uint8) for side in (8, 4)]
    plain, titled = grid(images, zoom=4, gap=2), grid(images, zoom=4, gap=2, titles=["a", "b"])
    assert titled.size == (plain.width, plain.height + 22) == (70, 58)
    assert (np.asarray(titled)[22:] == np.asarray(plain)).all() and (np.asarray(titled)[:22] != 255).any()
    assert titled.getpixel((10, 40)) == (80, 80, 80) and titled.getpixel((50, 40)) == (40, 40, 40), "one size for all"


def test_lean_keeps_size_and_colours():
    gradient = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    small = Image.open(io.BytesIO(lean(png(gradient), 0)))
    assert small.size == gradient.size and small.mode == "P" and len(lean(png(gradient), 0)) < len(png(gradient)) / 2
    assert np.abs(np.asarray(small.convert("RGB")).astype(int) - np.asarray(gradient)).mean() < 30
    assert lean(png(gradient)) == png(gradient), "small ones stay as they are"


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast(COLORS["ink"], "#ffffff") > 7
    assert all(contrast(colour, "#ffffff") > 3 for colour in SPACES.values()), "large bold words on them, and they on white"


def test_a_picture_has_its_text_and_its_size(monkeypatch):
    content = png(Image.new("RGB", (30, 20)))
    assert png_size(content) == (30, 20)
    data, metadata = Shown(content, 'a <"quoted"> picture')._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == content and metadata["image/png"]["alt"] == 'a <"quoted"> picture'
    assert 'alt="a &lt;&quot;quoted&quot;&gt; picture" width="30" height="20"' in data["text/html"]
    monkeypatch.setenv("LDM_TUTORIAL_STATIC", "1")
    assert set(Shown(content, "")._repr_mimebundle_()[0]) == {"image/png"}


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
