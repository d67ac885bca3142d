"""The measures, each against what is known: intervals, distances, the judges, the score of heat maps."""

import json
import shutil

import numpy as np
import pytest
import torch

from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs
from ldm_tutorial.errors import UserError
from ldm_tutorial.measure.judge import JUDGE, labels_of, load_judge, names_of, predict, predict_with_features, save_judge
from ldm_tutorial.measure.maps import best_threshold, choose_maps, overlap
from ldm_tutorial.measure.metrics import (
    average,
    frechet_distance,
    interval,
    kernel_distance,
    nearest,
    rate,
    rate_by_group,
    spread,
)
from ldm_tutorial.measure.pictures import FREE_WORDING, accepted_prompt, expected_prompts, free_wording, renders, to_64
from ldm_tutorial.measure.report import GOALS, row, table


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- intervals ------------------------------------------------------------------------------------------------------


def test_interval_of_a_rate():
    low, high = interval(99, 100)
    assert 0.94 < low < 0.95 and 0.995 < high < 1  # Wilson's, not the normal one, which would pass 1
    assert interval(0, 10)[0] == 0 and interval(990, 1000)[0] > low


def test_average():
    found = average(torch.randn(10_000, generator=seeded()) + 3)
    assert found["n"] == 10_000 and found["low"] < 3 < found["high"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 100, rel=0.03)


def test_interval_counts_groups():
    """One pair of 20 fails wholly: as sure of the rate as 20 pairs make one, not as 2,000 pictures would."""
    groups = [f"pair {i % 20}" for i in range(2000)]
    right = torch.tensor([i % 20 != 3 for i in range(2000)])
    found, by_picture = rate_by_group(right, groups), rate(right)
    assert found["value"] == by_picture["value"] == 0.95 and found["n"] == 2000 and found["groups"] == 20
    assert found["low"] <= 0.86 and found["high"] == 1
    assert by_picture["low"] > 0.93


def test_interval_of_groups_that_never_fail_is_not_empty():
    found = rate_by_group(torch.ones(40, dtype=torch.bool), ["a", "b"] * 20)
    assert found["value"] == found["high"] == 1 and found["low"] == rate(torch.ones(40))["low"] < 0.93


# --- distances ------------------------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians():
    g = seeded()
    a, b = torch.randn(20_000, 4, generator=g), 2 * torch.randn(20_000, 4, generator=g) + 3
    expected = 4 * 3**2 + 4 * (2 - 1) ** 2  # |difference of means|^2 + sum of (difference of standard deviations)^2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    g = seeded()
    a, b = (torch.randn(50, 6, generator=g, dtype=torch.float64) @ torch.randn(6, 6, generator=g).double() for _ in "ab")
    expected = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_has_an_interval():
    """Around the true distance, but for the sets' sizes: most of ten intervals hold it."""
    held = 0
    for seed in range(10):
        g = seeded(seed)
        a, b = torch.randn(1000, 2, generator=g), torch.randn(1000, 2, generator=g) + 1
        found = spread(a, b)
        assert found["low"] < found["value"] < found["high"] and found["n"] == 1000
        assert found["high"] - found["low"] < 1
        held += found["low"] < 2 < found["high"]
    assert held >= 8


@pytest.mark.parametrize("n", [32, 512])
def test_kernel_distance_has_no_bias(n):
    """Around 0 for sets from one source, also for small ones, where a Fréchet distance is far above; and not for others."""
    same, other = [], []
    for seed in range(12):
        g = seeded(seed)
        a, b = torch.randn(n, 16, generator=g), torch.randn(n, 16, generator=g)
        same.append(kernel_distance(a, b))
        other.append(kernel_distance(a, b + 1)["low"])
    assert np.mean([s["value"] for s in same]) == pytest.approx(0, abs=0.02) and min(s["value"] for s in same) < 0
    assert sum(s["low"] <= 0 <= s["high"] for s in same) >= 9
    assert min(other) > 0


def test_kernel_distance_does_not_depend_on_the_order():
    """Sorted pictures would make blocks of one kind each."""
    a = torch.randn(256, 8, generator=seeded())
    a[:128] += 3
    b = torch.randn(256, 8, generator=seeded(1))
    b[::2] += 3  # the same mixture in another order
    found = kernel_distance(a, b)
    assert found["low"] <= 0 <= found["high"]


def test_nearest_finds_the_copy():
    training = torch.randint(256, (20, 64, 64, 3), dtype=torch.uint8, generator=seeded())
    assert nearest(training[3:4], training).item() == pytest.approx(0, abs=1e-3)
    assert nearest(255 - training[3:4], training).item() > 0.01


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_every_pair_is_asked_for_equally_often():
    found = expected_prompts("held_out", 8 * 41)
    assert len({w[:2] for w in found}) == 41 and len(set(found)) == 8 * 41  # and each once on every background
    assert {w[:2] for w in expected_prompts("train", 247)} == set(pairs("train"))


