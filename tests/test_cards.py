"""Cards, README and pages say what was measured, and nothing else."""

import importlib.util
import json
import re

import pytest

from ldm_tutorial.measure.report import GOALS
from tests.run import ROOT

spec = importlib.util.spec_from_file_location("cards", ROOT / "benchmarks" / "cards.py")
cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cards)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def results(name: str) -> dict:
    return json.loads(text_of(f"benchmarks/results/{name}.json"))


@pytest.mark.parametrize(
    "name, make",
    [
        ("ldm_tutorial/weights/README.md", cards.model_card),
        ("ldm_tutorial/weights/DATA_CARD.md", cards.data_card),
        ("README.md", cards.readme),
        ("docs/architecture.md", cards.architecture),
    ],
)
def test_made_from_the_measured_numbers(name, make):
    assert text_of(name) == make(), "write them again with `python benchmarks/cards.py`"


def test_measured_numbers_have_counts_and_intervals():
    found = json.loads(text_of("ldm_tutorial/weights/evaluation.json"))
    assert found.keys() <= GOALS.keys()
    for key, number in found.items():
        assert number["low"] <= number["value"] <= number["high"], key
        assert number["n"] >= 3, key


def test_what_was_not_measured_is_named():
    card, found = cards.model_card(), cards.measured()
    absent = [what for key, (what, _, _) in GOALS.items() if key not in found]
    assert ("Not measured with these weights" in card) == bool(absent)
    assert all(what in card for what, _, _ in GOALS.values())


def test_a_missed_goal_is_named(monkeypatch):
    found = cards.measured()
    assert "psnr" in found
    low = found | {"psnr": {"value": 29.0, "n": 5, "low": 28.0, "high": 29.5}}
    low |= {"frechet": found["frechet"] | {"value": 4 * found["frechet_real"]["value"]}}
    monkeypatch.setattr(cards, "measured", lambda: low)
    card = cards.model_card()
    assert "Goals not reached: reconstruction of validation renders, dB; Fréchet distance at most 3 times" in card
    assert "| reconstruction of validation renders, dB | 29 (28 to 29.5; n = 5) | >= 30: not reached |" in cards.readme()


def test_seconds_are_fastest_and_slowest():
    line = next(line for line in cards.model_card().splitlines() if "seconds for one picture" in line)
    number = cards.measured()["seconds_per_image"]
    assert f"fastest {number['low']:.3g}, slowest {number['high']:.3g}" in line


@pytest.fixture
def engine_records(monkeypatch, tmp_path):
    """A function that changes the engine's records, which the cards then read."""
    names = ("engine", "engine_sleeping", "startup", "controls")
    for name in names:
        (tmp_path / f"{name}.json").write_text(json.dumps(results(name)))
    monkeypatch.setattr(cards, "RESULTS", tmp_path)

    def change(name: str, alter) -> None:
        found = cards.record(name) if name in names else {}
        alter(found)
        (tmp_path / f"{name}.json").write_text(json.dumps(found))

    return change


def test_the_engines_goals_are_told_with_those_that_are_missed(engine_records):
    name = "one picture, 20 guided DDIM steps, equal to 1 of 255, 1 thread: times the pipeline"
    engine_records("engine", lambda found: found["threads_1_batch_1"].update(ratio=1.9, lowest=1.7, highest=2.2, pairs=9))
    text = cards.engine_table()
    assert f"| {name} | 1.90 (1.70 to 2.20; 9 pairs) | " in text
    assert f"\n- {name}: 1.90 (1.70 to 2.20; 9 pairs), goal >= 2.\n" in text
    engine_records("engine", lambda found: found["threads_1_batch_1"].update(ratio=2.1))
    assert f"- {name}" not in cards.engine_table()
    for cores in (1, 2):
        for n in (1, 16):
            engine_records("engine", lambda found, key=f"threads_{cores}_batch_{n}": found[key].update(ratio=2.5))
    assert "Every goal that was measured is reached." in cards.engine_table() and "not reached" not in cards.engine_table()


def test_what_the_engines_records_lack_is_not_measured(engine_records):
    busy = "generate_beside_a_busy_core"
    engine_records("startup", lambda found: found["seconds"].pop(busy, None))
    engine_records("controls", lambda found: [turn.pop("finished", None) for turn in found["turned"]])
    text = cards.engine_table()
    assert text.count("not measured yet") == 2 and "Not measured yet: `ldm generate`, shell to file, beside" in text
    assert "ldm evaluate --quick" not in text
    engine_records("startup", lambda f: f["seconds"].update({busy: {"median": 3.0, "lowest": 2.5, "highest": 4.5}}))
    turn = {"notebook": "notebooks/09_text_to_image.ipynb", "knob": "Steps"}
    turns = [turn | {"finished": 600.0}, turn | {"finished": 640.0}, turn | {"knob": "Reset", "finished": 20.0}]
    engine_records("controls", lambda f: f.update(turned=turns))
    text = cards.engine_table()
    assert "beside one busy core: seconds | 3.00 (2.50 to 4.50; 3 rounds) |  | <= 4: reached |" in text
    assert "| 0.62 (0.60 to 0.64; 2 turns) |  | <= 0.5: not reached |" in text and "ot measured yet" not in text


