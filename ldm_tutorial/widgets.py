"""Controls of the notebooks: an ``Image`` that is redrawn when a value changes, so that tests can turn every knob."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import ipywidgets as w
import torch
from PIL import Image

from .attention import heat_maps, record_attention, word_tokens
from .curios import parse
from .errors import UserError
from .models import Models
from .prompts import check_prompt, check_seed, note_unknown_words
from .sampling import sample
from .show import heat_overlay, png

START = {
    "prompt": "an armchair made of avocado on a pink background",
    "seed": 7,
    "steps": 20,
    "guidance": 3.0,
    "word": "avocado",
}
SIDE, THUMB = 256, 64  # pixels on screen: fixed sizes, so that nothing jumps when a picture is replaced


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
        self.reset.on_click(lambda _: self.put(**self._start))
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

    def put(self, **values) -> None:
        """Turn several knobs at once, by name, and draw once."""
        self._resetting = True
        try:
            for name, value in values.items():
                self.knobs[name].value = value
        finally:
            self._resetting = False
        self.redraw()


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
        self.image.width, self.image.height = 2 * SIDE, SIDE + THUMB
        self.again = w.Button(description="Another seed", tooltip="Draw the same prompt from other noise")
        self.again.on_click(lambda _: self._next())
        self.history.observe(lambda change: self._bring_back(change["new"]), "value")
        self.children = [*self.knobs.values(), self.history, w.HBox([self.again, self.reset]), self.image, self.note]

    def _paint(self, prompt: str, negative: str, seed: str, steps: int, guidance: float, word: str) -> tuple[Image.Image, str]:
        tokenizer = self.models.tokenizer
        prompt, number = check_prompt(prompt, tokenizer), check_seed(seed)
        negative = check_prompt(negative, tokenizer) if negative.strip() else ""
        wish = (prompt, negative, str(number), steps, guidance)  # in the order of the knobs
        if wish not in self.made:
            options = {"steps": steps, "guidance_scale": guidance, "negative_prompt": negative, "progress": False}
            with record_attention(self.models.unet) as maps:
                picture = sample(self.models, [prompt], [number], **options)[0]
            # The half that read the prompt comes last; the mean over steps: [layers * heads, pixels, tokens]
            self.made[wish] = picture, torch.cat([torch.stack([call[-1] for call in calls]).mean(0) for calls in maps.values()])
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
        return sheet.quantize(256, dither=Image.Dither.NONE)  # a third of the bytes: notebooks store it

    def _list(self, wish: tuple) -> None:
        """Show the history with ``wish`` chosen, without drawing again."""
        before, self._resetting = self._resetting, True
        self.history.options = [(f"{i}: {made[0]}, seed {made[2]}", made) for i, made in enumerate(self.made, 1)]
        self.history.value = wish
        self._resetting = before

    def _bring_back(self, wish: tuple) -> None:
        if not self._resetting:
            self.put(**dict(zip(self.knobs, wish, strict=False)))  # all but the last knob, the word

    def _next(self) -> None:
        try:
            self.knobs["seed"].value = str(check_seed(self.knobs["seed"].value) + 1)
        except UserError as error:
            self.say(str(error))
