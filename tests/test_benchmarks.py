"""The benchmarks: each explains itself, measures fairly, and stores its figures with the machine they come from."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tests.run import ROOT

FOLDER = ROOT / "benchmarks"
SHARED = {"machine"}  # what the scripts share
PAPERS = {"cards", "label_by_eye"}  # these two measure no speed, and have no --quick
SCRIPTS = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED - PAPERS)


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
    """The tiny model in place of the shipped one, an untrained judge and untrained baselines."""
    from ldm_tutorial import baselines, checkpoints
    from ldm_tutorial.measure import judge

    real = checkpoints.load_models
    monkeypatch.setattr(checkpoints, "WEIGHTS", tiny_folder)
    monkeypatch.setattr(checkpoints, "load_models", lambda: real(tiny_folder, "cpu"))
    monkeypatch.setattr(judge, "load_judge", lambda *_: judge.Judge().eval())
    monkeypatch.setattr(baselines, "load_baseline", lambda name, device: baselines.build(name).to(device).eval())
    monkeypatch.setattr(baselines, "training_curve", lambda name: {"seconds": 1})


def stored(path: Path) -> dict:
    figures = json.loads(path.read_text())
    wanted = {"cpu", "cores", "memory_gib", "date", "load_before", "gpu", "python", "torch", "torch_threads", "command"}
    assert wanted <= figures["machine"].keys()
    return figures


def is_comparison(found: dict, pairs: int = 1, clock: str = "processor time") -> bool:
    """Whether figures of pairs agree with each other: the ratio is theirs over ours, and nothing is out of the world."""
    assert 0.001 < found["seconds_ours"] < 600 and 0.001 < found["seconds_theirs"] < 600, found
    assert 1 / 50 < found["lowest"] <= found["ratio"] <= found["highest"] < 50, found
    if pairs == 1:
        assert found["ratio"] == pytest.approx(found["seconds_theirs"] / found["seconds_ours"]), found
    return found["pairs"] == pairs and found["clock"] in (clock, "wall clock")


def help_of(name: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", str(FOLDER / f"{name}.py"), "--help"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", SCRIPTS + sorted(PAPERS))
def test_help(name, tmp_path):
    """Also from another folder, and without waiting for the heavy libraries."""
    done = help_of(name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "diffusers" not in done.stderr and "| torch\n" not in done.stderr
    assert ("--quick" in done.stdout) == (name in SCRIPTS)
    assert not list(tmp_path.iterdir())


def test_every_script_has_a_test():
    assert {name for name in SCRIPTS if f"test_{name}" not in globals()} == set()


def test_pairs(script):
    """With a clock that only moves when something is done."""
    machine = script("machine")
    now, order = [0.0], []

    def work(name: str, seconds: float):
        order.append(name)
        now[0] += seconds

    machine.clock, machine.clock_name = lambda: now[0], lambda: "a clock for tests"
    found = machine.compare(lambda: work("a", 1), lambda: work("b", 3), 3)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"  # a warm-up, then the order changes from pair to pair
    assert found == {
        **{"ratio": 3, "lowest": 3, "highest": 3, "pairs": 3},
        **{"seconds_ours": 1, "seconds_theirs": 3, "clock": "a clock for tests"},
    }


def test_the_machine_is_described(script, monkeypatch):
    machine = script("machine", "--quick")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = machine.describe()
    assert found["cpu"] == machine.cpu_name() and 0.2 < found["memory_gib"] < 100_000 and 0 <= found["load_before"] < 10_000
    if Path("/proc/cpuinfo").exists() and "model name" in Path("/proc/cpuinfo").read_text():
        assert f": {found['cpu']}\n" in Path("/proc/cpuinfo").read_text()
    assert "OMP_WAIT_POLICY=PASSIVE " in found["command"] and found["command"].endswith("machine.py --quick")
    assert date.fromisoformat(found["date"]) <= date.today()


def test_a_busy_core_is_busy_while_it_is_wanted(script, monkeypatch):
    import psutil

    busy_core, children = script("machine").busy_core, psutil.Process().children
    before = set(children())
    with busy_core(False):
        assert set(children()) == before
    with pytest.raises(KeyError), busy_core():
        (process,) = set(children()) - before
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) > 0.1
        raise KeyError
    assert set(children()) == before


def test_imports(script, tmp_path, monkeypatch, capsys):
    """With costs that are known: what is stored is their difference."""
    module = script("imports")
    costs = {"torch": 2.0, "torch, ldm_tutorial": 2.5, "torch, ldm_tutorial.sampling": 6.0}
    monkeypatch.setattr(module, "cost", costs.__getitem__)
    module.main()
    figures = stored(tmp_path / "imports.json")
    assert figures["seconds_added"] == 0.5 and figures["ratio"] == 1.25 and figures["pairs"] == 1
    assert "ldm_tutorial adds 0.500 s" in capsys.readouterr().out and not (tmp_path / "committed").exists()


def test_what_an_import_costs_is_measured(script):
    cost = script("imports").cost
    assert 0 <= cost("sys") < cost("sys; sum(range(3_000_000))") < 30


def test_startup(script, tmp_path, monkeypatch, capsys):
    """With durations that are known. The first round does not count."""
    module = script("startup")
    durations = {"help": 0.2, "wrong_option": 0.3, "generate": 2.0, "generate_with_torch": 5.0, "plain_diffusers": 6.0}
    durations |= {"generate_beside_a_busy_core": 3.0, "plain_diffusers_beside_a_busy_core": 30.0}
    names = {tuple(command): name for name, (command, _) in module.COMMANDS.items()}
    calls, beside = [], [""]

    @contextmanager
    def busy_core(wanted):
        beside.append("_beside_a_busy_core" if wanted else "")
        yield
        beside.pop()

    def seconds(command, status):
        calls.append(names[tuple(command)] + beside[-1])
        return durations[calls[-1]] * (100 if len(calls) <= 7 else 1)

    monkeypatch.setattr(module, "busy_core", busy_core)
    monkeypatch.setattr(module, "seconds", seconds)
    module.main()
    figures = stored(tmp_path / "startup.json")
    assert calls == [*durations] * 2
    assert {name: found["median"] for name, found in figures["seconds"].items()} == durations and figures["ratio"] == 3
    assert "3.00 times as fast" in capsys.readouterr().out and not (tmp_path / "committed").exists()


def test_startup_counts_no_command_that_fails(script):
    module = script("startup")
    assert 0.3 < module.seconds([sys.executable, "-c", "import time; time.sleep(0.3)"], 0) < 60
    with pytest.raises(RuntimeError, match="ended with 3"):
        module.seconds([sys.executable, "-c", "raise SystemExit(3)"], 0)
    with pytest.raises(RuntimeError, match="made no picture"):
        module.seconds([sys.executable, "-c", "", "picture.png"], 0)


def test_render(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", "as it was")  # restored after the test
    script("render").main()
    figures = stored(tmp_path / "render.json")
    assert figures["pictures"] == 64 and figures["seconds_cached"] < figures["seconds_one_core"]
    assert figures["speed_up"] == figures["seconds_one_core"] / figures["seconds_all_cores"]
    assert "1,000 pictures: 1 core" in capsys.readouterr().out


def test_choose_sampling(script, tmp_path, tiny_world, monkeypatch, capsys):
    from ldm_tutorial.lab import evaluation

    told = {"object": "mug", "material": "gold", "background": "pink"}
    prompts = [told | {"prompt": text} for text in ("gold mug pink", "a mug, golden, on pink")]
    monkeypatch.setattr(evaluation, "free_wording", lambda half: prompts)
    module = script("choose_sampling")
    module.main()
    figures = stored(tmp_path / "choose_sampling.json")
    assert len(figures["rows"]) == 3 and figures["rows"][0]["right_held_out_dev"]["n"] == 8
    assert figures["chosen"] in [row["sampling"] for row in figures["rows"]]
    assert "chosen: " in capsys.readouterr().out


def test_the_rule_of_choice(script):
    from ldm_tutorial.settings import Sampling

    module = script("choose_sampling")
    assert module.calls(Sampling("unipc", 20, 3.0, (0.15, 0.75))) == 32  # 12 of 20 steps ask twice
    assert module.calls(Sampling("ddim", 20, 1.0)) == 20 and module.calls(Sampling("ddim", 20, 3.0)) == 40

    def row(name: str, right: float, kid: float, calls: int, free: float = 1.0, background: float = 1.0) -> dict:
        kinds = {"free_wording": {"value": free}, "free_wording_background": {"value": background}}
        return {"name": name, "right": {"value": right}, "kid": {"value": kid, "high": kid + 0.1}, "unet_calls": calls, **kinds}

    disobedient, far = row("disobedient", 0.98, 0.0, 5), row("far", 1.0, 0.5, 6)
    best, cheap, dear = row("best", 0.998, 0.2, 40), row("cheap", 0.996, 0.29, 30), row("dear", 1.0, 0.25, 50)
    deaf, blind = row("deaf", 1.0, 0.2, 7, free=0.97), row("blind", 1.0, 0.2, 8, background=0.97)
    every = [disobedient, far, deaf, blind, best, cheap, dear]
    assert [found["name"] for found in module.eligible(every)] == ["deaf", "blind", "best", "cheap", "dear"]
    assert module.choose([deaf, blind, best, cheap, dear])["name"] == "cheap"
    assert module.choose([deaf, blind, best, dear])["name"] == "best"


def labels(script, tmp_path, monkeypatch, **changed: str):
    """The script with 100 renders in place of generated pictures, and labels that name what is asked for, but for some."""
    import torch

    from ldm_tutorial.measure.judge import load_judge
    from ldm_tutorial.measure.pictures import renders

    module = script("label_by_eye", "compare")
    monkeypatch.setattr(module, "LABELS", tmp_path / "labels_by_eye.json")
    monkeypatch.setattr(module, "SHEETS", tmp_path / "sheets")
    wanted = module.asked()
    pictures = torch.zeros(100, 64, 64, 3, dtype=torch.uint8)
    pictures[:6] = renders(wanted[:6], 3, progress=False)[0]
    monkeypatch.setattr(module, "generated", lambda: pictures)
    monkeypatch.setattr("ldm_tutorial.measure.judge.load_judge", lambda *_, real=load_judge: real())
    texts = {f"{i + 1}": ", ".join(w) for i, w in enumerate(wanted)} | changed
    module.LABELS.write_text(json.dumps({"weights": module.weights(), "how": "by a test", "labels": texts}))
    return module


def test_labels_by_eye(script, tmp_path, monkeypatch, capsys):
    module = labels(script, tmp_path, monkeypatch, **{"2": "?, ?, ?"})
    module.main()
    content = json.loads(module.LABELS.read_text())
    found = content["compared"]
    assert found["eye, prompt"]["differing"] == [2] and found["eye, prompt"]["background"]["value"] == 0.99
    assert not {1, 3, 4, 5, 6} & set(found["eye, judge"]["differing"])  # the renders
    assert len(found["eye, judge"]["differing"]) > 90  # the black pictures
    assert content["how"] == "by a test" and len(content["labels"]) == 100
    assert "eye, prompt: object and material the same in 99%" in capsys.readouterr().out


def test_labels_that_name_nothing(script, tmp_path, monkeypatch):
    for text in ("a mug", "mug, glod, pink", ""):
        with pytest.raises(SystemExit, match="label 7 is"):
            labels(script, tmp_path, monkeypatch, **{"7": text}).compare()


def test_labels_of_other_weights(script, tmp_path, monkeypatch):
    module = labels(script, tmp_path, monkeypatch)
    module.LABELS.write_text(json.dumps(json.loads(module.LABELS.read_text()) | {"weights": "others"}))
    with pytest.raises(SystemExit, match="by other weights"):
        module.compare()


def test_sheets_to_label_show_no_prompt(script, tmp_path, monkeypatch):
    module = labels(script, tmp_path, monkeypatch)
    module.write_sheets()
    assert len(list(module.SHEETS.glob("sheet_*.png"))) == 5
    empty = json.loads((module.SHEETS / "labels_by_eye.json").read_text())
    assert set(empty["labels"]) == {f"{k}" for k in range(1, 101)} and set(empty["labels"].values()) == {""}
    wanted = module.asked()
    assert len(wanted) == 100 and wanted != sorted(wanted)


def test_sampler(script, tmp_path, tiny_world, capsys):
    script("sampler").main()
    figures = stored(tmp_path / "sampler.json")
    for batch in ("batch_1", "batch_16"):
        assert is_comparison(figures[batch]) and figures[batch]["largest_difference"] < 1e-4
    assert "times as fast as the pipeline" in capsys.readouterr().out


def test_engine(script, tmp_path, monkeypatch, capsys):
    """The pictures are compared for real; what a process needs is given."""
    (tmp_path / "committed").mkdir()
    fast = {"sampler": "unipc", "steps": 3, "guidance_scale": 3.0, "guidance_interval": [0.15, 0.75], "negative_prompt": ""}
    (tmp_path / "committed" / "fast_sampling.json").write_text(json.dumps({"sampling": fast}))
    module = script("engine")
    monkeypatch.setattr(module, "peak_bytes", lambda code, *_: 2**20 * (100 if "Engine" in code else 900))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # `make test` sets it: then the record is called engine_sleeping
    clock = module.machine.clock, module.machine.clock_name
    module.main()
    module.machine.clock, module.machine.clock_name = clock
    figures = stored(tmp_path / "engine.json")
    for key in ("batch_1", "batch_16", "default", "equal_quality"):
        assert is_comparison(figures[f"threads_1_{key}"], clock="wall clock")
    assert all(figures[f"threads_1_batch_{n}"]["largest_difference"] <= 1 for n in (1, 16))
    assert figures["threads_1_equal_quality"]["clock"] == "wall clock" and figures["threads_1_equal_quality"]["steps"] == 3
    speeds = figures["gflops_one_thread"]
    assert set(speeds) == {"matrix_product", "engine", "torch"} and all(0.1 < s < 10_000 for s in speeds.values())
    assert "peak of memory: 100 MiB, plain diffusers 900 MiB" in capsys.readouterr().out


def test_peak_of_memory(script):
    module = script("engine")
    less, more = (module.peak_bytes(f"block = bytearray({n})\n{module.PEAK}") for n in (1, 200 * 2**20))
    assert more - less > 150 * 2**20


def test_threads(script, tmp_path, monkeypatch, capsys):
    """Two of the ways, for real: torch answers the training step, the engine is not asked for it."""
    module = script("threads")
    ways = {"torch, one": ("torch", 1, {}, True), "ONNX Runtime, one": ("onnx", 1, {}, False)}
    monkeypatch.setattr(module, "WAYS", ways)
    monkeypatch.setattr(module, "JOBS", {"guided step": (2, 1), "training step": (2, 1)})
    module.main()
    rows = stored(tmp_path / "threads.json")["milliseconds"]
    assert set(rows["torch, one"]) == {"guided step", "training step"} and set(rows["ONNX Runtime, one"]) == {"guided step"}
    for found in rows.values():
        for states in found.values():
            assert set(states) == {"idle", "busy"}
            assert all(0.1 < spent["lowest"] <= spent["median"] < 60_000 for spent in states.values()), states
    assert "beside one busy core" in capsys.readouterr().out


def test_each_time_of_the_threads_stands_in_its_place(script, tmp_path, monkeypatch):
    """With workers whose milliseconds are known: by way, by job, and by whether a core is busy."""
    module = script("threads")
    ways = {"torch, one": ("torch", 1, {}, True), "ONNX Runtime, one": ("onnx", 1, {}, False)}
    busy = [0]

    class KnownWorker:
        def __init__(self, way, folder):
            self.base = 1000 if way[0] == "torch" else 2000

        def ask(self, job, pictures, calls):
            return [self.base + 100 * busy[0] + pictures + k for k in (0, 1, 5)]

        def close(self):
            pass

    @contextmanager
    def busy_core(wanted):
        busy[0] = int(wanted)
        yield

    for name, value in (("WAYS", ways), ("Worker", KnownWorker), ("busy_core", busy_core)):
        monkeypatch.setattr(module, name, value)
    module.main()
    rows = stored(tmp_path / "threads.json")["milliseconds"]
    for way, base in (("torch, one", 1000), ("ONNX Runtime, one", 2000)):
        for job, states in rows[way].items():
            pictures = module.JOBS[job][0]
            for state, more in (("idle", 0), ("busy", 100)):
                assert states[state] == {"median": base + more + pictures + 1, "lowest": base + more + pictures}
    assert set(rows["torch, one"]) == set(module.JOBS)
    assert set(rows["ONNX Runtime, one"]) == set(module.JOBS) - set(module.ONLY_TORCH)


def evaluated(value: float, low: float, high: float, seconds: float) -> dict:
    """What `ldm evaluate --json` could have written."""
    return {"psnr": {"value": value, "low": low, "high": high}, "seconds_per_image": {"value": seconds, "low": 0, "high": 9}}


def test_evaluate_engines(script, tmp_path, monkeypatch, capsys):
    """With numbers that are known: the engine is twice as fast, and one number leaves the other one's interval."""
    module = script("evaluate_engines", "--rounds", "2")
    asked = []

    def evaluate(engine):
        asked.append(engine)
        low = evaluated(30, 29, 31, 0.5) | {"kid": {"value": 0.1, "low": 0.0, "high": 0.2}}
        high = evaluated(30.5, 29.5, 31.5, 0.1) | {"kid": {"value": 0.3, "low": 0.05, "high": 0.4}}
        return (300, low) if engine == "torch" else (150, high)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "fill_the_cache", lambda: asked.append("cache"))
    module.main()
    figures = stored(tmp_path / "committed" / "evaluate_engines.json")
    assert asked == ["cache", "torch", "onnx", "onnx", "torch"] and figures["rounds"] == 2
    assert figures["ratio"] == 2 and figures["seconds"]["onnx"] == {"median": 150, "lowest": 150, "highest": 150}
    assert figures["changed"] == ["kid"] and figures["numbers"]["onnx"]["psnr"]["value"] == 30.5
    assert "1 of 2 numbers are unchanged within their intervals" in capsys.readouterr().out


