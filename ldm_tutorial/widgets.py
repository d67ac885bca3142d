"""Controls of the notebooks: an ``Image`` that is redrawn when a value changes, so that tests can turn every knob."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as w
from PIL import Image

from .errors import UserError
from .models import Models
from .prompts import check_prompt, check_seed, note_unknown_words
from .sampling import sample
from .show import png

START = {"prompt": "an armchair made of avocado on a pink background", "seed": 7, "steps": 20, "guidance": 3.0}
SIDE = 320  # pixels on screen: one fixed size, so that nothing jumps when a picture is replaced


class Control(w.VBox):
    """Knobs over a picture that ``draw(**values)`` makes anew whenever one of them is turned; a Reset button.

    ``draw`` returns a PIL image or a matplotlib figure, always of the same size, and may return ``(picture, text)``; the
    text goes under the picture, and so does the sentence of a ``UserError``, while the last picture stays.
    ``knobs`` are ipywidgets by the names of ``draw``'s arguments; ``drawn`` is what the last good call of ``draw`` returned,
    ``message`` the text under the picture.
    """

    def __init__(self, draw: Callable, **knobs: w.Widget):
        self._draw, self.knobs, self._start, self._resetting = draw, knobs, {k: v.value for k, v in knobs.items()}, False
        self.drawn, self.message, self.image, self.note = None, "", w.Image(format="png"), w.HTML()
        self.reset = w.Button(description="Reset", tooltip="Back to the first settings")
        super().__init__([*knobs.values(), self.reset, self.image, self.note])
        for knob in knobs.values():
            knob.observe(lambda _: self.redraw(), "value")
        self.reset.on_click(lambda _: self._back())
        self.redraw()

    def say(self, text: str) -> None:
        self.message, self.note.value = text, html.escape(text)

    def redraw(self) -> None:
        if self._resetting:
            return
        self.say("Drawing ...")
        try:
            self.drawn = self._draw(**{name: knob.value for name, knob in self.knobs.items()})
        except UserError as error:
            self.say(str(error))
            return
        except BaseException:
            self.say("That did not work: see the log below the notebook.")
            raise
        picture, text = self.drawn if isinstance(self.drawn, tuple) else (self.drawn, "")
        self.image.value = png(picture)
        self.say(text)

    def _back(self) -> None:
        self._resetting = True
        for name, value in self._start.items():
            self.knobs[name].value = value
        self._resetting = False
        self.redraw()


class Playground(Control):
    """Prompt, seed, steps and guidance scale to a picture; Enter in a box or letting go of a slider draws.

    What was wrong with an input, or which words are unknown, is said under the picture; the last picture stays.
    ``picture`` holds what was drawn last, uint8 [64, 64, 3].
    """

    def __init__(self, models: Models):
        same = {"continuous_update": False, "layout": w.Layout(width="560px"), "style": {"description_width": "80px"}}
        self.models, self.picture = models, None
        self.prompt = w.Text(START["prompt"], description="Prompt", **same)
        self.seed = w.Text(str(START["seed"]), description="Seed", **same)
        self.steps = w.IntSlider(START["steps"], 1, 50, description="Steps", **same)
        self.guidance = w.FloatSlider(START["guidance"], min=1, max=10, step=0.5, description="Guidance", **same)
        super().__init__(self._paint, prompt=self.prompt, seed=self.seed, steps=self.steps, guidance=self.guidance)
        self.image.width = self.image.height = SIDE
        self.again = w.Button(description="Another seed", tooltip="Draw the same prompt from other noise")
        self.again.on_click(lambda _: self._next())
        self.children = [*self.knobs.values(), w.HBox([self.again, self.reset]), self.image, self.note]

    def _paint(self, prompt: str, seed: str, steps: int, guidance: float) -> tuple[Image.Image, str]:
        prompt, number = check_prompt(prompt, self.models.tokenizer), check_seed(seed)
        self.picture = sample(self.models, [prompt], [number], steps=steps, guidance_scale=guidance, progress=False)[0]
        picture = Image.fromarray(self.picture).resize((SIDE, SIDE), Image.BICUBIC)
        return picture, note_unknown_words(prompt) or f"{prompt}, seed {number}"

    def _next(self) -> None:
        try:
            self.seed.value = str(check_seed(self.seed.value) + 1)
        except UserError as error:
            self.say(str(error))
