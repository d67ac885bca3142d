"""`ldm evaluate`: the whole of it on a few pictures."""

import subprocess

import numpy
import pytest
import torch

from ldm_tutorial.checkpoints import load_clip, load_models
from ldm_tutorial.curios import pairs
from ldm_tutorial.engine import Engine
from ldm_tutorial.lab import evaluation
from ldm_tutorial.lab.evaluation import clip_top1, draw_disagreements, evaluate, evaluated_prompts, free_wording_scores
from ldm_tutorial.measure.judge import labels_of, load_judge
from ldm_tutorial.measure.pictures import renders, sample_many
from ldm_tutorial.measure.report import GOALS, table
from ldm_tutorial.notebook import figures
from ldm_tutorial.settings import Sampling

FEW = {"prompts": 4, "avocado": 2, "article": 2, "free": 1, "psnr": 8, "views": 1, "maps": 8, "train": 16}


@pytest.fixture
def few(monkeypatch):
    """A measurement in seconds: few pictures of few steps, few free prompts, no command of its own."""
    real = evaluation.free_wording
    monkeypatch.setattr(evaluation, "SIZES", {"full": FEW, "quick": FEW})
    monkeypatch.setattr(evaluation, "free_wording", lambda half: real(half)[:3])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)


def check(models, clip) -> torch.Tensor:
    judge = load_judge()
    found, pictures = evaluate(models, clip, judge, "quick", progress=False, sampling=Sampling(steps=2), second=judge)
    assert found.keys() == GOALS.keys() and pictures.shape == (8, 64, 64, 3)
    for key, number in found.items():
        assert all(numpy.isfinite(number[k]) for k in ("value", "n", "low", "high")), key
        assert number["low"] <= number["value"] <= number["high"], key
    for key in ("prompt_trained", "prompt_heldout", "free_wording", "judges_agree", "background", "clip_top1"):
        assert 0 <= found[key]["value"] <= 1
    assert found["prompt_heldout"]["sampler"]["steps"] == 2 and found["prompt_heldout"]["groups"] == 4
    assert found["judges_agree"]["value"] == 1  # with itself
    assert len(table(found).splitlines()) == len(GOALS) + 2
    return pictures


def test_every_number_is_there(few):
    check(load_models(), load_clip())


@pytest.mark.slow
def test_one_picture_a_pair():
    found = evaluation.one_a_pair(load_models(), torch.zeros(8, 64, 64, 3, dtype=torch.uint8), 4)
    assert found.shape == (288, 64, 64, 3) and (found.flatten(1).amax(1) > 0).sum() == 288 - 8


@pytest.mark.slow
def test_a_model_for_smaller_pictures_is_measured_too(few, tokenizer):
    from transformers import CLIPTextModel

    from ldm_tutorial.autoencoder import build_vae
    from ldm_tutorial.clip import build_clip
    from ldm_tutorial.diffusion import build_scheduler, build_unet
    from ldm_tutorial.models import Models

    clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1, resolution=32).eval()
    unet = build_unet(channels=(16, 32), text_width=32, sample_size=8)
    text_encoder = CLIPTextModel(clip.config.text_config)
    models = Models(build_vae(channels=(8, 8, 16), resolution=32), unet, text_encoder, tokenizer, build_scheduler())
    assert models.resolution == 32
    check(models.for_inference(), clip)


def test_the_engine_draws_the_same_pictures():
    models, prompts = load_models(device="cpu"), ["a golden mug", "a lava duck", "a brick bed"]
    ours = sample_many(models, prompts, 5, False, Sampling(steps=3))
    theirs = sample_many(models, prompts, 5, False, Sampling(steps=3), Engine())
    assert theirs.dtype == ours.dtype and (ours.int() - theirs.int()).abs().max() <= 1


