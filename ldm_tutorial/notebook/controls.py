"""Controls of the notebooks: an ``Image`` that is redrawn when a value changes, so that tests can turn every knob."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import io
import os
import re
import signal
import textwrap
import threading
import time
from collections.abc import Callable

import anywidget
import ipywidgets as w
import torch
import traitlets
from PIL import Image, ImageDraw, ImageFont

from ..attention import heat_maps, join_layers, record_attention, word_tokens
from ..curios import parse
from ..curios.vocabulary import note_unknown_words
from ..errors import UserError
from ..images import to_picture
from ..models import Models
from ..sampling import decode_quickly, sample
from ..text import check_prompt, check_seed
from .figures import COLORS, heat_overlay, png, png_size, quantize_png

START = {
    "prompt": "an armchair made of avocado on a pink background",
    "seed": 7,
    "steps": 20,
    "guidance": 3.0,
    "word": "avocado",
}
SIDE, THUMB = 256, 64  # pixels on screen: fixed sizes, so that nothing jumps when a picture is replaced


class Superseded(Exception):
    """Raised inside a drawing that nobody waits for any more: a newer one was asked for, or Stop was pressed."""


def step(text: str, picture: Image.Image | None = None) -> None:
    """For a slow ``draw`` of a :class:`Control` to call now and then: tells the page how far it is, with a first ``picture`` of
    the final size if there is one, and ends the drawing when nobody waits for it any more. Does nothing when a cell draws."""
    if (control := Control.at_work) is not None:
        if control._asked != control._drawing:
            raise Superseded
        if picture:
            control.paint(picture, text)
            control._rough = True
        else:
            control.say(text)


class Access(anywidget.AnyWidget):
    """In the page, and unseen: what ipywidgets leave out and some readers cannot do without.

    The picture's alternative text, a name for each slider's handle, words that a screen reader speaks when they change; and
    arrow keys and Enter that reach the knobs, where JupyterLab would take them for its own and move to another cell.
    """

    alt = traitlets.Unicode("").tag(sync=True)
    _esm = """
    function mend(control, alt) {
      control.querySelector(".ldm-picture")?.setAttribute("alt", alt);
      control.querySelector(".ldm-note")?.setAttribute("role", "status");
      for (const knob of control.querySelectorAll(".ldm-knob")) {
        const name = knob.querySelector("label")?.textContent;
        for (const part of knob.querySelectorAll("[role=slider], [contenteditable], input"))
          if (name) part.setAttribute("aria-label", name);
      }
    }
    function render({ model, el }) {
      el.style.display = "none";
      let control = null;
      const again = () => control && mend(control, model.get("alt"));
      const watcher = new MutationObserver(again);
      const keep = event => {  // plain keys are the knob's, Ctrl+S and Shift+Enter stay JupyterLab's
        if (!control?.contains(event.target)) return;
        const plain = !(event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter"));
        event.target.toggleAttribute("data-lm-suppress-shortcuts", plain);
      };
      window.addEventListener("keydown", keep, true);
      model.on("change:alt", again);
      (function begin() {  // once the whole control is in the page
        control = el.closest(".ldm-control");
        if (!control) return setTimeout(begin, 50);
        watcher.observe(control, { childList: true, subtree: true });
        again();
      })();
      return () => {
        watcher.disconnect();
        model.off("change:alt", again);
        window.removeEventListener("keydown", keep, true);
      };
    }
    export default { render };
    """


class Control(w.VBox):
    """Knobs over a picture that ``draw(**values)`` makes anew whenever one of them is turned; a Reset button.

    ``draw`` returns a PIL image or a matplotlib figure, always of the same size, and may return ``(picture, text)``; the
    text goes under the picture, and so does the sentence of a ``UserError``, while the last picture stays.
    ``knobs`` are ipywidgets by the names of ``draw``'s arguments; ``drawn`` is what the last good call of ``draw`` returned,
    ``message`` the text under the picture.

    A knob turned by a cell has drawn when the assignment returns. One turned on the page draws in the kernel's main thread
    between cells, and the last request wins: those that came while something was drawn become one, and a slow ``draw`` that
    calls :func:`step` now and then is given up for the next.

    ``telling`` names the knob that the static picture for pages without a kernel shows at three settings: the first that
    has a range or options, unless set.
    """

    at_work: Control | None = None  # the one that draws for the page just now: all draw in the kernel's main thread

    def __init__(self, draw: Callable, **knobs: w.Widget):
        self._draw, self.knobs, self._start = draw, knobs, {k: v.value for k, v in knobs.items()}
        self._holder = None  # the thread that is turning several knobs, and wants one drawing
        self._loop = _running_loop()
        self._asked, self._drawing, self._answered, self._waiting, self._rough = 0, 0, 0, False, False
        self.drawn, self.message, self.access = None, "", Access()
        self.image = w.Image(format="png", layout=w.Layout(max_width="100%"))
        self.note = w.HTML(layout=w.Layout(min_height="3em", max_width="760px"))  # room for a second line: nothing jumps
        self.reset = w.Button(description="Reset", tooltip="Back to the first settings")
        self.telling = next((name for name, knob in knobs.items() if _settings(knob)), None)
        super().__init__([*knobs.values(), self.reset, self.image, self.note, self.access])
        for part, name in ((self, "control"), (self.image, "picture"), (self.note, "note"), (self.reset, "reset")):
            part.add_class(f"ldm-{name}")
        for knob in knobs.values():
            knob.add_class("ldm-knob")
            _align(knob)
            knob.observe(lambda _: self.redraw(), "value")
        self.reset.on_click(lambda _: self.put(**self._start))
        self.redraw()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {', '.join(f'{name} {value}' for name, value in self._start.items())}"

    def say(self, text: str) -> None:
        self.message, self.note.value = text, html.escape(text)

    def redraw(self) -> None:
        """Draw with the knobs as they are: at once for a cell; for the page soon, and once for all that was turned by then."""
        if self._holder == threading.get_ident():
            return
        self._asked += 1
        if self._loop is None or not _from_page():
            self._redraw()
            return
        if not self._waiting:
            self._waiting = True
            self._loop.call_soon_threadsafe(self._loop.call_later, 0.01, self._redraw_for_page)
        # JupyterLab's messages come in a thread of their own, which can speak while a cell is running.
        _running_loop().call_later(0.5, self._comfort, self._asked)

    def _comfort(self, asked: int) -> None:
        if self._answered < asked == self._asked:
            self.say("Drawing ..." if Control.at_work is self else "Waiting for the cell that is running ...")

    def _redraw_for_page(self) -> None:
        self._waiting, Control.at_work = False, self
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # between cells the kernel ignores interrupts
        try:
            self._redraw()
        except KeyboardInterrupt:
            pass
        finally:
            Control.at_work = None
            signal.signal(signal.SIGINT, before)

    def _redraw(self) -> None:
        self._drawing, self._rough = self._asked, False
        if Control.at_work is not self:
            self.say("Drawing ...")
        try:
            self.drawn = self._draw(**{name: knob.value for name, knob in self.knobs.items()})
            picture, text = self.drawn if isinstance(self.drawn, tuple) else (self.drawn, "")
            self.paint(picture, text)
        except Superseded:
            pass
        except UserError as error:
            self._restore(str(error))
        except KeyboardInterrupt:
            self._restore("Interrupted: the last picture stays. Turn a knob to draw again.")
            raise
        except BaseException as error:
            self._restore(f"That did not work ({type(error).__name__}: {error}): the last picture stays.")
            raise
        finally:
            self._answered = self._drawing

    def _restore(self, text: str) -> None:
        """Say why there is no new picture; the last good one comes back if a first impression has taken its place."""
        if self._rough and self.drawn is not None:
            self.paint(*(self.drawn if isinstance(self.drawn, tuple) else (self.drawn, "")))
        self._rough = False
        self.say(text)

    def paint(self, picture, text: str) -> None:
        """Show a picture and the text under it, which is also what a screen reader says of the picture."""
        content = png(picture, fast=Control.at_work is self)
        with self.image.hold_sync():
            self.image.width, self.image.height = map(str, png_size(content))
            self.image.value = content
        self.access.alt = text or repr(self)
        self.say(text)

    def put(self, **values) -> None:
        """Turn several knobs at once, by name, and draw once."""
        with self._hold():
            for name, value in values.items():
                self.knobs[name].value = value
        self.redraw()

    @contextlib.contextmanager
    def _hold(self):
        """Nothing that this thread turns inside is drawn."""
        before, self._holder = self._holder, threading.get_ident()
        try:
            yield
        finally:
            self._holder = before

    def _repr_mimebundle_(self, **kwargs):
        """The live control, and a picture of its most telling states for pages without a kernel.

        ``make notebooks`` sets LDM_TUTORIAL_STATIC: committed notebooks hold the picture alone, since a live control is
        nothing without its kernel."""
        data = super()._repr_mimebundle_(**kwargs)
        if self.drawn is None:
            return data
        sheet, texts = self._states()
        data["image/png"] = base64.b64encode(sheet).decode()
        if os.environ.get("LDM_TUTORIAL_STATIC"):
            data.pop("application/vnd.jupyter.widget-view+json", None)
        alt = f"The control's picture in {len(texts)} of its states: " if len(texts) > 1 else "The control's picture: "
        return data, {"image/png": {"alt": alt + "; ".join(texts)}}

    def _states(self) -> tuple[bytes, list[str]]:
        """The control at up to three settings of its ``telling`` knob, each under its text: a PNG, and the texts."""
        now, shots = {name: knob.value for name, knob in self.knobs.items()}, {}
        settings = _settings(self.knobs[self.telling]) if self.telling else [None]
        if settings[0] != (start := now.get(self.telling)) != settings[-1]:
            settings = [settings[0], start, settings[-1]]
        for value in sorted(settings, key=lambda v: v == start):  # the state of now comes last: it is what stays
            try:
                drawn = self.drawn if value == start else self._draw(**now | {self.telling: value})
            except UserError:
                continue
            picture, text = drawn if isinstance(drawn, tuple) else (drawn, f"{self.telling} {value}")
            shots[value] = picture, text
        return _sheet([shots[value] for value in dict.fromkeys(settings) if value in shots])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # not in a notebook
        return None


def _from_page() -> bool:
    """Whether the kernel is answering the page just now, and not executing a cell."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel) and kernel.get_parent().get("header", {}).get("msg_type") == "comm_msg"


def _align(knob: w.Widget) -> None:
    """All knobs equally wide and their labels in one column, where the notebook doesn't say otherwise."""
    if not isinstance(knob, w.ToggleButtons | w.FileUpload):
        knob.layout.width, knob.layout.max_width = knob.layout.width or "560px", "100%"
        if not getattr(knob.style, "description_width", "none"):
            knob.style.description_width = "90px"


def _settings(knob: w.Widget) -> list:
    """The first, a middle and the last value of a knob; of a knob without a range or options none."""
    if hasattr(knob, "options") and getattr(knob, "index", None) is not None:
        values = [value for _, value in knob._options_full]
        return [values[0], values[len(values) // 2], values[-1]]
    if isinstance(knob, w.FloatLogSlider):
        return [knob.base**power for power in (knob.min, (knob.min + knob.max) / 2, knob.max)]
    if hasattr(knob, "min"):
        return [knob.min, type(knob.min)((knob.min + knob.max) / 2), knob.max]
    return []


def _sheet(shots: list[tuple], most: int = 40_000) -> tuple[bytes, list[str]]:
    """(picture, text) pairs below one another, or beside one another where that is the better shape: a PNG of at most about
    ``most`` bytes, since every notebook stores some; and the texts."""
    pictures, texts = [Image.open(io.BytesIO(png(picture))).convert("RGB") for picture, _ in shots], [text for _, text in shots]
    for width in (1050, 800, 640, 480, 360):
        content = quantize_png(png(_arrange(pictures, texts, width)), 0)
        if len(content) <= most:
            break
    return content, texts


def _arrange(pictures: list[Image.Image], texts: list[str], most: int) -> Image.Image:
    """Pictures under their texts on a sheet at most so many pixels wide, and a line that invites to run the cell."""
    width, height = pictures[0].size
    columns = len(pictures) if width < 1.5 * height else 1
    scale = min(1, most / columns / width)
    width, height = int(width * scale), int(height * scale)
    lines = [textwrap.fill(text, max(24, width // 7)) for text in texts]
    head, gap = 8 + 18 * max(text.count("\n") + 1 for text in lines), 12
    size = columns * (width + gap) - gap, len(pictures) // columns * (height + head + gap) - gap + 28
    sheet = Image.new("RGB", (max(size[0], 360), size[1]), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, (picture, text) in enumerate(zip(pictures, lines, strict=True)):
        x, y = i % columns * (width + gap), i // columns * (height + head + gap)
        pen.multiline_text((x, y + 4), text, COLORS["ink"], font, spacing=4)
        sheet.paste(picture.resize((width, height), Image.LANCZOS) if scale < 1 else picture, (x, y + head))
    pen.text((0, sheet.height - 20), "Run this cell, and a live control takes this picture's place.", COLORS["ink"], font)
    return sheet


class Playground(Control):
    """Prompt to picture; beside it where the U-Net looked for one word; below it the last eight that were made.

    Enter in a box or letting go of a slider draws. What was wrong with an input, or which words are unknown, is said under the
    picture; the last picture stays. ``picture`` is what was drawn last, uint8 [64, 64, 3]; ``heat`` the word's map [64, 64]
    in 0..1 (the object's where the prompt lacks the word, else None); ``made`` the history: (prompt, negative, seed, steps,
    guidance) to picture and attention. Choosing an entry of ``history`` brings it back.
    """

    def __init__(self, models: Models):
        def knob(kind: type[w.Widget], value, name: str, tip: str, **more) -> w.Widget:
            more |= {"placeholder": tip} if kind in (w.Text, w.Combobox) else {}
            more |= {"continuous_update": False} if kind is not w.Dropdown else {}
            look = {"layout": w.Layout(width="560px"), "style": {"description_width": "90px"}}
            return kind(value=value, description=name, tooltip=tip, **look, **more)

        self.models, self.picture, self.heat, self.made = models, None, None, {}
        self.history = knob(w.Dropdown, None, "Made so far", "Bring back what was made", options=[("nothing yet", None)])
        super().__init__(
            self._paint,
            prompt=knob(w.Text, START["prompt"], "Prompt", "what to draw"),
            negative=knob(w.Text, "", "But not", "what to steer away from"),
            seed=knob(w.Text, str(START["seed"]), "Seed", "which noise to begin with"),
            steps=knob(w.IntSlider, START["steps"], "Steps", "how often to look and step", min=1, max=50),
            guidance=knob(w.FloatSlider, START["guidance"], "Guidance", "how strongly to listen", min=1, max=10, step=0.5),
            word=knob(w.Combobox, START["word"], "Heat map of", "a word of the prompt; empty: its object"),
        )
        self.again = w.Button(description="Another seed", tooltip="Draw the same prompt from other noise")
        self.again.on_click(lambda _: self._next())
        self.stop = w.Button(description="Stop", tooltip="Leave the drawing that is being made")
        self.stop.on_click(lambda _: self._stop())
        for part, name in zip((self.history, self.history, self.again, self.stop), ("history", "knob", "button", "button")):
            part.add_class(f"ldm-{name}")
        self.history.observe(lambda change: self._bring_back(change["new"]), "value")
        self.children = [
            *self.knobs.values(),
            self.history,
            w.HBox([self.again, self.reset, self.stop]),
            self.image,
            self.note,
            self.access,
        ]

    def _paint(self, prompt: str, negative: str, seed: str, steps: int, guidance: float, word: str) -> tuple[Image.Image, str]:
        tokenizer = self.models.tokenizer
        prompt, number = check_prompt(prompt, tokenizer), check_seed(seed)
        negative = check_prompt(negative, tokenizer) if negative.strip() else ""
        wish = (prompt, negative, str(number), steps, guidance)  # in the order of the knobs
        if wish not in self.made:
            options = {"steps": steps, "guidance_scale": guidance, "negative_prompt": negative, "progress": False}
            with record_attention(self.models.unet) as maps:
                picture = sample(self.models, [prompt], [number], on_step=self._preview(steps), **options)[0]
            # The half that read the prompt comes last; the mean over steps: [layers * heads, pixels, tokens]
            self.made[wish] = picture, join_layers({name: [call[-1:] for call in calls] for name, calls in maps.items()})[0]
        self.picture, attention = self.made[wish]
        self.knobs["word"].options = list(dict.fromkeys(re.findall(r"[\w-]+", prompt.lower())))
        text = note_unknown_words(prompt) or f"{prompt}, seed {number}"
        noun, self.heat = (parse(prompt)[0] or "").split(" ")[-1], None
        for asked in dict.fromkeys([word.strip() or noun, noun]):
            try:
                self.heat = heat_maps(attention[None], [word_tokens(tokenizer, prompt, asked)], log=True)[0].numpy()
                text += f"; right: where it looked for {asked!r}"
                break
            except UserError:  # the object's word takes its place
                text += f"; {asked!r} does not stand in the prompt" if word.strip() == asked else ""
        self._list(wish)
        return self._sheet(), text

    def _sheet(self) -> Image.Image:
        """The picture, the heat map, and the last eight pictures in a row below."""
        sheet = Image.new("RGB", (2 * SIDE, SIDE + THUMB), "white")
        shown = [self.picture] if self.heat is None else [self.picture, heat_overlay(self.picture, self.heat)]
        for i, picture in enumerate(shown):
            sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.BICUBIC), (i * SIDE, 0))
        for i, (picture, _) in enumerate(list(self.made.values())[-2 * SIDE // THUMB :]):
            sheet.paste(Image.fromarray(picture).resize((THUMB - 4, THUMB - 4), Image.BICUBIC), (i * THUMB + 2, SIDE + 4))
        return sheet

    def _preview(self, steps: int) -> Callable:
        """For the sampler to call after each step: a few times a second, show how far the picture has come."""
        last = 0.0

        def look(i: int, _, latents: torch.Tensor) -> None:
            nonlocal last
            text = f"Step {i + 1} of {steps} ..."
            sheet = None
            if Control.at_work is self and i + 1 < steps and time.monotonic() - last > 0.2:
                half = Image.fromarray(to_picture(decode_quickly(self.models, latents)).numpy()[0])
                sheet = Image.new("RGB", (2 * SIDE, SIDE + THUMB), "white")
                sheet.paste(half.resize((SIDE, SIDE), Image.BICUBIC), (0, 0))
                last = time.monotonic()
            step(text, sheet)

        return look

    def _stop(self) -> None:
        self._asked += 1  # nobody waits for what is being drawn
        text = "Stopped: the last picture stays. Turn a knob to draw again."
        if self._loop:  # after the step that is being done
            self._loop.call_soon_threadsafe(self._restore, text)
        else:
            self._restore(text)

    def _states(self) -> tuple[bytes, list[str]]:
        """The picture of now alone: others would take seconds."""
        return _sheet([self.drawn])

    def _list(self, wish: tuple) -> None:
        """Show the history with ``wish`` chosen, without drawing again."""
        with self._hold():
            self.history.options = [(f"{i}: {made[0]}, seed {made[2]}", made) for i, made in enumerate(self.made, 1)]
            self.history.value = wish

    def _bring_back(self, wish: tuple) -> None:
        if self._holder != threading.get_ident():
            self.put(**dict(zip(self.knobs, wish, strict=False)))  # all but the last knob, the word

    def _next(self) -> None:
        try:
            self.knobs["seed"].value = str(check_seed(self.knobs["seed"].value) + 1)
        except UserError as error:
            self.say(str(error))