def test_evaluate_engines_starts_ldm(script, monkeypatch):
    """The command that is run, with a file to write and nothing of its failure kept."""
    module = script("evaluate_engines")
    commands = []

    def run(command, **_):
        commands.append(command)
        Path(command[command.index("--json") + 1]).write_text('{"psnr": 1}')
        return subprocess.CompletedProcess(command, len(commands) - 1)

    monkeypatch.setattr(module.subprocess, "run", run)
    assert module.evaluate("onnx")[1] == {"psnr": 1}
    assert commands[0][3:7] == ["evaluate", "--quick", "--engine", "onnx"]
    with pytest.raises(RuntimeError, match="ended with 1"):
        module.evaluate("torch")


def test_fast_sampling(script, tmp_path, tiny_world, monkeypatch, capsys):
    module = script("fast_sampling", "--pictures", "4")
    monkeypatch.setattr(module, "CANDIDATES", (3, 2))
    module.main()
    figures = stored(tmp_path / "committed" / "fast_sampling.json")
    assert figures["pictures"] == figures["ours"]["right"]["n"] == figures["theirs"]["right"]["n"] == 4
    assert [row["steps"] for row in figures["choice"]["rows"]] == [3, 2] and figures["sampling"]["steps"] in (3, 2)
    assert is_comparison(figures["speed"])
    close = figures["difference_right"] >= -0.005 and figures["frechet_ratio"] <= 1.05
    assert figures["equal_quality"] == close
    assert "times as fast as the pipeline's 50 DDIM steps" in capsys.readouterr().out


