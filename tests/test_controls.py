"""Controls: every knob draws, says what is wrong, has a label, and comes back with Reset."""

import asyncio
import base64
import io
import os
import signal

import ipywidgets as w
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ldm_tutorial.errors import UserError
from ldm_tutorial.notebook import controls
from ldm_tutorial.notebook.controls import Control, step
from ldm_tutorial.notebook.playground import START, Playground, mostly_background


@pytest.fixture
def play(tiny):
    playground = Playground(tiny[0])
    playground.put(steps=2)
    return playground


def test_control_draws_says_what_is_wrong_and_resets():
    calls = []

    def draw(side, colour):
        calls.append((side, colour))
        if side == 13:
            raise UserError("Not 13.")
        if side == 14:
            raise ValueError("a bug")
        return Image.new("RGB", (8, 8), colour), f"{side} <b>"

    control = Control(draw, side=w.IntSlider(3, 1, 20), colour=w.Text("red"))
    assert calls == [(3, "red")] and control.message == "3 <b>" and control.note.value == "3 &lt;b&gt;"
    red = control.image.value
    control.knobs["side"].value = 13
    assert control.message == "Not 13." and control.image.value == red and control.drawn[1] == "3 <b>"
    with pytest.raises(ValueError, match="a bug"):
        control.knobs["side"].value = 14
    assert control.message.startswith("That did not work")
    control.put(side=5, colour="blue")
    assert calls[-1] == (5, "blue") and len(calls) == 4, "several knobs, one drawing"
    control.reset.click()
    assert calls[-1] == (3, "red") and control.image.value == red


def test_put_of_a_value_that_a_knob_refuses_leaves_the_control_working():
    calls = []
    control = Control(lambda n: calls.append(n) or Image.new("RGB", (8, 8)), n=w.IntSlider(3, 1, 20))
    with pytest.raises(Exception, match="n"):
        control.put(n="many")
    control.knobs["n"].value = 4
    assert calls == [3, 4]


def sketch(n):
    return Image.new("RGB", (40, 30), (10 * n, 0, 0)), f"number {n}"


def on_the_page(monkeypatch, draw, turn):
    """Make ``Control(draw, n=...)``, turn it as the kernel does when a message of the page comes in, wait for the drawing."""

    async def visit():
        control = Control(draw, n=w.IntSlider(3, 1, 20))
        with monkeypatch.context() as patch:
            patch.setattr(controls, "_from_page", lambda: True)
            turn(control)
        await asyncio.sleep(0.3)
        return control

    return asyncio.run(visit())


def test_on_the_page_the_last_request_wins(monkeypatch):
    calls = []

    def turn(control):
        for n in (4, 5, 6):
            control.knobs["n"].value = n
        assert calls == [3], "nothing is drawn inside the message"

    control = on_the_page(monkeypatch, lambda n: calls.append(n) or sketch(n), turn)
    assert calls == [3, 6] and control.message == control.access.alt == "number 6"


def test_on_the_page_a_slow_drawing_is_given_up_for_a_newer_one(monkeypatch):
    steps, made = [], []

    def slow(n):
        for i in range(3):
            steps.append((n, i))
            if (n, i) == (4, 1):
                monkeypatch.setattr(controls, "_from_page", lambda: True)
                made[0].knobs["n"].value = 5  # a message that comes meanwhile
            if made:
                step(f"Step {i} ...")
        return sketch(n)

    def turn(control):
        made.append(control)
        control.knobs["n"].value = 4

    control = on_the_page(monkeypatch, slow, turn)
    assert control.message == "number 5" and (4, 2) not in steps and (5, 2) in steps


