"""The benchmarks: each explains itself, measures fairly, and stores its figures with the machine they come from."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run import ROOT

FOLDER = ROOT / "benchmarks"
SCRIPTS = ["imports", "sampler", "fast_sampling", "steps", "training_loop", "latent_vs_pixel", "scale", "baselines"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """A script by name, as a module; what it stores goes to ``tmp_path``, its command line is ``--quick``."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import machine

    monkeypatch.setattr(machine, "TRIALS", tmp_path)
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "committed")

    def load(name: str, *arguments: str):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *(arguments or ["--quick"])])
        return module

    return load


@pytest.fixture
def tiny_world(monkeypatch, tiny_folder):
    """The tiny model in place of the shipped one, an untrained judge and untrained companions."""
    from ldm_tutorial import companions, evaluation, models

    real = models.load_models
    monkeypatch.setattr(models, "WEIGHTS", tiny_folder)
    monkeypatch.setattr(models, "load_models", lambda: real(tiny_folder, "cpu"))
    monkeypatch.setattr(evaluation, "load_judge", lambda: evaluation.Judge().eval())
    monkeypatch.setattr(companions, "load_companion", lambda name, device: companions.build(name).to(device).eval())
    monkeypatch.setattr(companions, "curve", lambda name: {"seconds": 1})