def test_the_fewest_steps_that_are_as_good(script):
    """The candidates are walked from most steps down; one that is as good again below a worse one does not count."""
    module = script("fast_sampling")

    def row(steps, right, frechet):
        return {"steps": steps, "right": {"value": right}, "frechet": frechet}

    theirs = row(50, 0.99, 100.0)
    good, worse, blurred = (0.986, 104.0), (0.98, 90.0), (1.0, 106.0)
    assert module.fewest([row(12, *good), row(10, *good), row(8, *worse), row(6, *good)], theirs) == 10
    assert module.fewest([row(12, *good), row(10, *blurred)], theirs) == 12
    assert module.fewest([row(12, *worse)], theirs) is None


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
    loop, encoding = figures["fit_against_bare"], figures["encoding_against_bare"]
    assert is_comparison(loop, pairs=2) and is_comparison(encoding, pairs=2)
    assert figures["cached_latents_times_faster"] == encoding["seconds_ours"] / loop["seconds_ours"]
    assert "of a bare loop's steps per second" in capsys.readouterr().out


@pytest.mark.slow  # 1,024 renders
def test_loss_curves(script, tmp_path, tiny_world):
    script("loss_curves").main()
    figures = stored(tmp_path / "loss_curves.json")
    assert figures["steps"] == 4 and len(figures["last_20_steps"]) == 6