@pytest.mark.parametrize("fault", [UserError("Too large."), ValueError("shape")])
def test_on_the_page_a_first_impression_of_what_fails_goes_again(monkeypatch, fault):
    shown = []

    def fails(n):
        step(f"Step 1 for {n} ...", Image.new("RGB", (30, 20), (200, 0, 0)))
        if n == 4:
            shown.append(control_of[0].image.value)
            raise fault
        return sketch(n)

    control_of = []

    def turn(control):
        control_of.append(control)
        control.knobs["n"].value = 4

    control = on_the_page(monkeypatch, fails, turn)
    assert "Too large." in control.message or "ValueError: shape" in control.message
    first, now = (Image.open(io.BytesIO(content)).getpixel((0, 0)) for content in (shown[0], control.image.value))
    assert first == (200, 0, 0) and now == (30, 0, 0) and control.access.alt == "number 3"


def test_on_the_page_an_interrupt_ends_a_drawing_and_nothing_else(monkeypatch):
    def slow(n):
        if n == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return sketch(n)

    control = on_the_page(monkeypatch, slow, lambda control: control.put(n=4))
    assert control.message.startswith("Interrupted") and control.drawn[1] == "number 3"
    first = Image.open(io.BytesIO(control.image.value)).getpixel((0, 0))
    assert first == (30, 0, 0), "the last picture stays"


def stored(control) -> tuple[Image.Image, str]:
    """The picture that a page without a kernel shows, and its alternative text."""
    data, metadata = control._repr_mimebundle_()
    return Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB"), metadata["image/png"]["alt"]


def test_without_a_kernel_a_picture_of_its_states_stays(monkeypatch):
    control = Control(sketch, n=w.IntSlider(3, 1, 20, description="n"))
    data, _ = control._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and data["text/plain"] == "Control: n 3"
    sheet, alt = stored(control)
    assert alt.endswith("number 1; number 3; number 20")
    seen = {colour for _, colour in sheet.getcolors()}
    assert {(10, 0, 0), (30, 0, 0), (200, 0, 0)} <= seen and control.message == "number 3"
    monkeypatch.setenv("LDM_TUTORIAL_STATIC", "1")
    assert set(control._repr_mimebundle_()[0]) == {"text/plain", "image/png"}


REUSED = Figure(figsize=(2, 1))
LENGTH = REUSED.subplots().barh([0], [0])[0]
CANVAS = Image.new("RGB", (40, 30))


def level(x) -> int:
    """0 to 250, another one for each setting that is tried."""
    return sum(f"{x}".encode()) * 37 % 251


def new_picture(x):
    return Image.new("RGB", (40, 30), (90, level(x), 90)), f"{x}"


def reused_figure(x):
    """Moves the one bar of the one figure, as a control does that must be quick."""
    LENGTH.set_width(level(x) / 251)
    REUSED.axes[0].set_xlim(0, 1)
    return REUSED, f"{x}"


def reused_picture(x):
    CANVAS.paste((90, level(x), 90), (0, 0, 40, 30))
    return CANVAS, f"{x}"


KNOBS = {
    "a list": (lambda: w.Dropdown(options=["a", "b", "c", "d"]), ["a", "c", "d"]),
    "buttons": (lambda: w.ToggleButtons(options=["a", "b", "c", "d"], value="b"), ["a", "b", "d"]),
    "a slider over a list": (lambda: w.SelectionSlider(options=[2, 4, 8], value=4), [2, 4, 8]),
    "a logarithmic slider": (lambda: w.FloatLogSlider(1, base=10, min=0, max=2), [1.0, 10.0, 100.0]),
    "a slider": (lambda: w.FloatSlider(0.5, min=0, max=1), [0.0, 0.5, 1.0]),
    "a slider of whole numbers": (lambda: w.IntSlider(20, 1, 20), [1, 10, 20]),
    "a text": (lambda: w.Text("hello"), ["hello"]),
}


@pytest.mark.parametrize("draw", [new_picture, reused_figure, reused_picture])
@pytest.mark.parametrize("kind", KNOBS)
def test_the_states_that_a_picture_shows_differ(kind, draw):
    make, values = KNOBS[kind]
    control = Control(draw, x=make())
    now = control.image.value
    states = control._states()
    assert [text for _, text in states] == [str(value) for value in values]
    assert len({Image.open(io.BytesIO(content)).tobytes() for content, _ in states}) == len(values)
    alone = [Control(draw, x=make()) for _ in values]
    for other, value, (content, _) in zip(alone, values, states, strict=True):
        other.knobs["x"].value = value
        assert other.image.value == content, "each state is what the knob turned by hand would show"
    control.redraw()
    assert control.image.value == now


