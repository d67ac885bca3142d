"""Controls of the notebooks: an ``Image`` that is redrawn when a value changes, so that tests can turn every knob."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets as w
import traitlets
from PIL import Image

from ..errors import UserError
from .figures import pictures, png, png_size, quantize_png

LIVE = "Run this cell, and sliders or menus that answer take this picture's place."


class Superseded(Exception):
    """Raised inside a drawing that nobody waits for any more: a newer one was asked for, or Stop was pressed."""


def step(text: str, picture: Image.Image | None = None) -> None:
    """For a slow ``draw`` of a :class:`Control` to call now and then.

    It tells the page how far the drawing is, with a first ``picture`` of the final size if there is one, and ends the drawing
    when nobody waits for it any more. It does nothing when a cell draws.
    """
    control = Control.at_work
    if control is None:
        return
    if control._asked != control._drawing:
        raise Superseded
    control.say(text)
    if picture:
        control._paint(png(picture, fast=True), text)
        control._rough = True


class Access(anywidget.AnyWidget):
    """In the page, and unseen: what ipywidgets leave out and some readers cannot do without.

    The picture's alternative text, a name for each slider's handle, words that a screen reader speaks when they change; and
    arrow keys and Enter that reach the knobs, where JupyterLab would take them for its own and move to another cell.
    """

    alt = traitlets.Unicode("").tag(sync=True)
    _esm = Path(__file__).with_name("access.js")


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
        self._last: tuple[bytes, str] | None = None  # the last good picture as PNG, and its text
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
        """Write a text under the picture."""
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
        asyncio.get_running_loop().call_later(0.5, self._comfort, self._asked)

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
            self._last = _rendered(self.drawn, fast=Control.at_work is self)
            self._paint(*self._last)
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
        if self._rough and self._last:
            self._paint(*self._last)
        self._rough = False
        self.say(text)

    def _paint(self, content: bytes, text: str) -> None:
        """Show a PNG and the text under it, which is also what a screen reader says of the picture."""
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
        if self._last is None:
            return data
        states = self._states()
        data["image/png"] = base64.b64encode(_sheet(states)).decode()
        if os.environ.get("LDM_TUTORIAL_STATIC"):
            data.pop("application/vnd.jupyter.widget-view+json", None)
        alt = f"The control's picture in {len(states)} of its states: " if len(states) > 1 else "The control's picture: "
        return data, {"image/png": {"alt": alt + "; ".join(text for _, text in states)}}

    def _states(self) -> list[tuple[bytes, str]]:
        """The control at up to three settings of its ``telling`` knob that look different: (PNG, text) of each.

        Each is rendered before the next is drawn, since ``draw`` may return one and the same figure every time, changed. The
        setting of now is drawn last, so that such a figure ends as it was.
        """
        now = {name: knob.value for name, knob in self.knobs.items()}
        start = now[self.telling] if self.telling else None
        settings = _settings(self.knobs[self.telling]) if self.telling else [start]
        if start not in (settings[0], settings[-1]):
            settings = [settings[0], start, settings[-1]]
        states: dict[object, tuple[bytes, str]] = {}
        for value in [*(v for v in settings if v != start), start]:
            try:
                content, text = _rendered(self._draw(**now | {self.telling: value}) if self.telling else self.drawn)
            except UserError:
                continue
            if content not in [seen for seen, _ in states.values()]:
                states[value] = content, text or f"{self.telling} {value}"
        return [states[value] for value in dict.fromkeys(settings) if value in states]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # not in a notebook
        return None


def _from_page() -> bool:
    """Whether the kernel is answering the page just now, and not executing a cell."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and kernel.get_parent().get("header", {}).get("msg_type") == "comm_msg"


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


def _rendered(drawn, fast: bool = False) -> tuple[bytes, str]:
    """What ``draw`` returned, as PNG bytes and a text."""
    picture, text = drawn if isinstance(drawn, tuple) else (drawn, "")
    return png(picture, fast), text


def _sheet(states: list[tuple[bytes, str]], most: int = 60_000) -> bytes:
    """States under their texts, side by side or below one another: a PNG of about ``most`` bytes, for notebooks store many."""
    shots = [Image.open(io.BytesIO(content)).convert("RGB") for content, _ in states]
    columns = len(shots) if shots[0].width < 1.5 * shots[0].height else 1
    for width in (1050, 800, 640, 480):
        smaller = [shot.copy() for shot in shots]
        for shot in smaller:
            shot.thumbnail((width // columns, shot.height), Image.Resampling.LANCZOS)
        content = quantize_png(png(pictures(smaller, [text for _, text in states], columns, None, LIVE)), 0)
        if len(content) <= most:
            break
    return content