def test_scale(script, tmp_path, tiny_world, capsys):
    script("scale").main()
    figures = stored(tmp_path / "scale.json")
    theirs = figures["stable_diffusion_512"]
    assert theirs["parameters"] == {"vae": 83_653_863, "unet": 859_520_964, "text_encoder": 123_060_480}  # as published
    for name in ("course", "stable_diffusion_256", "stable_diffusion_512"):
        found = figures[name]["flops"]
        assert 2.8 < found["unet_forward_and_backward"] / found["unet"] < 3.1  # a backward pass is two forward ones
    assert 4 < theirs["flops"]["unet"] / figures["stable_diffusion_256"]["flops"]["unet"] < 5  # attention grows faster
    assert all(1e-4 < s < 60 for s in figures["seconds_a_picture"]["training"].values())
    peaks = figures["peak_bytes"]
    assert 1e8 < peaks["models_loaded"] <= peaks["drawing"] <= peaks["training"]
    assert "GFLOPs a picture" in capsys.readouterr().out and figures["processes"] == 1


@pytest.mark.parametrize("autoencoder", ["shipped", "vae-diverse"])
def test_latent_vs_pixel(script, tmp_path, tiny_world, capsys, monkeypatch, autoencoder):
    from ldm_tutorial import baselines

    asked: list[str] = []
    monkeypatch.setattr(baselines, "training_curve", lambda name: {"seconds": 1, "autoencoder": autoencoder})
    real = baselines.load_baseline
    monkeypatch.setattr(baselines, "load_baseline", lambda name, device: asked.append(name) or real(name, device))
    script("latent_vs_pixel").main()
    assert ("vae-diverse" in asked) == (autoencoder == "vae-diverse")
    figures = stored(tmp_path / "latent_vs_pixel.json")
    assert is_comparison(figures["training"]) and is_comparison(figures["sampling"])
    a, b = figures["parameters"].values()
    assert abs(a / b - 1) < 0.05
    distances = [figures[f"frechet_{kind}"] for kind in ("pixel", "latent")]
    assert all(math.isfinite(distance) and distance > 0 for distance in distances)
    assert figures["frechet_times_better"] == distances[0] / distances[1] and "times better" in capsys.readouterr().out