def test_a_reused_figure_is_left_as_the_page_shows_it():
    control = Control(reused_figure, x=w.IntSlider(20, 1, 20))
    width = LENGTH.get_width()
    stored(control)
    assert LENGTH.get_width() == width


def test_states_that_look_alike_are_shown_once():
    control = Control(lambda n: (Image.new("RGB", (40, 30), "red" if n < 15 else "blue"), f"{n}"), n=w.IntSlider(3, 1, 20))
    assert [text for _, text in control._states()] == ["1", "20"]


def test_playground_stops_and_shows_the_last_picture_again(play, monkeypatch):
    image = play.image.value
    monkeypatch.setattr(Control, "at_work", play)
    step("Step 1 of 2 ...", Image.open(io.BytesIO(image)).convert("L").convert("RGB"))
    monkeypatch.setattr(Control, "at_work", None)
    assert play.image.value != image and play.message == "Step 1 of 2 ..."
    play.stop.click()
    assert play.message.startswith("Stopped") and play.image.value == image


def test_playground_draws_for_every_knob(play):
    seen = play.picture.copy()
    for name, value in {"prompt": "a golden duck", "seed": "8", "steps": 3, "guidance": 6.0, "negative": "a blue mug"}.items():
        play.knobs[name].value = value
        assert (play.picture != seen).any(), name
        seen = play.picture.copy()
    play.again.click()
    assert play.knobs["seed"].value == "9" and (play.picture != seen).any()
    play.reset.click()
    assert play.knobs["prompt"].value == START["prompt"] and play.knobs["steps"].value == START["steps"]
    assert play.message.startswith(f"{START['prompt']}, seed {START['seed']}")


def test_playground_shows_where_a_word_acts(play):
    assert play.heat.shape == (64, 64) and play.heat.min() == 0 and play.heat.max() == 1
    assert "right: where 'avocado' acts" in play.message and "avocado" in play.knobs["word"].options
    before, picture, made = play.heat.copy(), play.picture.copy(), len(play.made)
    play.knobs["word"].value = "pink"
    assert (play.heat != before).any() and (play.picture == picture).all() and len(play.made) == made
    play.knobs["word"].value = "wombat"
    assert "'wombat' does not stand in the prompt; right: where 'armchair' acts" in play.message
    play.knobs["word"].value = ""
    assert play.heat is not None and "stand" not in play.message and "where 'armchair' acts" in play.message
    play.put(word="", prompt="something strange made of gold")  # no object: no word to look for
    assert play.heat is None and (play.picture != picture).any() and "right" not in play.message


def test_playground_without_the_word_that_it_would_look_for(play):
    play.put(prompt="two mugs made of gold", word="")  # "mugs" is not the word "mug": no map, and no complaint
    assert play.heat is None and "stand" not in play.message


def test_a_map_of_the_background_is_said_to_be_one():
    picture = np.full((64, 64, 3), 200, np.uint8)
    picture[16:48, 16:48] = 40
    at_object = (picture[..., 0] == 40).astype(float)
    assert not mostly_background(picture, at_object) and mostly_background(picture, 1 - at_object)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert not mostly_background(noise, 1 - at_object), "where there is no plain background, nothing is said"
    assert not mostly_background(np.full_like(picture, 200), 1 - at_object)