def test_the_time_of_an_evaluation_by_both_engines(engine_records):
    number = {"value": 1, "low": 0, "high": 2}
    numbers = {engine: {"psnr": number, "kid": number, "seconds_per_image": number} for engine in ("torch", "onnx")}
    machine = {"cpu": "A CPU", "cores": 2, "torch": "2", "memory_gib": 8.0, "date": "2026-01-02", "load_before": 0.25}
    seconds = {"torch": {"median": 300}, "onnx": {"median": 150}}
    content = {"numbers": numbers, "changed": ["kid"], "seconds": seconds, "machine": machine}
    engine_records("evaluate_engines", lambda found: found.update(content))
    text = cards.engine_table()
    assert "takes 2.5 minutes with the engine and 5.0 with PyTorch" in text
    assert "1 of 2 numbers are the same within their intervals (not kid)." in text
    assert "(A CPU, 2 cores, 8 GiB of memory, torch 2, 2026-01-02, load 0.2 before it began)" in text


def test_other_ways_of_sampling(monkeypatch, tmp_path):
    assert cards.way({"sampler": "ddim", "steps": 20, "guidance_scale": 3.0, "guidance_interval": [0.0, 1.0]}) == (
        "ddim, 20 steps, guidance 3.0 in every step"
    )
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    assert cards.other_ways() == ""
    rate, distance = {"value": 0.995}, {"value": 0.25}
    sampling = {"sampler": "unipc", "steps": 12, "guidance_scale": 2.0, "guidance_interval": [0.15, 0.75]}
    row = {"sampling": sampling, "right_trained": rate, "right_held_out_dev": rate, "kid": distance, "frechet": distance}
    content = {"pictures": 8, "rows": [row | {"seconds": 0.5}], "floor": {"kid": distance, "frechet": distance}}
    content["chosen"] = sampling
    (tmp_path / "choose_sampling.json").write_text(json.dumps(content))
    for used, said in (
        (sampling, "The one above was chosen"),
        (sampling | {"steps": 9}, "the numbers above were measured before"),
    ):
        monkeypatch.setattr(cards, "measured", lambda used=used: {"frechet": {"sampler": used}})
        assert said in cards.other_ways()
    assert "unipc, 12 steps, guidance 2.0 from 15% to 75% of the run" in cards.other_ways() and "99.5%" in cards.other_ways()


def test_labels_by_eye(monkeypatch, tmp_path):
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    assert cards.labels_by_eye() == ""
    rate = {"value": 0.97, "low": 0.9, "high": 0.99, "n": 100}
    weights = results("labels_by_eye")["weights"]
    content = {"weights": weights, "how": "By a test.", "compared": {"eye, judge": {"object and material": rate}}}
    (tmp_path / "labels_by_eye.json").write_text(json.dumps(content))
    assert "97% (90.0% to 99.0%)" in cards.labels_by_eye() and "By a test." in cards.labels_by_eye()
    (tmp_path / "labels_by_eye.json").write_text(json.dumps(content | {"weights": "of others"}))
    assert cards.labels_by_eye() == ""


def test_the_readme_says_what_the_record_says():
    minutes, share = re.search(r"measured: (\d+) minutes, then ([\d.]+%) of held-out", text_of("README.md")).groups()
    record = text_of("benchmarks/training.md")
    assert f"{minutes} minutes" in record and share in record
    low, high = map(float, re.search(r"then ([\d.]+) to ([\d.]+) times the pipeline's speed", text_of("README.md")).groups())
    compiled = [results("sampler")[f"batch_{n}_compiled"]["ratio"] for n in (1, 16)]
    assert all(low <= ratio <= high for ratio in compiled)


def test_the_page_of_losses_says_what_was_measured():
    page, last = text_of("docs/losses.md"), results("loss_curves")["last_20_steps"]
    healthy, high, slow, unscaled, wrong, few = last.values()
    assert f"({healthy:.2f} after 120 steps)" in page and f"({slow:.2f} after 120 steps)" in page
    assert f"({unscaled:.2f} against {healthy:.2f})" in page and f"({few:.2f})" in page
    assert f"comes back to {high:.2f} and stays" in page and round(wrong) == 1


def test_the_page_of_scale_says_what_was_measured():
    page, found = text_of("docs/scale.md"), results("scale")
    ours, theirs = found["course"], found["stable_diffusion_512"]
    assert (
        f"| parameters: U-Net | {ours['parameters']['unet'] / 1e6:.1f} M | {theirs['parameters']['unet'] / 1e6:.1f} M" in page
    )
    small = found["stable_diffusion_256"]["flops"]["unet"] / 1e9
    assert (
        f"| U-Net, once | {ours['flops']['unet'] / 1e9:.2f} GFLOPs | {small:.0f} | {theirs['flops']['unet'] / 1e9:.0f} |"
        in page
    )
    assert f"| draw one, 20 guided steps | {found['seconds_a_picture']['drawing_20_guided_steps']:.2f} s |" in page
    ratio = theirs["flops"]["draw_20_guided_steps"] / ours["flops"]["draw_20_guided_steps"]
    assert f"costs {round(ratio, -2):,.0f} times ours" in page