def stored(path: Path) -> dict:
    figures = json.loads(path.read_text())
    assert {"cpu", "cores", "gpu", "python", "torch", "torch_threads", "command"} <= figures["machine"].keys()
    return figures


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, tmp_path):
    """Also from another folder, and without waiting for the heavy libraries."""
    command = [sys.executable, "-X", "importtime", str(FOLDER / f"{name}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (
        done.returncode == 0 and "--quick" in done.stdout and "diffusers" not in done.stderr and "| torch\n" not in done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_every_script_is_listed_here():
    assert {p.stem for p in FOLDER.glob("*.py")} - {"machine", "render"} >= set(SCRIPTS)


def test_pairs(script):
    import time

    machine = script("machine")
    order = []
    machine.clock, machine.clock_name = time.perf_counter, lambda: "wall clock"
    found = machine.compare(lambda: order.append("a") or time.sleep(0.01), lambda: order.append("b") or time.sleep(0.03), 3)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"  # a warm-up, then the order changes from pair to pair
    assert 2 < found["ratio"] < 4 and found["lowest"] <= found["ratio"] <= found["highest"] and found["pairs"] == 3
    assert found["seconds_ours"] < found["seconds_theirs"] and found["clock"] == "wall clock"


def test_imports(script, tmp_path, capsys):
    for _ in range(3):  # one pair of imports may be disturbed by whatever else the machine does, three are not
        script("imports").main()
        figures = stored(tmp_path / "imports.json")
        if figures["seconds_added"] < 0.3:
            break
    assert figures["seconds_added"] < 0.3 and figures["ratio"] > 0 and figures["pairs"] == 1
    assert "ldm_tutorial adds" in capsys.readouterr().out and not (tmp_path / "committed").exists()


def test_sampler(script, tmp_path, tiny_world, capsys):
    script("sampler").main()
    figures = stored(tmp_path / "sampler.json")
    for batch in ("batch_1", "batch_16"):
        assert figures[batch]["ratio"] > 0 and figures[batch]["largest_difference"] < 1e-4
    assert "times as fast as the pipeline" in capsys.readouterr().out


def test_fast_sampling(script, tmp_path, tiny_world, capsys):
    module = script("fast_sampling", "--pictures", "4")
    module.main()
    figures = stored(tmp_path / "committed" / "fast_sampling.json")
    assert figures["pictures"] == figures["ours"]["right"]["n"] == figures["theirs"]["right"]["n"] == 4
    assert figures["speed"]["ratio"] > 1.5 and isinstance(figures["equal_quality"], bool)
    assert "times as fast as the pipeline's 50 DDIM steps" in capsys.readouterr().out


def test_steps(script, tmp_path, tiny_world, capsys):
    module = script("steps")
    module.main()
    figures = stored(tmp_path / "steps.json")
    assert set(figures["curves"]) == set(figures["knee"]) == {"ddpm", "ddim", "dpm++", "unipc"}
    assert all(point["right"]["n"] == 8 for curve in figures["curves"].values() for point in curve)
    assert "98% of the quality from" in capsys.readouterr().out


def test_the_knee(script):
    fewest = script("steps").fewest
    curve = [{"steps": s, "q": q} for s, q in ((2, 0.5), (5, 0.99), (8, 0.9), (12, 0.98), (20, 1.0))]
    assert fewest(curve, lambda p: p["q"] >= 0.98) == 12  # not 5: it doesn't stay good
    assert fewest(curve, lambda p: p["q"] >= 0.4) == 2
    assert fewest(curve, lambda p: p["q"] > 1) is None


def test_training_loop(script, tmp_path, tiny_world, monkeypatch, capsys):
    module = script("training_loop")
    module.main()
    figures = stored(tmp_path / "training_loop.json")
    assert 0.2 < figures["fit_against_bare"]["ratio"] < 2 and figures["cached_latents_times_faster"] > 0
    assert "of a bare loop's steps per second" in capsys.readouterr().out


def test_scale(script, tmp_path, tiny_world, capsys):
    script("scale").main()
    figures = stored(tmp_path / "scale.json")
    theirs = figures["stable_diffusion_512"]
    assert theirs["parameters"] == {"vae": 83_653_863, "unet": 859_520_964, "text_encoder": 123_060_480}  # as published
    for name in ("course", "stable_diffusion_256", "stable_diffusion_512"):
        found = figures[name]["flops"]
        assert 2.8 < found["unet_forward_and_backward"] / found["unet"] < 3.1  # a backward pass is two forward ones
    assert 4 < theirs["flops"]["unet"] / figures["stable_diffusion_256"]["flops"]["unet"] < 5  # attention grows faster
    assert all(s > 0 for s in figures["seconds_a_picture"]["training"].values()) and figures["peak_bytes"]["training"] > 1e8
    assert "GFLOPs a picture" in capsys.readouterr().out and figures["processes"] == 1


def test_latent_vs_pixel(script, tmp_path, tiny_world, capsys):
    script("latent_vs_pixel").main()
    figures = stored(tmp_path / "latent_vs_pixel.json")
    assert figures["training"]["ratio"] > 1.5 and figures["sampling"]["ratio"] > 1
    a, b = figures["parameters"].values()
    assert abs(a / b - 1) < 0.05
    assert figures["kid_latent"]["low"] < figures["kid_latent"]["high"] and "kernel distance" in capsys.readouterr().out


def test_verdict_on_diverse_pictures(script):
    """Claim 1.7's measure comes out in all three ways, as its two parts lie above 0 or not."""
    import torch

    baselines = script("baselines")
    groups = {"gold": torch.arange(40), "others": torch.arange(40, 160), "unseen": torch.arange(160, 240)}
    noise = torch.randn(2, 3, 240, generator=torch.Generator().manual_seed(0))

    def model(k: int, gold: float, others: float, unseen: float) -> torch.Tensor:
        level = torch.cat([torch.full((len(rows),), value) for rows, value in zip(groups.values(), (gold, others, unseen))])
        return level + noise[k]

    diverse = model(0, 23, 23, 22)
    for narrow, verdict in (
        (model(1, 25, 20, 20), "holds"),
        (model(1, 26, 23, 23), "in part"),  # falls further, yet ends no lower
        (model(1, 23, 23, 22), "does not hold"),
    ):
        found = baselines.compare_autoencoders(diverse, narrow, groups, times=200)
        assert found["verdict"] == verdict
        for name in ("unseen_diverse_minus_narrow", "fall_narrow_minus_diverse"):
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"] and len(found[name]["by_seed"]) == 3
    assert baselines.compare_autoencoders(diverse, model(1, 25, 20, 20), groups, times=20)["unseen_diverse_minus_narrow"][
        "value"
    ] == pytest.approx(2, abs=0.3)


def test_baselines_measures_what_is_there_and_says_what_is_not(script, tmp_path, monkeypatch, capsys):
    module = script("baselines")
    arguments = ["--quick", "--weights", str(tmp_path / "none"), "--run", str(tmp_path), "--sheets", str(tmp_path / "s")]
    monkeypatch.setattr(sys, "argv", ["benchmarks/baselines.py", *arguments, "--parts", "autoencoders", "diversity", "pairs"])
    module.main()
    figures = stored(tmp_path / "baselines.json")
    assert set(figures["autoencoders"]) == {"shipped", "shrunk to 16 x 16 and enlarged"} and figures["pairs"] == {}
    better, worse = (figures["autoencoders"][name]["psnr_seen_kinds"] for name in figures["autoencoders"])
    assert better["low"] > worse["high"], "control: shrinking"
    assert figures["diversity"] == {"seeds": 0} and "vae-narrow is not in" in capsys.readouterr().out
    assert (tmp_path / "s" / "autoencoders.png").exists()
