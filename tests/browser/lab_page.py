"""A notebook in JupyterLab as a learner meets it: open, run, turn every control by mouse and keyboard, read what it shows."""

import io
import re
import time
from dataclasses import dataclass, field
from urllib.parse import quote

from PIL import Image

from tests.browser.conftest import PATIENCE, TOKEN, ask

# Counts the pictures that each control has shown, and when the last one came; keeps when the learner last did something.
WATCH = """() => {
  if (window.ldm) return;
  window.ldm = {acted: 0};
  for (const kind of ['keydown', 'pointerdown', 'pointerup', 'change', 'click'])
    document.addEventListener(kind, () => { ldm.acted = performance.now(); ldm.first = null; }, true);
  document.addEventListener('load', event => {
    if (!event.target.matches?.('.ldm-picture')) return;
    event.target.shown = (event.target.shown || 0) + 1;
    ldm.last = performance.now() - ldm.acted;
    ldm.first ??= ldm.last;
  }, true);
}"""
# What a control shows: its pixels (two PNG files may hold the same ones) as a hash, its size on screen, its words.
STATE = """async control => {
  const img = control.querySelector('.ldm-picture'), note = control.querySelector('.ldm-note');
  const bitmap = await createImageBitmap(await (await fetch(img.src)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), pen = canvas.getContext('2d');
  pen.drawImage(bitmap, 0, 0);
  // The playground's picture ends in a row of what was made so far, 144 pixels with its gaps: what it shows now is above.
  const height = control.querySelector('.ldm-history') ? bitmap.height - 144 : bitmap.height;
  const bytes = pen.getImageData(0, 0, bitmap.width, height).data;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const box = img.getBoundingClientRect();
  return {pixels: [...digest.slice(0, 8)].join(), note: note.innerText.trim(), alt: img.alt,
          size: [Math.round(box.width), Math.round(box.height)], shown: img.shown || 0,
          first: window.ldm?.first, last: window.ldm?.last};
}"""
BUSY = ("Drawing", "Waiting", "Step", "The picture is there;", "Loading", "Running")


@dataclass
class Turned:
    """One knob, turned in one way: what it was, and how long the first new picture took, and the last, which is finished."""

    notebook: str
    control: int
    knob: str
    by: str
    milliseconds: float | None = None
    finished: float | None = None