def test_claim_of_diverse_pictures(script):
    """The measure of claim 1.7 on PSNRs whose answer is known."""
    import torch

    module = script("baselines")
    groups = {"gold": torch.arange(40), "others": torch.arange(40, 160), "unseen": torch.arange(160, 240)}
    noise = torch.randn(2, 3, 240, generator=torch.Generator().manual_seed(0))

    def model(k: int, gold: float, others: float, unseen: float) -> torch.Tensor:
        return torch.tensor([gold] * 40 + [others] * 120 + [unseen] * 80) + noise[k]  # [seeds, pictures]

    diverse = model(0, 23, 23, 22)
    cases = {"holds": (25, 20, 20), "in part": (26, 23, 23), "does not hold": (23, 23, 22)}
    for verdict, narrow in cases.items():  # in part: it falls further, yet ends no lower
        found = module.compare_autoencoders(diverse, model(1, *narrow), groups, times=200)
        assert found["verdict"] == verdict
        for name in ("unseen_diverse_minus_narrow", "fall_narrow_minus_diverse"):
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"] and len(found[name]["by_seed"]) == 3
    found = module.compare_autoencoders(diverse, model(1, *cases["holds"]), groups, times=20)
    assert found["unseen_diverse_minus_narrow"]["value"] == pytest.approx(2, abs=0.3)