def test_the_shipped_model_paints_where_the_words_act():
    """The map of the object's word is higher on the object, the map of the colour's beside it."""
    from ldm_tutorial.checkpoints import load_models

    play = Playground(load_models())
    for word, aside in (("avocado", False), ("armchair", False), ("pink", True)):
        play.knobs["word"].value = word
        assert play.message.endswith(", mostly on the background") == aside, play.message
    play.put(prompt="a golden duck on a blue background", word="blue")
    assert play.message.endswith("where 'blue' acts, mostly on the background")
    play.knobs["word"].value = "on"  # its map would look like any other, stretched to its own full range
    assert "where 'on' acts, but hardly: " in play.message and play.message.endswith("% of what 'duck' does")
    assert 0 < play.heat.max() < 0.25


def test_playground_brings_back_what_was_made(play):
    first, size = play.picture.copy(), Image.open(io.BytesIO(play.image.value)).size
    play.put(prompt="a golden duck", seed=" 012 ")
    assert (play.picture != first).any() and play.history.value == ("a golden duck", "", "12", 2, 3.0)
    made = len(play.made)
    play.history.value = play.history.options[made - 2][1]
    assert (play.picture == first).all() and play.knobs["prompt"].value == START["prompt"] and len(play.made) == made
    for seed in range(20, 30):
        play.knobs["seed"].value = str(seed)
    assert len(play.history.options) == made + 10
    assert Image.open(io.BytesIO(play.image.value)).size == size, "one size, however much was made"


@pytest.mark.parametrize("name, value", [("prompt", "  "), ("prompt", "🥑"), ("seed", "seven"), ("negative", "1,2")])
def test_playground_keeps_the_last_picture_when_an_input_will_not_do(play, name, value):
    picture, image, made = play.picture.copy(), play.image.value, len(play.made)
    play.knobs[name].value = value
    assert play.message and "Drawing" not in play.message and len(play.made) == made
    assert (play.picture == picture).all() and play.image.value == image
    play.again.click()
    assert play.message


def test_every_control_of_the_playground_is_labelled_and_takes_the_keyboard(play):
    named = [*play.knobs.values(), play.history, play.again, play.reset, play.stop]
    assert all(k.description and k.tooltip for k in named) and all(k.tabbable is not False and not k.disabled for k in named)
    assert len({k.description for k in named}) == len(named)
    assert not any(k.continuous_update for k in play.knobs.values()), "draw when Enter is pressed or a slider is let go"
    assert isinstance(play.picture, np.ndarray)


def test_the_playground_draws_with_the_engine_where_it_computes_the_same(monkeypatch):
    """The same pictures and maps as by torch; the picture is shown before the map; with other weights torch draws again."""
    from ldm_tutorial.checkpoints import load_models

    models = load_models(device="cpu")
    play = Playground(models)
    assert play.fast.engine is not None
    by_torch = Playground(models)
    monkeypatch.setattr(by_torch.fast, "draw", lambda *_: None)
    for values in ({"seed": "11"}, {"seed": "12", "negative": "a blue background", "steps": 5}):
        play.put(**values)
        by_torch.put(**values)
        assert abs(play.picture.astype(int) - by_torch.picture).max() <= 1
        assert abs(play.heat - by_torch.heat).max() < 1e-3 and play.message == by_torch.message

    said = []
    monkeypatch.setattr(play, "_paint", lambda content, text: said.append(text))
    monkeypatch.setattr(Control, "at_work", play)
    play.put(seed="13")
    monkeypatch.setattr(Control, "at_work", None)
    assert said[-2].startswith("The picture is there") and "right: where 'avocado' acts" in said[-1]

    before = play.picture
    with torch.no_grad():
        models.unet.conv_out.weight.mul_(0.9)
    play.put(seed="14")
    assert play.fast.engine is None, "the exported graphs hold other weights now"
    play.put(seed="13")
    assert (play.picture == before).all(), "what was made comes back"


def test_no_engine_without_a_folder_or_off_the_cpu(tiny, monkeypatch):
    from ldm_tutorial.models import Models
    from ldm_tutorial.notebook.fast import matching_engine

    assert matching_engine(tiny[0]) is None
    monkeypatch.setattr(Models, "device", torch.device("meta"))
    assert matching_engine(tiny[0]) is None
