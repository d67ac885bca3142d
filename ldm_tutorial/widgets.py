"""Controls of the notebooks: an ``Image`` that is redrawn when a value changes, so that tests can turn every knob."""

from __future__ import annotations

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
    ``knobs`` are ipywidgets by the names of ``draw``'s arguments; ``drawn`` is what the last call of ``draw`` returned.
    """

    def __init__(self, draw: Callable, **knobs: w.Widget):
        self._draw, self.knobs, self._start, self._resetting = draw, knobs, {k: v.value for k, v in knobs.items()}, False
        self.drawn, self.image, self.note = None, w.Image(format="png"), w.Label()
        self.reset = w.Button(description="Reset", tooltip="Back to the first settings")
        super().__init__([*knobs.values(), self.reset, self.image, self.note])
        for knob in knobs.values():
            knob.observe(lambda _: self.redraw(), "value")
        self.reset.on_click(lambda _: self._back())
        self.redraw()

    def redraw(self) -> None:
        if self._resetting:
            return
        try:
            self.drawn = self._draw(**{name: knob.value for name, knob in self.knobs.items()})
        except UserError as error:
            self.note.value = str(error)
            return
        picture, self.note.value = self.drawn if isinstance(self.drawn, tuple) else (self.drawn, "")
        self.image.value = png(picture)

    def _back(self) -> None:
        self._resetting = True
        for name, value in self._start.items():
            self.knobs[name].value = value
        self._resetting = False
        self.redraw()


class Playground(w.VBox):
    """Prompt, seed, steps and guidance scale to a picture; Enter in a box or letting go of a slider draws.

    What was wrong with an input, or which words are unknown, is said under the picture; the last picture stays.
    ``picture`` holds what was drawn last (uint8 [64, 64, 3]), ``message`` the text under it.
    """

    def __init__(self, models: Models):
        wide, described = w.Layout(width="560px"), {"description_width": "80px"}
        self.models, self.picture, self._resetting = models, None, False
        self.prompt = w.Text(START["prompt"], description="Prompt", continuous_update=False, layout=wide, style=described)
        self.seed = w.Text(
            str(START["seed"]),
            description="Seed",
            continuous_update=False,
            layout=w.Layout(width="280px"),
            style=described,
        )
        self.steps = w.IntSlider(
            START["steps"], 1, 50, description="Steps", continuous_update=False, layout=wide, style=described
        )
        self.guidance = w.FloatSlider(
            START["guidance"],
            min=0,
            max=10,
            step=0.5,
            description="Guidance",
            continuous_update=False,
            layout=wide,
            style=described,
        )
        self.again = w.Button(description="Another seed", tooltip="Draw the same prompt from other noise")
        self.reset = w.Button(description="Reset", tooltip="Back to the first settings")
        self.image = w.Image(format="png", width=SIDE, height=SIDE)
        self.note = w.Label()
        super().__init__(
            [self.prompt, w.HBox([self.seed, self.again, self.reset]), self.steps, self.guidance, self.image, self.note]
        )
        for control in (self.prompt, self.seed, self.steps, self.guidance):
            control.observe(lambda _: self.draw(), "value")
        self.again.on_click(lambda _: self._next())
        self.reset.on_click(lambda _: self._reset())
        self.draw()

    @property
    def message(self) -> str:
        return self.note.value

    def draw(self) -> None:
        if self._resetting:
            return
        try:
            prompt, seed = check_prompt(self.prompt.value, self.models.tokenizer), check_seed(self.seed.value)
            self.note.value = "Drawing ..."
            options = {"steps": self.steps.value, "guidance_scale": self.guidance.value, "progress": False}
            self.picture = sample(self.models, [prompt], [seed], **options)[0]
            self.note.value = note_unknown_words(prompt) or f"{prompt}, seed {seed}"
        except UserError as error:
            self.note.value = str(error)
            return
        self.image.value = png(Image.fromarray(self.picture).resize((SIDE, SIDE), Image.BICUBIC))

    def _next(self) -> None:
        try:
            self.seed.value = str(check_seed(self.seed.value) + 1)
        except UserError as error:
            self.note.value = str(error)

    def _reset(self) -> None:
        self._resetting = True
        self.prompt.value, self.seed.value = START["prompt"], str(START["seed"])
        self.steps.value, self.guidance.value = START["steps"], START["guidance"]
        self._resetting = False
        self.draw()
