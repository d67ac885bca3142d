"""The notebooks' controls in the book, without a kernel: which states are stored, and that every knob changes the picture."""

import importlib.util
import json
import sys

import pytest

from tests.browser.test_book import HTML, MINUTES, book, open_page  # noqa: F401  fixtures
from tests.run import ROOT

SCRIPT = ROOT / "docs" / "book" / "static" / "frames.js"


def load_module(name: str):
    """A script of docs/book as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "book" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


frames = load_module("frames")


# --- which states ----------------------------------------------------------------------------------------------------------


def knob(name: str, count: int, kind: str = "range", start: int = 0):
    values = list(range(count))
    return frames.Knob(name, name, kind, values, [str(value) for value in values], start)


def test_few_states_are_all_stored():
    plan = frames.plan_states([knob("steps", 5), knob("seed", 4), knob("map", 2, "menu")])
    assert len(plan.states) == len(set(plan.states)) == 40


def test_a_long_slider_keeps_ends_and_start():
    plan = frames.plan_states([knob("timestep", 1000, start=300), knob("schedule", 3, "menu")])
    slider = plan.knobs[0]
    assert slider.values[0] == 0 and slider.values[-1] == 999 and slider.values[slider.start] == 300
    assert len(slider.values) == frames.POSITIONS and slider.of == 1000
    assert len(plan.states) == 3 * frames.POSITIONS


def test_many_sliders_move_one_at_a_time():
    plan = frames.plan_states(
        [knob("shape", 2, "menu"), *(knob(name, 65, start=2) for name in ("left", "top", "width", "height"))]
    )
    start = [one.start for one in plan.knobs]
    assert len(plan.states) == 2 * (1 + 4 * (frames.POSITIONS - 1))
    for _, *sliders in plan.states:
        assert sum(value != first for value, first in zip(sliders, start[1:], strict=True)) <= 1


def test_no_plan_is_too_long():
    for count in range(1, 7):
        assert len(frames.plan_states([knob(str(k), 50, start=7) for k in range(count)]).states) <= frames.MOST


def test_widgets_are_read():
    w = pytest.importorskip("ipywidgets")
    slider = frames.read_knob("strength", w.FloatSlider(0.5, min=0, max=1, step=0.05))
    assert slider.texts[slider.start] == "0.5" and len(slider.texts) == 21
    scale = frames.read_knob("scale", w.FloatLogSlider(30, base=10, min=0, max=2.5, step=0.05))
    assert scale.values[scale.start] == 30 and scale.values[0] == 1
    menu = frames.read_knob("map", w.Dropdown(options=[("one", 1), ("two", 2)], value=2))
    assert (menu.kind, menu.values, menu.texts, menu.start) == ("menu", [1, 2], ["one", "two"], 1)
    assert frames.read_knob("steps", w.SelectionSlider(options=[1, 2, 5])).kind == "range"
    assert frames.read_knob("prompt", w.Text("a mug")) is None


# --- a control of three states, without any notebook -------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A page with one control, stored as a notebook's kernel stores it."""
    w = pytest.importorskip("ipywidgets")
    from PIL import Image

    from ldm_tutorial.errors import UserError
    from ldm_tutorial.notebook.controls import Control

    def draw(red, shade, words):
        tone = {"dark": 60, "bright": 255}[shade]
        return Image.new("RGB", (40, 30), (red, tone, 0)), f"red {red}, {shade}"

    def draw_some(red, shade, words):
        if shade == "absent":
            raise UserError("that is not on this machine")
        return draw(red, shade, words)

    slider = w.IntSlider(0, min=0, max=200, step=100, description="Red")
    menu = w.Dropdown(options=["dark", "absent", "bright"])
    control = Control(draw_some, red=slider, shade=menu, words=w.Text("hello", description="Words"))
    folder = tmp_path / "stored"
    frames.store(control, str(folder), "0")
    listing = json.loads((folder / frames.LISTING).read_text())
    target = tmp_path / "_static" / "frames"
    target.mkdir(parents=True)
    for path in folder.glob("*.webp"):
        path.rename(target / path.name)
    element = frames.control_html(listing, "cell", "")
    style = (ROOT / "docs" / "book" / "static" / "book.css").read_text()
    page = f'<div class="cell_output"><img id="still" alt="still">{element}</div><script>{SCRIPT.read_text()}</script>'
    head = f'<!DOCTYPE html><title>toy</title><meta name="viewport" content="width=device-width"><style>{style}</style>'
    (tmp_path / "toy.html").write_text(head + page, encoding="utf-8")
    return listing, tmp_path / "toy.html"


