"""Every control of every notebook in a real browser: `make test-browser`. It takes minutes, so `make test` does only one."""

import json
import os
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook

from ldm_tutorial.storage.threads import available_cores
from tests.browser.conftest import LEARNER, PATIENCE
from tests.run import ROOT, find_notebooks

NAMES = [path.relative_to(ROOT).as_posix() for path in find_notebooks()]
RESULTS = ROOT / "benchmarks" / "results" / "controls.json"
DRAWING = "notebooks/09_text_to_image.ipynb", ("Steps", "Guidance")  # sliders of which each turn draws a whole picture
PRINTED = 1180  # pixels: A4 in landscape, at 85%
# What sticks out on the right, and for a printed page the lines of code that do not fit into their boxes.
CUT = """printed => [...document.querySelectorAll("img, table, pre")]
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
               || (printed && e.tagName === "PRE" && e.scrollWidth > e.clientWidth + 1))
  .map(e => `${e.tagName}: ${(e.alt || e.innerText).slice(0, 60)}`)"""
HIDDEN = "es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"
TRAINING = """
from ldm_tutorial.notebook.live import LiveCurve
import time
curve = LiveCurve("a model", 10_000, every=1)
for step in range(10_000):
    time.sleep(0.05)
    curve(step, 1 / (step + 1))
"""
TOY = """
import ipywidgets as w
from PIL import Image
from ldm_tutorial.notebook.controls import Control, step

drawn = []

def draw(n):
    drawn.append(n)
    for k in range(slow):
        time.sleep(0.05)
        step(f"Step {k} ...")
    return Image.new("RGB", (300, 100), (10 * n, 0, 0)), f"number {n}"

slow = 0
toy = Control(draw, n=w.IntSlider(0, 0, 20, description="n"))
toy
"""


def by_control(found, what: str = "milliseconds") -> dict[tuple, list[float]]:
    """(notebook, number) of each control to the milliseconds of its turns that brought a picture: until the first one, or,
    for ``what="finished"``, until the last."""
    times: dict[tuple, list[float]] = {}
    for t in found:
        if t.milliseconds is not None:
            times.setdefault((t.notebook, t.control), []).append(getattr(t, what))
    return times


@pytest.fixture(scope="module")
def turned():
    """All that was turned. Where every notebook took part, the times are kept."""
    from benchmarks.machine import describe  # before the first turn, because it notes the load

    found = []
    yield found
    knobs = {(t.notebook, t.control, t.knob) for t in found}
    print(f"\n{len(knobs)} knobs and buttons of {len({t.notebook for t in found})} notebooks turned, {len(found)} turns")
    print("milliseconds from the turn to the first new picture, median and slowest; to the last:")
    finished = by_control(found, "finished")
    for (notebook, number), turns in by_control(found).items():
        ends = finished[notebook, number]
        first = f"{statistics.median(turns):.0f}, {max(turns):.0f}"
        last = f"{statistics.median(ends):.0f}, {max(ends):.0f}"
        print(f"  {Path(notebook).stem}, control {number}: {first}; {last}")
    if {t.notebook for t in found} == set(NAMES):
        times, finished = by_control(found), by_control(found, "finished")
        every = sum(times.values(), [])
        figures = {
            "machine": describe(),
            "knobs": len(knobs),
            "turns": len(found),
            "median_ms": statistics.median(every),
            "within_150_ms": sum(t < 150 for t in every) / len(every),
            "median_ms_by_control": {f"{notebook} {number}": statistics.median(t) for (notebook, number), t in times.items()},
            "median_ms_finished_by_control": {f"{name} {k}": statistics.median(t) for (name, k), t in finished.items()},
            "turned": [asdict(t) for t in found],
        }
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


