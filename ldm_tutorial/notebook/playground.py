"""The playground of notebooks 00 and 09: from a prompt to a picture, and where one of its words acts."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import ipywidgets as w
import numpy as np
import torch
from PIL import Image

from ..attention import enlarge, record_inputs, word_change
from ..curios import parse
from ..curios.vocabulary import note_unknown_words
from ..errors import UserError
from ..images import to_picture
from ..models import Models
from ..sampling import DEFAULT_SAMPLING, Sampling, decode_quickly, sample
from ..storage.about import EXAMPLE
from ..text import check_prompt
from .controls import Control, step
from .fast import FastPictures
from .figures import heat_map, pictures, stack

START = {
    "prompt": EXAMPLE,
    "seed": 7,
    "steps": DEFAULT_SAMPLING.steps,
    "guidance": DEFAULT_SAMPLING.guidance_scale,
    "word": "avocado",
}
WEAK = 0.25  # a word that changes less than this share of what the object's word changes hardly acts
LAST = 5  # so many of the pictures made are shown in a row
BLANK = np.full((64, 64, 3), 255, np.uint8)


def check_seed(seed: object) -> int:
    """A whole number from 0 to 2**63 - 1, given as a number or as text.

    Raises:
        UserError: for anything else.
    """
    text = str(seed).strip()
    if isinstance(seed, bool) or not re.fullmatch(r"\+?[0-9]{1,19}", text) or int(text) >= 2**63:
        raise UserError(f"The seed {str(seed)[:40]!r} must be a whole number from 0 to 2^63 - 1, for example 7.")
    return int(text)


def mostly_background(picture: np.ndarray, heat: np.ndarray) -> bool:
    """Whether a heat map [64, 64] is higher beside the object than on it, as far as a picture uint8 [64, 64, 3] tells.

    Background is what has about the colour of the picture's edge: on renders right for 93 of 100 pixels. Where hardly
    anything or nearly all has it, nothing is known, and the answer is no.
    """
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    away = abs(picture - np.median(edge, axis=0)).max(axis=2)
    background = away < 50
    if not 0.15 < background.mean() < 0.97:
        return False
    return heat[background].mean() > heat[~background].mean()


class Playground(Control):
    """Prompt to picture; beside it where one word acts; below it the last that were made.

    Enter in a box or letting go of a slider draws. What was wrong with an input, or which words are unknown, is said under the
    picture; the last picture stays. ``picture`` is what was drawn last, uint8 [64, 64, 3]; ``heat`` the word's effect [64, 64]
    in 0..1 (the object's where the prompt lacks the word, else None); ``made`` the history: (prompt, negative, seed, steps,
    guidance) to picture and what the layers of cross-attention were given. Choosing an entry of ``history`` brings it back.
    """

    def __init__(self, models: Models):
        def knob(kind: type[w.Widget], value, name: str, tip: str, **more) -> w.Widget:
            more |= {"placeholder": tip} if kind in (w.Text, w.Combobox) else {}
            more |= {"continuous_update": False} if kind is not w.Dropdown else {}
            look = {"layout": w.Layout(width="560px"), "style": {"description_width": "90px"}}
            return kind(value=value, description=name, tooltip=tip, **look, **more)

        self.models = models
        self.fast = FastPictures(models)
        self.picture: np.ndarray = BLANK
        self.heat: np.ndarray | None = None
        self.made: dict[tuple, tuple[np.ndarray, dict]] = {}
        self.history = knob(w.Dropdown, None, "Made so far", "Bring back what was made", options=[("nothing yet", None)])
        super().__init__(
            self._draw_wish,
            prompt=knob(w.Text, START["prompt"], "Prompt", "what to draw"),
            negative=knob(w.Text, "", "But not", "what to steer away from"),
            seed=knob(w.Text, str(START["seed"]), "Seed", "which noise to begin with"),
            steps=knob(w.IntSlider, START["steps"], "Steps", "how often to look and step", min=1, max=50),
            guidance=knob(w.FloatSlider, START["guidance"], "Guidance", "how strongly to listen", min=1, max=10, step=0.5),
            word=knob(w.Combobox, START["word"], "Heat map of", "a word of the prompt; empty: its object"),
        )
        self.telling = None  # its static picture is the one of now: others would take seconds
        self.again = w.Button(description="Another seed", tooltip="Draw the same prompt from other noise")
        self.again.on_click(lambda _: self._next())
        self.stop = w.Button(description="Stop", tooltip="Leave the drawing that is being made")
        self.stop.on_click(lambda _: self._stop())
        self.history.add_class("ldm-history").add_class("ldm-knob")
        self.again.add_class("ldm-button")
        self.stop.add_class("ldm-button")
        self.history.observe(lambda change: self._bring_back(change["new"]), "value")
        buttons = w.HBox([self.again, self.reset, self.stop])
        self.children = [*self.knobs.values(), self.history, buttons, self.image, self.note, self.access]

    def _draw_wish(self, prompt: str, negative: str, seed: str, steps: int, guidance: float, word: str):
        tokenizer = self.models.tokenizer
        prompt, number = check_prompt(prompt, tokenizer), check_seed(seed)
        negative = check_prompt(negative, tokenizer) if negative.strip() else ""
        wish = (prompt, negative, str(number), steps, guidance)  # in the order of the knobs
        if wish not in self.made:
            sampling = replace(DEFAULT_SAMPLING, steps=steps, guidance_scale=guidance, negative_prompt=negative)
            self.made[wish] = self._make(prompt, number, sampling)
        self.picture, inputs = self.made[wish]
        self.knobs["word"].options = list(dict.fromkeys(re.findall(r"[\w-]+", prompt.lower())))
        text = note_unknown_words(prompt) or f"{prompt}, seed {number}"
        noun, self.heat, shown = (parse(prompt)[0] or "").split(" ")[-1], None, ""
        asked = word.strip() or noun
        changes = {}  # of those two words that stand in the prompt: what each changes
        for name in dict.fromkeys([asked, noun]):
            with contextlib.suppress(UserError):
                changes[name] = word_change(self.models, prompt, name, inputs)
        if word.strip() and asked not in changes:
            text += f"; {asked!r} does not stand in the prompt"
        if changes:  # the object's word takes the place of one that does not stand there
            shown = asked if asked in changes else noun
            change = changes[shown]
            self.heat = enlarge(change[None])[0].numpy()
            text += f"; right: where {shown!r} acts"
            strength = (change.mean() / changes[noun].mean()).item() if noun in changes else 1.0
            if strength < WEAK:  # stretched to its own full range, its map would look like any other
                self.heat = self.heat * strength
                text += f", but hardly: {strength:.0%} of what {noun!r} does"
            elif mostly_background(self.picture, self.heat):
                text += ", mostly on the background"
        self._list(wish)
        return self._sheet(self.picture, self.heat, shown), text

    def _make(self, prompt: str, seed: int, sampling: Sampling) -> tuple[np.ndarray, dict]:
        """A picture, and what the layers of cross-attention were given while it was made: in every fourth step, and of a batch
        the half that read the prompt, which tells enough and fills less memory. By the engine the picture is there first."""
        look = self._preview(sampling.steps)
        drawn = self.fast.draw(prompt, seed, sampling, look)
        if drawn is not None:
            picture, given = drawn
            if Control.at_work is self:
                step("The picture is there; where the word acts follows ...", self._sheet(picture, None, "", picture))
            return picture, self.fast.inputs(prompt, given)
        with record_inputs(self.models.unet) as inputs:
            picture = sample(self.models, [prompt], [seed], sampling, on_step=look, progress=False)[0]
        for calls in inputs.values():
            calls[:] = [x[-1:] for x in calls[::4]]
        return picture, inputs

    def _sheet(self, picture: np.ndarray, heat: np.ndarray | None, word: str, *newest: np.ndarray) -> Image.Image:
        """The picture, the heat map, and the last pictures made in a row below; always of one size."""
        last = [*(made for made, _ in self.made.values()), *newest][-LAST:]
        return stack([heat_map(picture, heat, word[:24]), pictures(last or [BLANK], None, LAST)])

    def _preview(self, steps: int) -> Callable:
        """For the sampler to call after each step: a few times a second, show how far the picture has come."""
        last = 0.0

        def look(i: int, _, latents: torch.Tensor) -> None:
            nonlocal last
            sheet = None
            if Control.at_work is self and i + 1 < steps and time.monotonic() - last > 0.2:
                half = to_picture(decode_quickly(self.models, latents)).numpy()[0]
                sheet = self._sheet(half, None, "")
                last = time.monotonic()
            step(f"Step {i + 1} of {steps} ...", sheet)

        return look

    def _stop(self) -> None:
        self._asked += 1  # nobody waits for what is being drawn
        text = "Stopped: the last picture stays. Turn a knob to draw again."
        if self._loop:  # after the step that is being done
            self._loop.call_soon_threadsafe(self._restore, text)
        else:
            self._restore(text)

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