@dataclass
class LabPage:
    """One notebook in one browser page."""

    page: object
    url: str
    path: str
    errors: list[str] = field(default_factory=list)
    turned: list[Turned] = field(default_factory=list)

    def open(self) -> "LabPage":
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{self.url}/lab/tree/{quote(self.path)}?reset&token={TOKEN}")
        self.wait_open()
        return self

    def wait_open(self) -> None:
        self.page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
        self.wait_idle()

    def session(self) -> dict | None:
        return next((s for s in ask(f"{self.url}/api/sessions") if s["path"] == self.path), None)

    def wait_idle(self) -> None:
        """Until the server says that the kernel has nothing to do."""
        self.until(lambda: (self.session() or {}).get("kernel", {}).get("execution_state") == "idle", "an idle kernel")

    def until(self, done, what: str, seconds: float = PATIENCE):
        deadline = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < deadline, f"{self.path}: waited {seconds:.0f} s in vain for {what}"
            self.page.wait_for_timeout(100)
        return found

    def menu(self, *labels: str) -> None:
        """Choose from JupyterLab's menus, as one does with the mouse."""
        self.page.locator(".lm-MenuBar-item", has_text=labels[0]).first.click()
        for label in labels[1:]:
            self.page.locator(".lm-Menu-item", has_text=label).first.click()

    def run_all(self, seconds: float = 10 * PATIENCE) -> None:
        self.menu("Run", "Run All Cells")
        self.until(lambda: self.prompts().count("*") > 0, "the first cell to start")
        self.until(lambda: self.cell_errors() or all(p.isdigit() for p in self.prompts()), "the last cell to end", seconds)
        self.wait_idle()
        self.watch()

    def run_cell(self, number: int, source: str | None = None, wait: bool = True) -> None:
        """Click into a code cell, counted from 0, write ``source`` into it if given, and press Ctrl+Enter."""
        cell = self.page.locator(".jp-CodeCell").nth(number)
        cell.locator(".cm-content").click()
        if source is not None:
            self.page.keyboard.press("ControlOrMeta+A")
            self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")
        if wait:
            pressed = time.monotonic()

            def done():
                nonlocal pressed
                now = self.prompts()[number]
                # What comes within a moment of an error or interrupt, the kernel drops with the cells that waited: press again.
                if not now and time.monotonic() > pressed + 3:
                    self.page.keyboard.press("Control+Enter")
                    pressed = time.monotonic()
                return now.isdigit()

            self.until(done, f"cell {number}")
            self.page.wait_for_timeout(300)
            self.wait_idle()

    def watch(self) -> None:
        self.page.evaluate(WATCH)

    def access_faults(self) -> list[str]:
        """What axe-core finds amiss in the notebook's pictures, words and controls; JupyterLab's own parts are left out."""
        from axe_playwright_python.sync_playwright import Axe

        own = {"include": [[".ldm-control"], [".jp-OutputArea-output"], [".jp-MarkdownOutput"]]}
        found = Axe().run(self.page, context=own, options={"runOnly": ["wcag2a", "wcag2aa"], "resultTypes": ["violations"]})
        return [f"{v['id']}: {n['html'][:200]}" for v in found.response["violations"] for n in v["nodes"]]

    def prompts(self) -> list[str]:
        """What stands in the brackets beside each code cell: a number, * or nothing."""
        texts = "es => es.map(e => e.textContent.replace(/[^0-9*]/g, ''))"
        return self.page.locator(".jp-CodeCell .jp-InputArea-prompt").evaluate_all(texts)

    def cell_errors(self) -> list[str]:
        """What cells ended with; JupyterLab shows errors as it shows warnings, so their words decide."""
        texts = self.page.locator(".jp-OutputArea-output").all_text_contents()
        return [text for text in texts if "Traceback (most recent call last)" in text]

    def controls(self):
        self.page.locator(".ldm-control .ldm-picture").first.wait_for()
        return self.page.locator(".ldm-control").all()

    def state(self, control) -> dict:
        return control.evaluate(STATE)

    def steady(self, control) -> dict:
        """The state once it has stayed the same for a moment: a control that has just come into view is still being filled."""

        def same():
            before = self.state(control)
            self.page.wait_for_timeout(150)
            return before if before["note"] and before == self.state(control) else None

        return self.until(same, "a control at rest")

    def settled(self, control, after: dict) -> dict:
        """The state after the control has answered: a new picture or new words, and nothing on its way any more."""

        def answered():
            now = self.state(control)
            changed = now["shown"] > after["shown"] or now["note"] != after["note"]
            return now if changed and not now["note"].startswith(BUSY) else None

        self.until(answered, f"an answer after {after['note']!r}")
        self.page.wait_for_timeout(80)  # the words come a moment after the picture
        return self.state(control)

    def act(self, control, number: int, knob: str, by: str, action, changes: bool = True) -> dict:
        """Do one thing to a control; the new picture and words, which differ from the old ones where ``changes``."""
        before = self.state(control)
        action()
        now = self.settled(control, before)
        turn = Turned(self.path, number, knob, by)
        if now["shown"] > before["shown"]:
            turn.milliseconds, turn.finished = now["first"], now["last"]
        self.turned.append(turn)
        where = f"{self.path}, control {number}, {knob} by {by}: {before['note']!r} to {now['note']!r}"
        if changes:
            assert now["pixels"] != before["pixels"], f"the picture stayed: {where}"
            assert now["alt"] and now["note"].split()[0] in now["alt"], f"no alternative text: {where}"
        assert now["size"] == before["size"], f"the picture changed its size: {where}"
        return now

    def turn_all(self, control, number: int) -> None:
        """Turn each knob of a control with mouse and keyboard, and Reset after each: the first picture is back."""
        control.scroll_into_view_if_needed()
        first, knobs = self.steady(control), control.locator(".ldm-knob").all()
        for by, turned in (("mouse", knobs), ("keyboard", knobs[:1])):
            for knob in turned:
                name = knob.evaluate("e => (e.querySelector('label') || e).innerText.trim()")
                matches = "(e, css) => e.matches(css) || !!e.querySelector(css)"
                turn = next(turn for css, turn in KINDS.items() if knob.evaluate(matches, css))
                turn(self, control, number, knob, name)
                self.reset(control, number, by, first)
            for button in control.locator(".ldm-button").all():
                name = button.inner_text().strip()
                self.act(control, number, name, by, self.press(button, by), changes=name != "Stop")
            self.reset(control, number, by, first)

    def press(self, button, by: str):
        """What presses a button, which has the focus from now on."""
        button.focus()
        return button.click if by == "mouse" else lambda: self.page.keyboard.press("Enter")

    def reset(self, control, number: int, by: str, first: dict) -> None:
        button, now = control.locator(".ldm-reset"), self.steady(control)
        if (now["pixels"], now["note"]) == (first["pixels"], first["note"]):
            return  # the last turn led back by itself: Reset would change nothing that could be waited for
        back = self.act(control, number, "Reset", by, self.press(button, by), changes=False)
        assert (back["pixels"], back["note"]) == (first["pixels"], first["note"]), f"{self.path}, {number}: Reset restores"