def test_free_wording(monkeypatch):
    """Right pictures are counted by prompt, a refused prompt is wrong, the background counts where it is named."""
    rows = [
        {"prompt": "gold mug", "object": "mug", "material": "gold", "background": "pink"},
        {"prompt": "lava duck", "object": "duck", "material": "lava", "background": None},
        {"prompt": "???", "object": "car", "material": "wood", "background": "blue"},
    ]
    drawn = []

    def sample_many(models, prompts, *_, **__):
        drawn.extend(prompts)
        wanted = {"gold mug": ("mug", "gold", "pink"), "lava duck": ("duck", "cheese", "grey")}
        return renders([wanted[p] for p in prompts], 5, progress=False)[0]

    monkeypatch.setattr(evaluation, "free_wording", lambda half: rows)
    monkeypatch.setattr(evaluation, "sample_many", sample_many)
    found = free_wording_scores(load_models(), load_judge(), "test", seeds=4, progress=False)
    assert drawn == ["gold mug"] * 4 + ["lava duck"] * 4
    assert found["free_wording"]["value"] == pytest.approx(1 / 3) and found["free_wording"]["n"] == 12
    assert found["free_wording"]["groups"] == 3 and found["free_wording"]["high"] == 1  # three prompts say little
    assert found["free_wording_background"]["value"] == 0.5 and found["free_wording_background"]["n"] == 8
    assert free_wording_scores(load_models(), load_judge(), "dev", 1, progress=False).keys() == {
        "free_wording_dev",
        "free_wording_background_dev",
    }


def test_measured_on_the_pairs_for_measuring(monkeypatch):
    asked = []

    def watched(wanted, *rest, **named):
        asked.append({w[:2] for w in wanted})
        return renders(wanted, *rest, **named)

    monkeypatch.setattr(evaluation, "renders", watched)
    found = clip_top1(load_clip(), load_models().tokenizer, views=1)
    assert asked == [set(pairs("held_out_test"))] and found["n"] == 168 and found["groups"] == 21
    assert found["value"] > 0.9  # chance: 1 in 256
    assert {w[:2] for w in evaluated_prompts(2048)[2048:]} == set(pairs("held_out_test"))


def test_disagreements(monkeypatch):
    """A judge that sees the wrong background in one picture."""
    drawn = []
    real = figures.pictures
    monkeypatch.setattr(figures, "pictures", lambda *a, **named: drawn.append((*a, named["title"])) or real(*a, **named))
    wanted = evaluated_prompts(4)
    pictures, _ = renders(wanted, 6, progress=False)
    judge, second = load_judge(), load_judge()
    assert draw_disagreements(pictures, judge, second).size[0] > 100
    assert drawn[0][1:] == ([], "the judges differ on 0 of 8 pictures")
    second.heads[2].bias[(labels_of(wanted)[5, 2] + 1) % 8] += 1000
    draw_disagreements(pictures, judge, second)
    _, titles, title = drawn[1]
    assert title == f"the judges differ on {len(titles)} of 8 pictures" and 4 <= len(titles) < 8
    assert all(text.startswith("asked: ") and "first: " in text and "second: " in text for text in titles)


def test_seconds(monkeypatch):
    """The median, the fastest and the slowest, of a picture and of the whole command; the warm-up does not count."""
    now, taken = [0.0], iter([9.0, 1.0, 5.0, 2.0, 4.0, 3.0, 30.0, 10.0, 20.0])
    commands = []

    def work(*_, **__):
        now[0] += next(taken)

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(evaluation, "sample_many", work)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or work())
    found = evaluation.seconds_of_pictures(None, Sampling())
    assert found["seconds_per_image"] == {"value": 3.0, "n": 5, "low": 1.0, "high": 5.0, "engine": "torch"}
    assert found["seconds_generate"] == {"value": 20.0, "n": 3, "low": 10.0, "high": 30.0}
    assert len(commands) == 3 and commands[0][2:4] == ["ldm_tutorial.lab.cli", "generate"]