def test_free_wording_is_halved_by_prompt():
    dev, test = free_wording("dev"), free_wording("test")
    assert len(dev) == len(test) == 200
    assert not {row["prompt"] for row in dev} & {row["prompt"] for row in test}
    for found in dev + test:
        assert found["object"] in OBJECTS and found["material"] in MATERIALS
        assert found["background"] in (*BACKGROUNDS, None)
    assert len(FREE_WORDING.read_text(encoding="utf-8").splitlines()) == 400


def test_what_accepted_prompt(tokenizer):
    assert accepted_prompt("  a mug made of gold\n", tokenizer) == "a mug made of gold"
    assert accepted_prompt("", tokenizer) is None and accepted_prompt("a mug " * 100, tokenizer) is None


def test_smaller_pictures_are_enlarged():
    small = torch.full((2, 32, 32, 3), 7, dtype=torch.uint8)
    assert to_64(small).shape == (2, 64, 64, 3) and (to_64(small) == 7).all()


# --- judges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, missed", [("judge", 1)])
def test_the_judges_know_fresh_renders_and_not_noise(name, missed):
    judge, wanted = load_judge(name), expected_prompts("train", 48) + expected_prompts("held_out", 24)
    images, masks = renders(wanted, seed=1234, progress=False)
    assert (predict(judge, images) == labels_of(wanted)).all(1).sum() >= 72 - missed
    assert 0.03 < masks.float().mean() < 0.9
    noise = torch.randint(256, images.shape, dtype=torch.uint8, generator=seeded())
    assert (predict(judge, noise) == labels_of(wanted)).all(1).sum() <= 3


def test_verdicts_come_with_features_and_names():
    wanted = [("mug", "gold", "pink"), ("baseball bat", "galaxy", "orange")]
    assert names_of(labels_of(wanted)) == wanted
    judge, pictures = load_judge(), renders(wanted, seed=1, progress=False)[0]
    alone = [predict_with_features(judge, picture[None]) for picture in pictures]
    verdicts, features = predict_with_features(judge, pictures)
    assert torch.equal(torch.cat([v for v, _ in alone]), verdicts)
    torch.testing.assert_close(torch.cat([f for _, f in alone]), features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["judge"])
def test_a_saved_judge_is_the_same_one(tmp_path, name):
    judge = load_judge(name)
    save_judge(judge, tmp_path, name)
    again = load_judge(name, tmp_path).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in judge.state_dict().items())  # fp16 already


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
        load_judge(folder=folder)
    assert "\n" not in str(error.value)


# --- heat maps ------------------------------------------------------------------------------------------------------


def test_overlap_and_its_threshold():
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2] = True
    maps = masks.float() * 0.6 + 0.1
    assert overlap(maps, masks, 0.5).item() == 1 and overlap(maps, masks, 0.05).item() == 0.5
    threshold, score = best_threshold(maps, masks)
    assert score == 1 and 0.1 <= threshold <= 0.7


def test_the_head_that_knows_is_chosen(monkeypatch):
    """Of six heads at three timesteps one is made from the masks."""
    masks = torch.zeros(12, 64, 64, dtype=torch.bool)
    for i in range(12):
        masks[i, 8 + i : 40 + i, 4 + 2 * i : 36 + 2 * i] = True

    def attention(models, wanted, images, timestep, words):
        logs = torch.randn(12, 6, 8, 8, generator=seeded(timestep))
        if timestep == 400:
            logs[:, 2] = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), 8)[:, 0] * 50
        return logs

    monkeypatch.setattr("ldm_tutorial.measure.maps._attention", attention)
    found = choose_maps(None, [("mug", "gold", "pink")] * 12, None, masks)
    assert found["timestep"] == 400 and 2 in found["heads"]


# --- the table ------------------------------------------------------------------------------------------------------


def number(value: float, **more) -> dict:
    return {"value": value, "n": 100, "low": value - 0.01, "high": value + 0.01, **more}


def test_the_table_names_what_it_shows():
    found = {key: number(0.5) for key in GOALS} | {"prompt_heldout": number(0.985, groups=21)}
    lines = table(found).splitlines()
    assert len(lines) == len(GOALS) + 2
    assert [line for line in lines if "held-out pairs" in line and "97.50% to 99.50%" in line and "100 (21)" in line]
    assert row("prompt_heldout", found["prompt_heldout"])[-1] == ">= 99.00%: not reached"
    assert row("seconds_per_image", found["seconds_per_image"])[2] == "fastest 0.49, slowest 0.51"
    assert (
        row("seconds_per_image", number(0.5, engine="onnx"))[0] == "seconds for one picture (default), loaded, by ONNX Runtime"
    )
    assert row("seconds_per_image", number(0.5, engine="torch"))[0].endswith("by PyTorch")
    assert row("psnr", number(31))[-1] == ">= 30: reached"
    json.dumps(found)