def test_baselines(script, tmp_path, monkeypatch, capsys):
    """What is not trained is left out, and said; shrinking is the control."""
    module = script("baselines")
    arguments = ["--quick", "--weights", str(tmp_path / "none"), "--run", str(tmp_path), "--sheets", str(tmp_path / "s")]
    monkeypatch.setattr(sys, "argv", ["benchmarks/baselines.py", *arguments, "--parts", "autoencoders", "diversity", "pairs"])
    module.main()
    figures = stored(tmp_path / "baselines.json")
    assert set(figures["autoencoders"]) == {"shipped", "shrunk to 16 x 16 and enlarged"} and figures["pairs"] == {}
    better, worse = (figures["autoencoders"][name]["psnr_seen_kinds"] for name in figures["autoencoders"])
    assert better["low"] > worse["high"]
    assert figures["diversity"] == {"seeds": 0} and "vae-narrow is not in" in capsys.readouterr().out
    assert (tmp_path / "s" / "autoencoders.png").exists()


def test_page_without_a_book_says_what_to_run(script, tmp_path, monkeypatch):
    module = script("page")
    monkeypatch.setattr(module, "HTML", tmp_path)
    with pytest.raises(SystemExit, match="make book-runtime"):
        module.main()


FAKE_PLAYGROUND = """<div id="ldm-playground" data-drawn="0"><input name="prompt"><input name="seed"><button name="draw">
Draw</button><canvas width="64" height="64"></canvas></div><script>
const root = document.getElementById("ldm-playground"), pen = root.querySelector("canvas").getContext("2d");
root.querySelector("button").onclick = () => {
  pen.fillStyle = `rgb(${root.querySelector("[name=seed]").value}, 0, 0)`;
  pen.fillRect(0, 0, 64, 64);
  root.dataset.drawn = Number(root.dataset.drawn) + 1;
};</script>"""