def turn_slider(page: LabPage, control, number, knob, name) -> None:
    handle = knob.locator("[role=slider]").first

    def where():
        return [float(handle.get_attribute(f"aria-value{k}")) for k in ("now", "min", "max")]

    now, low, high = where()
    handle.focus()
    key = "ArrowLeft" if now >= high else "ArrowRight"
    page.act(control, number, name, "keyboard", lambda: page.page.keyboard.press(key))
    now, low, high = where()  # the other half of the slider shows something else for certain
    box, place = knob.locator(".noUi-base, .noUi-target").first.bounding_box(), 0.15 if now > (low + high) / 2 else 0.85
    at = box["x"] + place * box["width"], box["y"] + box["height"] / 2
    page.act(control, number, name, "mouse", lambda: page.page.mouse.click(*at))


def turn_list(page: LabPage, control, number, knob, name) -> None:
    choose = knob.locator("select")
    choose.focus()
    down = choose.evaluate("e => e.selectedIndex < e.options.length - 1")
    page.act(control, number, name, "keyboard", lambda: page.page.keyboard.press("ArrowDown" if down else "ArrowUp"))
    names = choose.locator("option").all_inner_texts()
    other = (choose.evaluate("e => e.selectedIndex") + 1) % len(names)
    away = on_hub(names[other])
    answer = page.act(control, number, name, "mouse", lambda: choose.select_option(index=other), changes=not away)
    if away:
        assert "not on this machine" in answer["note"], answer["note"]
        page.act(control, number, name, "mouse", lambda: choose.select_option(index=0))


def on_hub(name: str) -> bool:
    """Whether this is the name of a model that has to be fetched first."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def turn_box(page: LabPage, control, number, knob, name) -> None:
    """Allow a download, of a model that is not here: without a network the answer is a sentence, and the picture stays."""
    box, choose = knob.locator("input[type=checkbox]"), control.locator("select").first
    hub_id = next(filter(on_hub, choose.locator("option").all_inner_texts()))
    page.act(control, number, name, "mouse", lambda: choose.select_option(label=hub_id), changes=False)
    answer = page.act(control, number, name, "mouse", box.click, changes=False)
    assert hub_id in answer["note"] and "did not work" not in answer["note"], answer["note"]
    box.focus()
    page.act(control, number, name, "keyboard", lambda: page.page.keyboard.press("Space"), changes=False)
    page.act(control, number, name, "mouse", lambda: choose.select_option(index=0), changes=False)


def turn_toggles(page: LabPage, control, number, knob, name) -> None:
    others = knob.locator("button:not(.mod-active)")
    page.act(control, number, name, "mouse", others.first.click)
    others.last.focus()
    page.act(control, number, name, "keyboard", lambda: page.page.keyboard.press("Enter"))


WORDS = {"Seed": "123", "Hub id": "", "But not": "a blue background", "Sentence": "it is cold outside", "Heat map of": "pink"}


def turn_text(page: LabPage, control, number, knob, name) -> None:
    """Nonsense is answered in words, a sensible text with a picture."""
    box = knob.locator("input[type=text]")

    def write(text):
        box.click()
        page.page.keyboard.press("ControlOrMeta+A")
        page.page.keyboard.press("Backspace")
        page.page.keyboard.insert_text(text)
        page.page.keyboard.press("Enter")

    told = page.act(control, number, name, "keyboard, nonsense", lambda: write("§$% 🥑"), changes=False)
    assert told["note"] and "did not work" not in told["note"], told["note"]
    good = WORDS.get(name, "a golden duck on a pink background")
    page.act(control, number, name, "keyboard", lambda: write(good), changes=bool(good))


def turn_upload(page: LabPage, control, number, knob, name) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, format="PNG")
    files = {"good.png": buffer.getvalue(), "text.png": b"no picture"}
    button = knob.locator("button") if knob.locator("button").count() else knob
    for by in ("mouse", "keyboard"):
        for file, content in files.items():

            def choose(by=by, file=file, content=content):
                with page.page.expect_file_chooser() as chooser:
                    if by == "mouse":
                        button.click()
                    else:
                        button.focus()
                        page.page.keyboard.press("Enter")
                chooser.value.set_files({"name": f"{by}-{file}", "mimeType": "image/png", "buffer": content})

            page.act(control, number, name, by, choose, changes=file == "good.png" and by == "mouse")


KINDS = {
    ".noUi-target, [role=slider]": turn_slider,
    "select": turn_list,
    ".widget-toggle-button": turn_toggles,
    "input[type=checkbox]": turn_box,
    "input[type=file]": turn_upload,
    ".widget-upload": turn_upload,
    "input[type=text]": turn_text,
}