@pytest.fixture
def toy(lab_page, copies):
    """A page with a training that takes minutes in its first cell, and a control that can be slow in its second."""
    cells = [new_code_cell(TRAINING.strip()), new_code_cell(TOY.strip()), new_code_cell("print(drawn)")]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(notebook, copies[1] / "toy.ipynb")
    return lab_page("toy.ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_every_control(lab_page, turned, name):
    page = lab_page(name)
    page.run_all()
    assert not page.cell_errors()
    assert not page.page.locator(".jp-CodeCell .cm-scroller").evaluate_all(HIDDEN), "code that ends outside its cell"
    if "Control(" in (ROOT / name).read_text(encoding="utf-8") or "/solutions/" not in name:  # solutions may have none
        for number, control in enumerate(page.controls(), 1):
            page.turn_all(control, number)
    turned += page.turned
    if name == DRAWING[0]:
        ends = [t.finished for t in page.turned if t.knob in DRAWING[1] and t.finished]
        busy = os.getloadavg()[0] > available_cores()  # then a time says nothing about the page
        assert len(ends) == 4 and (busy or statistics.median(ends) <= 500), f"milliseconds to the finished picture: {ends}"
    assert not page.errors
    assert not page.access_faults()
    page.menu("Settings", "Theme", "JupyterLab Dark")
    page.page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
    dark = page.access_faults()
    page.menu("Settings", "Theme", "JupyterLab Light")
    assert not dark, "in the dark theme"


def test_a_training_is_interrupted_and_the_page_goes_on(toy):
    """Knobs turned while a cell runs are drawn after it, once; the page says so."""
    toy.menu("Run", "Run All Cells")
    toy.until(lambda: "*" in toy.prompts(), "the training to start")
    toy.page.locator("img[alt^='Loss curve of a model:']").wait_for()
    toy.menu("Kernel", "Interrupt Kernel")
    toy.until(toy.cell_errors, "the interrupt")
    assert "KeyboardInterrupt" in toy.cell_errors()[0]
    toy.wait_idle()
    toy.run_cell(1)
    toy.watch()
    (control,) = toy.controls()
    toy.turn_all(control, 1)
    toy.run_cell(0, wait=False)
    toy.until(lambda: "*" in toy.prompts(), "the training to start")
    control.locator("[role=slider]").focus()
    for _ in range(3):
        toy.page.keyboard.press("ArrowRight")
    toy.until(lambda: toy.state(control)["note"].startswith("Waiting for the cell"), "a word about the running cell")
    toy.menu("Kernel", "Interrupt Kernel")
    toy.until(lambda: toy.state(control)["note"] == "number 3", "the drawing after the cell")
    assert not toy.errors


def test_fast_turns_run_twice_and_reload(toy):
    toy.run_cell(1)
    toy.run_cell(1)  # pressing Run twice: one control, and it works
    toy.watch()
    (control,) = toy.controls()
    control.locator("[role=slider]").focus()
    for _ in range(12):
        toy.page.keyboard.press("ArrowRight")
    toy.until(lambda: toy.state(control)["note"] == "number 12", "the last of many turns")
    before = toy.state(control)
    toy.page.keyboard.press("ControlOrMeta+s")
    toy.page.wait_for_timeout(2000)
    toy.page.reload()
    toy.wait_open()
    toy.watch()
    (control,) = toy.controls()
    toy.until(lambda: toy.state(control)["note"] == "number 12", "the control after a reload")
    assert toy.state(control)["pixels"] == before["pixels"]
    control.locator("[role=slider]").focus()
    toy.page.keyboard.press("ArrowLeft")
    toy.until(lambda: toy.state(control)["note"] == "number 11", "the control to go on working")
    assert not toy.errors


def test_a_slow_drawing_makes_way(toy):
    toy.run_cell(1)
    toy.run_cell(2, "slow = 100; import time")
    toy.watch()
    (control,) = toy.controls()
    control.locator("[role=slider]").focus()
    toy.page.keyboard.press("ArrowRight")
    toy.until(lambda: toy.state(control)["note"].startswith("Step"), "progress")
    begun = time.monotonic()
    toy.page.keyboard.press("ArrowRight")
    toy.until(lambda: toy.state(control)["note"].startswith("Step 1"), "the next drawing")
    toy.menu("Kernel", "Interrupt Kernel")
    toy.until(lambda: toy.state(control)["note"].startswith("Interrupted"), "the interrupt")
    assert time.monotonic() - begun < PATIENCE and not toy.errors


@pytest.mark.parametrize("name", NAMES)
def test_without_a_kernel_nothing_is_blank(browser, tmp_path, name):
    """As GitHub, nbviewer and nbconvert show it: every picture with its text, each control by a picture, no error."""
    html, _ = HTMLExporter(embed_images=True).from_filename(ROOT / name)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page, errors = browser.new_page(**LEARNER), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: m.type == "error" and "Failed to load" not in m.text and errors.append(m.text))
    page.route("http*://**", lambda route: route.abort())  # what a page without a network lacks is not ours
    page.goto((tmp_path / "page.html").as_uri())
    widths = page.locator("img").evaluate_all("es => es.map(e => e.naturalWidth)")
    cut = {}
    for width, medium in ((1280, "screen"), (1920, "screen"), (PRINTED, "print")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media=medium)
        cut[width] = page.evaluate(CUT, medium == "print")
    words = page.locator(".jp-OutputArea-output").all_text_contents()
    page.close()
    assert not any(cut.values()), f"wider than the page: {cut}"
    assert not [text for text in words if "Error displaying widget" in text or text.startswith(("Control:", "Playground:"))]
    assert not [error for error in errors if "require" not in error and "MathJax" not in error], "those come from the network"
    # nbconvert leaves out the alternative texts of PNG outputs, so they are looked up where readers that use them would.
    outputs = [o for cell in nbformat.read(ROOT / name, as_version=4).cells for o in cell.get("outputs", []) if "data" in o]
    assert len(widths) >= sum("image/png" in o.data for o in outputs) and all(widths), "a picture that is none"
    bare = [o for o in outputs if "image/png" in o.data and not o.metadata.get("image/png", {}).get("alt")]
    assert not bare, "a picture without its alternative text"
    assert all("image/png" in o.data for o in outputs if "application/vnd.jupyter.widget-view+json" in o.data)