def test_states_are_stored(toy):
    listing, _ = toy
    assert len(listing["states"]) == 6 and listing["fixed"] == {"Words": "hello"} and listing["size"] == [40, 30]
    assert listing["states"]["2,1"][1] == "red 200, bright"
    assert listing["knobs"][1]["texts"] == ["dark", "bright"] and listing["knobs"][1]["of"] == 3  # one could not be drawn
    assert len({file for file, _ in listing["states"].values()}) == 6


def test_the_script_shows_them(browser, toy):
    page = browser.new_page()
    page.goto(f"file://{toy[1]}", timeout=MINUTES)
    seen = turn_all(page, page.locator(".ldm-frames"))
    assert seen == 2
    assert page.locator("#still").is_hidden()
    assert "Words (hello)" in page.locator(".ldm-run").last.inner_text()
    page.close()


def test_without_javascript_the_picture_stays(browser, toy):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"file://{toy[1]}", timeout=MINUTES)
    assert page.locator(".ldm-frames").is_hidden() and page.locator("#still").count() == 1
    page.close()


def test_the_script_is_small():
    assert SCRIPT.stat().st_size < 10_000


# --- the book's own --------------------------------------------------------------------------------------------------------


def shown(root) -> tuple[str, str, str, str]:
    """What a control shows: the file of its picture, alternative text, the text under it, the words of its sliders."""
    picture = root.locator("img")
    words = " ".join(root.locator("output").all_inner_texts())
    return picture.get_attribute("src"), picture.get_attribute("alt"), root.locator(".ldm-note").inner_text(), words


def wait_for_picture(page, root) -> None:
    """Until the picture has come; fails where it does not come."""
    page.wait_for_function("(picture) => picture.complete", arg=root.locator("img").element_handle())
    assert root.locator("img").evaluate("(picture) => picture.naturalWidth") > 0


def turn_all(page, root) -> int:
    """Turn every knob of a control by keyboard and by mouse; each changes the picture, Reset brings the first one back."""
    first = shown(root)
    knobs = root.locator("input, select")
    for k in range(knobs.count()):
        knob = knobs.nth(k)
        name = knob.get_attribute("id")
        kind = knob.evaluate("(knob) => knob.tagName")
        pictures = {first[0]}

        knob.focus()
        for key in ("End", "Home"):
            page.keyboard.press(key)
            wait_for_picture(page, root)
            pictures.add(shown(root)[0])
        assert len(pictures) > 1, f"{name}: the keyboard changes nothing"
        assert shown(root)[1], f"{name}: a state without alternative text"

        root.locator("button").click()
        assert shown(root) == first, f"{name}: Reset does not bring the first state back"

        if kind == "SELECT":
            last = knob.locator("option").last
            choice = last.get_attribute("value")
            if choice == knob.input_value():
                choice = knob.locator("option").first.get_attribute("value")
            knob.select_option(choice)
            assert shown(root)[0] != first[0], f"{name}: a choice changes nothing"
        else:
            box = knob.bounding_box()
            pictures = {first[0]}
            for place in (0.97, 0.03, 0.5):
                page.mouse.click(box["x"] + place * box["width"], box["y"] + box["height"] / 2)
                pictures.add(shown(root)[0])
            assert len(pictures) > 1, f"{name}: the mouse changes nothing"
        wait_for_picture(page, root)
        root.locator("button").click()
        assert shown(root) == first
    return knobs.count()


NOTEBOOKS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_control_of_the_book(open_page, name):  # noqa: F811  a fixture
    page = open_page(f"notebooks/{name}.html")
    controls = page.locator(".ldm-frames")
    if controls.count() == 0:
        pytest.skip("no control of this notebook is drawn here: `make frames`")
    for k in range(controls.count()):
        root = controls.nth(k)
        root.scroll_into_view_if_needed()
        wait_for_picture(page, root)
        assert turn_all(page, root) > 0
        assert page.locator(".cell_output", has=root).locator("> img").first.is_hidden()


def test_a_slider_by_touch(browser, toy):
    context = browser.new_context(viewport={"width": 360, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(f"file://{toy[1]}", timeout=MINUTES)
    slider = page.locator("input[type=range]")
    box = slider.bounding_box()
    assert box["height"] >= 24, "too small for a finger"
    values = set()
    for place in (0.03, 0.97):
        page.touchscreen.tap(box["x"] + place * box["width"], box["y"] + box["height"] / 2)
        values.add(slider.input_value())
    assert values == {"0", "2"}
    context.close()


def test_all_frames_are_light(book):  # noqa: F811  a fixture
    sizes = [path.stat().st_size for path in (HTML / "_static" / "frames").glob("*.webp")]
    assert sum(sizes) < 25_000_000