class FakeEngine:
    """Draws one colour, the seed, as the fake page does; ``off`` away from it."""

    off = 0

    def __init__(self, threads):
        pass

    def sample(self, prompts, seeds):
        picture = np.zeros((1, 64, 64, 3), np.uint8)
        picture[..., 0] = seeds[0] + self.off
        return picture


def test_page(script, tmp_path, monkeypatch, capsys):
    """In a real browser, with a page and an engine that draw one colour; pictures that differ are no measurement."""
    pytest.importorskip("playwright.sync_api")
    if not (shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")):
        pytest.skip("no browser found")
    import ldm_tutorial.engine

    monkeypatch.setattr(ldm_tutorial.engine, "Engine", FakeEngine)
    module = script("page")
    clock = module.machine.clock, module.machine.clock_name
    monkeypatch.setattr(module, "HTML", tmp_path / "html")
    (tmp_path / "html" / "_static" / "live").mkdir(parents=True)
    (tmp_path / "html" / "_static" / "live" / "live.json").write_text('{"bytes": 12500000}')
    (tmp_path / "html" / "live.html").write_text(FAKE_PLAYGROUND)
    module.main()
    figures = stored(tmp_path / "page.json")
    assert figures["largest_difference"] == 0 and figures["seconds_at_10_mbit"] == 10 and figures["pairs"] == 1
    assert 0.001 < figures["seconds_page"] < 60 and figures["seconds_first_picture"] < 60
    assert figures["page_times_python"] == pytest.approx(figures["seconds_page"] / figures["seconds_python"])
    assert "12.5 MB, 10 s at 10 Mbit/s" in capsys.readouterr().out
    monkeypatch.setattr(FakeEngine, "off", 3)
    with pytest.raises(AssertionError, match="differ by 3"):
        module.main()
    module.machine.clock, module.machine.clock_name = clock
