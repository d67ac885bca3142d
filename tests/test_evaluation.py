"""The measurements: each small one against what is known, the whole on a few pictures."""

import json
import shutil

import numpy
import pytest
import torch
from typer.testing import CliRunner

from ldm_tutorial import evaluation
from ldm_tutorial.cli import app
from ldm_tutorial.curios import pairs
from ldm_tutorial.errors import UserError
from ldm_tutorial.evaluation import (
    GOALS,
    JUDGE,
    best_threshold,
    evaluate,
    frechet_distance,
    interval,
    kernel_distance,
    labels_of,
    load_judge,
    nearest,
    overlap,
    psnr,
    renders,
    table,
    verdicts,
    wishes,
)
from ldm_tutorial.models import PROFILES, WEIGHTS, Profile, load_clip, load_models
from ldm_tutorial.sampling import sample
from ldm_tutorial.training import Run


def test_psnr():
    a = torch.zeros(2, 3, 8, 8)
    b = a.clone()
    b[1] += 0.2  # a tenth of the range -1..1
    found = psnr(a, b)
    assert found[0] >= 100 and found[1].item() == pytest.approx(20, abs=1e-4)


def test_interval():
    low, high = interval(99, 100)
    assert 0.94 < low < 0.95 and 0.995 < high < 1  # Wilson's, not the normal one, which would pass 1
    assert interval(0, 10)[0] == 0 and interval(990, 1000)[0] > low


def test_frechet_distance_of_gaussians():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(20_000, 4, generator=g), 2 * torch.randn(20_000, 4, generator=g) + 3
    expected = 4 * 3**2 + 4 * (2 - 1) ** 2  # |difference of means|^2 + sum of (difference of standard deviations)^2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_gaussians():
    """About 0 for two sets of one kind, whatever their size, where a Fréchet distance grows as they get smaller."""
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(300, 16, generator=g, dtype=torch.float64) + shift for shift in (0, 0, 0.5))
    same, other = kernel_distance(a, b), kernel_distance(c, b)
    assert same["low"] < 0 < same["high"] and same["n"] == 300
    assert kernel_distance(a[:50], b[:50])["low"] < 0 < kernel_distance(a[:50], b[:50])["high"]
    assert other["low"] > same["high"]
    assert kernel_distance(a, b) == same, "the same subsets each time"
    assert kernel_distance(10 * c, 10 * b)["value"] == pytest.approx(other["value"]), "the unit makes no difference"

    scale = b.square().mean().sqrt()  # the definition (their eq. 4), on all pairs at once
    x, y = c / scale, b / scale
    off = ~torch.eye(300, dtype=torch.bool)

    def kernel(p, q):
        return (p @ q.T / 16 + 1) ** 3

    expected = kernel(x, x)[off].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    assert other["low"] < expected < other["high"] and other["value"] == pytest.approx(expected.item(), rel=0.1)
    with pytest.raises(UserError) as error:
        kernel_distance(a, b[:7])
    assert "too few" in str(error.value)


def test_overlap_and_its_threshold():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2] = True
    maps = masks.float() * 0.6 + 0.1
    assert overlap(maps, masks, 0.5).item() == 1 and overlap(maps, masks, 0.05).item() == 0.5
    threshold, score = best_threshold(maps, masks)
    assert score == 1 and 0.1 <= threshold <= 0.7


def test_every_pair_is_wished_for_equally_often():
    found = wishes("held_out", 8 * 41)
    assert len({w[:2] for w in found}) == 41 and len(set(found)) == 8 * 41  # and each once on every background
    assert {w[:2] for w in wishes("train", 247)} == set(pairs("train"))


def test_nearest_finds_the_copy():
    training = torch.randint(256, (20, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert nearest(training[3:4], training).item() == pytest.approx(0, abs=1e-3)
    assert nearest(255 - training[3:4], training).item() > 0.01


def test_the_judge_knows_fresh_renders_and_not_noise():
    judge, wanted = load_judge(), wishes("train", 48) + wishes("held_out", 24)
    images, masks = renders(wanted, seed=1234, progress=False)
    right = (verdicts(judge, images) == labels_of(wanted)).all(1)
    assert right.sum() >= 70
    assert 0.03 < masks.float().mean() < 0.9
    grain = torch.randint(256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (verdicts(judge, grain) == labels_of(wanted)).all(1).sum() <= 3


@pytest.mark.parametrize("harm", ["missing", "short", "altered"])
def test_a_damaged_judge_says_so(tmp_path, harm):
    folder = tmp_path / "judge"
    if harm != "missing":
        shutil.copytree(JUDGE, folder)
        file = folder / "judge.safetensors"
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content[:1000] if harm == "short" else content)
    with pytest.raises(UserError, match="ldm train judge") as error:
        load_judge(folder)
    assert "\n" not in str(error.value)


@pytest.fixture
def few(monkeypatch):
    sizes = {"prompts": 4, "avocado": 2, "article": 2, "psnr": 8, "maps": 8, "train": 16}
    monkeypatch.setattr(evaluation, "SIZES", {"full": sizes, "quick": sizes})


@pytest.fixture
def smaller(monkeypatch, tmp_path):
    """A folder with a model for pictures of 32 x 32, hardly trained."""
    trial = Profile(40, (2, 4, 1e-3), (2, 8, 1e-3), (2, 4, 1e-3), (16, 32), resolution=32)
    monkeypatch.setitem(PROFILES, "trial", trial)
    return Run(tmp_path / "run", "trial", progress=False).finish(tmp_path / "model")


@pytest.mark.parametrize("side", [64, 32])
def test_every_number_is_there(few, side, request):
    folder = request.getfixturevalue("smaller") if side == 32 else WEIGHTS
    models = load_models(folder)
    assert models.resolution == side and sample(models, ["a mug"], [1], steps=1, progress=False).shape == (1, side, side, 3)
    found, pictures = evaluate(models, load_clip(folder), load_judge(), "quick", progress=False)
    assert found.keys() == GOALS.keys() and pictures.shape == (8, 64, 64, 3)
    for key, number in found.items():
        assert number["low"] <= number["value"] <= number["high"], key
        assert all(numpy.isfinite(number[k]) for k in ("value", "n", "low", "high")), key
    rates = ("prompt_trained", "prompt_heldout", "avocado_armchair", "article_prompt", "background", "clip_top1")
    assert all(0 <= found[k]["value"] <= 1 for k in rates)
    assert len(table(found).splitlines()) == len(GOALS) + 2


@pytest.mark.parametrize(
    "arguments, words", [(["--json", "a.txt"], "a.json"), (["--sheet", "a.jpg"], "a.png"), (["--model", "x"], "no model")]
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["evaluate", "--quick", *arguments])
    assert isinstance(result.exception, UserError) and words in str(result.exception)


def test_json_is_written_whole(few, tmp_path, monkeypatch):
    number = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: (dict.fromkeys(GOALS, number), torch.zeros(8, 64, 64, 3)))
    file = tmp_path / "out.json"
    file.write_text("old")
    result = CliRunner().invoke(app, ["evaluate", "--quick", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text()).keys() == GOALS.keys()
