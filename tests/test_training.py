"""Training: stopped anywhere and resumed it gives the same bits, and nothing that goes wrong spoils what was saved."""

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ldm_tutorial import models, training
from ldm_tutorial.curios import Curios, to_model
from ldm_tutorial.errors import UserError
from ldm_tutorial.models import build_clip, build_scheduler, build_unet, build_vae, load_clip, load_models
from ldm_tutorial.sampling import sample
from ldm_tutorial.training import CLIPLoss, DiffusionLoss, Recipe, Run, VAELoss, fit
from tests.run import ROOT, environment


@pytest.fixture
def on_the_cpu(monkeypatch):
    """A GPU adds up in an order that changes from run to run; bits are compared on the CPU."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Line(nn.Module):
    """The smallest thing to train: y = ax + b, on a cloud around y = 3x - 1."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, x, y):
        return (self.line(x) - y).square().mean()


def cloud(g: torch.Generator) -> dict[str, torch.Tensor]:
    x = torch.randn(8, 1, generator=g)
    return {"x": x, "y": 3 * x - 1 + 0.1 * torch.randn(8, 1, generator=g)}


def line_problem():
    return Line(), cloud


def vae_problem():
    torch.manual_seed(0)

    def draw(g):
        return {"images": torch.rand(2, 3, 64, 64, generator=g) * 2 - 1, "noise": torch.randn(2, 4, 16, 16, generator=g)}

    return VAELoss(build_vae(4, (8, 8, 8))), draw


def diffusion_problem():
    torch.manual_seed(0)

    def draw(g):
        return {
            "latents": torch.randn(4, 4, 16, 16, generator=g),
            "noise": torch.randn(4, 4, 16, 16, generator=g),
            "timesteps": torch.randint(1000, (4,), generator=g),
            "encoder_hidden_states": torch.randn(4, 77, 16, generator=g),
        }

    return DiffusionLoss(build_unet(4, (16, 16), 16), build_scheduler()), draw


PROBLEMS = {"line": line_problem, "vae": vae_problem, "diffusion": diffusion_problem}
RECIPE = Recipe(steps=9, batch=8, lr=1e-3, warmup=3)


def same(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same bits: losses, weights, averaged weights, the optimizer's memory."""
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text, text
    return text


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("moment", ["draw", "step", "on_step"])
def test_interrupted_and_resumed_is_as_uninterrupted(on_the_cpu, tmp_path, problem, moment):
    loss, draw = PROBLEMS[problem]()
    losses = fit("x", loss, draw, RECIPE, tmp_path / "whole", progress=False, save_every=4)
    assert losses.shape == (9,) and losses.isfinite().all()

    stopped, draw = PROBLEMS[problem]()
    calls = []

    def now(*_):  # Ctrl-C at the sixth step
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)

    if moment == "step":  # between the forward and the backward pass
        stopped.register_forward_hook(now)
    before = signal.getsignal(signal.SIGINT)
    first = fit(
        "x", stopped, (lambda g: now() or draw(g)) if moment == "draw" else draw, RECIPE, tmp_path / "parts",
        progress=False, save_every=4, on_step=now if moment == "on_step" else None,
    )  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.equal(first, losses[:6])  # the step was finished, and is kept
    for again in (stopped, PROBLEMS[problem]()[0]):  # in the same notebook, or in a new process
        calls[:] = [1] * 99
        folder = tmp_path / f"parts{id(again)}"
        folder.mkdir()
        (folder / "x.safetensors").write_bytes((tmp_path / "parts" / "x.safetensors").read_bytes())
        resumed = fit("x", again, draw, RECIPE, folder, progress=False, save_every=4)
        assert torch.equal(resumed, losses)
        assert same(folder / "x.safetensors", tmp_path / "whole" / "x.safetensors")
        assert all(torch.equal(p, q) for p, q in zip(again.parameters(), loss.parameters(), strict=True))


VICTIM = """
import sys, time, torch
torch.set_num_threads(1)
from tests.test_training import PROBLEMS, RECIPE, fit
loss, draw = PROBLEMS["diffusion"]()
def on_step(step, value):
    print(step, flush=True)
    if step == 6:
        time.sleep(60)  # killed here
fit("x", loss, draw, RECIPE, sys.argv[1], progress=False, save_every=3, on_step=on_step)
"""


def test_killed_and_resumed_is_as_undisturbed(on_the_cpu, tmp_path):
    variables = {**environment(), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path / "killed")], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    )
    for line in victim.stdout:
        if line.strip() == "6":
            break
    victim.kill()  # kill -9: nothing can be saved any more
    assert victim.wait() == -signal.SIGKILL
    saved = load_file(tmp_path / "killed" / "x.safetensors")
    assert len(saved["losses"]) == 6  # the last multiple of save_every

    steps = []
    loss, draw = PROBLEMS["diffusion"]()
    whole = fit("x", loss, draw, RECIPE, tmp_path / "whole", progress=False, save_every=3)
    again, draw = PROBLEMS["diffusion"]()
    note = lambda step, _: steps.append(step)  # noqa: E731
    resumed = fit("x", again, draw, RECIPE, tmp_path / "killed", progress=False, save_every=3, on_step=note)
    assert steps == [6, 7, 8] and torch.equal(resumed, whole)
    assert same(tmp_path / "killed" / "x.safetensors", tmp_path / "whole" / "x.safetensors")


def test_a_finished_run_is_only_loaded(on_the_cpu, tmp_path):
    loss, draw = line_problem()
    losses = fit("x", loss, draw, RECIPE, tmp_path, progress=False)
    content = (tmp_path / "x.safetensors").read_bytes()
    again = Line()
    assert torch.equal(fit("x", again, lambda g: 1 / 0, RECIPE, tmp_path, progress=False), losses)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), loss.parameters(), strict=True))
    assert (tmp_path / "x.safetensors").read_bytes() == content and not again.training


def test_a_second_interrupt_does_not_wait(on_the_cpu, tmp_path):
    def twice(step, _):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit("x", *line_problem(), RECIPE, tmp_path, progress=False, save_every=4, on_step=twice)
    assert len(load_file(tmp_path / "x.safetensors")["losses"]) == 4


def test_seeds_decide(on_the_cpu, tmp_path):
    def run(name, **changes):
        return fit(name, *line_problem(), Recipe(**{**RECIPE.__dict__, **changes}), tmp_path, progress=False)

    assert torch.equal(run("a"), run("b"))
    assert not torch.equal(run("a"), run("c", seed=1))
    draws = [training.generator(seed, step).initial_seed() for seed in range(3) for step in range(2000)]
    assert len(set(draws)) == len(draws)  # no two steps share their random numbers


# --- the loop's parts -------------------------------------------------------------------------------------------------


def test_learning_rate():
    recipe = Recipe(steps=1000, batch=1, lr=2e-3, warmup=100, decay=0.4)
    rates = [recipe.rate(k) for k in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[49] == pytest.approx(1e-3)
    assert all(r == 2e-3 for r in rates[99:600])
    assert rates[800] == pytest.approx(1e-3) and rates[999] == pytest.approx(2e-3 / 400)
    assert all(a < b for a, b in zip(rates[:99], rates[1:100], strict=True))
    assert all(a > b for a, b in zip(rates[600:999], rates[601:], strict=True))


def test_the_loop_follows_the_learning_rate(on_the_cpu, tmp_path, monkeypatch):
    used, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: used.append(self.param_groups[0]["lr"]) or real(self, *a, **k)
    )
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    assert used == [RECIPE.rate(k) for k in range(9)] and len(set(used)) > 4


def test_averaged_weights_are_left(on_the_cpu, tmp_path):
    loss, draw = line_problem()
    recipe = Recipe(steps=60, batch=8, lr=0.05, warmup=3, ema=0.8)
    average, seen = None, []

    def on_step(step, _):
        nonlocal average
        seen.append(loss.line.weight.item())
        decay = min(0.8, 1 - (1 + step) ** -0.75)  # the average starts young, and grows slower
        average = seen[-1] if step == 0 else decay * average + (1 - decay) * seen[-1]

    fit("x", loss, draw, recipe, tmp_path, progress=False, on_step=on_step)
    assert loss.line.weight.item() == pytest.approx(average, rel=1e-4)
    assert abs(average - seen[-1]) > 1e-4  # not simply the last
    saved = load_file(tmp_path / "x.safetensors")
    assert saved["model/line.weight"].item() == seen[-1] and saved["ema/0"].item() == loss.line.weight.item()


def test_gradients_are_clipped(on_the_cpu, tmp_path, monkeypatch):
    norms, real = [], torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        norms.append(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm().item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    assert max(norms) == pytest.approx(1.0, abs=1e-3)  # the line's own gradient is about 6


def test_a_line_is_found(on_the_cpu, tmp_path):
    loss, draw = line_problem()
    losses = fit("x", loss, draw, Recipe(steps=300, batch=8, lr=0.1, warmup=10, ema=0.9), tmp_path, progress=False)
    assert losses[:5].mean() > 5 and losses[-20:].mean() < 0.02
    assert loss.line.weight.item() == pytest.approx(3, abs=0.05) and loss.line.bias.item() == pytest.approx(-1, abs=0.05)


def test_loss_falls_on_real_pictures(on_the_cpu, tmp_path, tokenizer):
    data = Curios("train", 16, progress=False)
    images = to_model(data.images)
    ids = tokenizer(data.captions, padding="longest", return_tensors="pt").input_ids
    torch.manual_seed(0)
    vae = VAELoss(build_vae(4, (8, 16, 16)))
    pick = lambda g, n: torch.randint(16, (n,), generator=g)  # noqa: E731
    draw = lambda g: {"images": images[pick(g, 8)], "noise": torch.randn(8, 4, 16, 16, generator=g)}  # noqa: E731
    losses = fit("vae", vae, draw, Recipe(60, 8, 4e-3, warmup=5), tmp_path, progress=False)
    assert losses[-8:].mean() < 0.6 * losses[:4].mean()

    clip = CLIPLoss(build_clip(tokenizer, width=32, text_layers=1, vision_layers=1))
    recipe = Recipe(30, 16, 3e-3, warmup=5)
    losses = fit("clip", clip, lambda g: {"images": images, "input_ids": ids}, recipe, tmp_path, progress=False)
    assert losses[0] == pytest.approx(2.77, abs=0.5)  # 16 captions, a blind guess: ln 16
    assert losses[-3:].mean() < 0.5 * losses[0]


def test_losses_are_what_they_say(tokenizer):
    torch.manual_seed(0)
    images, noise = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 16, 16)
    vae = build_vae(4, (8, 8, 8)).eval()
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        mean, var = posterior.mean, posterior.var
        error = vae.decode(mean + var.sqrt() * noise).sample - images
        kl = 0.5 * (mean**2 + var - 1 - var.log()).sum((1, 2, 3)).mean()
        for weight in (0.0, 1e-2):
            expected = error.abs().mean() + (error**2).mean() + weight * kl
            torch.testing.assert_close(VAELoss(vae, weight)(images, noise), expected)
        edges = sum((error.roll(-1, d) - error).narrow(d, 0, 63).abs().mean() for d in (2, 3))
        torch.testing.assert_close(VAELoss(vae, 1e-2, edge_weight=0.5)(images, noise), expected + 0.5 * edges)

        scheduler, unet = build_scheduler(), build_unet(4, (16, 16), 16).eval()
        t, text, z = torch.tensor([3, 900]), torch.randn(2, 77, 16), torch.randn(2, 4, 16, 16)
        a = scheduler.alphas_cumprod[t].view(2, 1, 1, 1)
        v = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, text).sample
        expected = (v - (a.sqrt() * noise - (1 - a).sqrt() * z)).square().mean()
        torch.testing.assert_close(DiffusionLoss(unet, scheduler)(z, noise, t, text), expected)

        clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1).eval()
        ids = tokenizer(["a golden mug", "a wooden duck on blue"], padding="longest", return_tensors="pt").input_ids
        expected = clip(input_ids=ids, pixel_values=images, return_loss=True).loss  # transformers' own
        torch.testing.assert_close(CLIPLoss(clip)(images, ids), expected)


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(on_the_cpu, tmp_path, bad):
    loss, draw = line_problem()
    count = iter(range(99))
    spoiled = lambda g: {k: v * bad if i == 7 else v for i in [next(count)] for k, v in draw(g).items()}  # noqa: E731
    with pytest.raises(UserError, match="step 7") as error:
        fit("x", loss, spoiled, RECIPE, tmp_path, progress=False, save_every=3)
    assert str(tmp_path / "x.safetensors") in one_sentence(error) and str(RECIPE.lr) in one_sentence(error)
    saved = load_file(tmp_path / "x.safetensors")  # the last good state
    assert len(saved["losses"]) == 6 and all(t.isfinite().all() for t in saved.values())


def test_no_saved_state_is_promised_where_there_is_none(on_the_cpu, tmp_path):
    with pytest.raises(UserError, match="step 0") as error:
        fit("x", Line(), lambda g: {"x": torch.full((8, 1), float("nan")), "y": torch.ones(8, 1)}, RECIPE, tmp_path, False)
    assert "last good state" not in one_sentence(error) or (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"batch": 4}, {"steps": 12}, {"seed": 1}, {"ema": 0.9}])
def test_other_settings_are_refused(on_the_cpu, tmp_path, change):
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    before = (tmp_path / "x.safetensors").read_bytes()
    with pytest.raises(UserError, match="other settings") as error:
        fit("x", *line_problem(), Recipe(**{**RECIPE.__dict__, **change}), tmp_path, progress=False)
    assert "x.safetensors" in one_sentence(error) and (tmp_path / "x.safetensors").read_bytes() == before


def test_other_origins_are_refused(on_the_cpu, tmp_path):
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False, about="one world")
    with pytest.raises(UserError, match="other settings"):
        fit("x", *line_problem(), RECIPE, tmp_path, progress=False, about="another world")


def test_another_model_is_refused(on_the_cpu, tmp_path):
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    with pytest.raises(UserError, match="other settings"):
        fit("x", *diffusion_problem(), RECIPE, tmp_path, progress=False)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "pickle", "foreign", "folder"])
def test_a_damaged_checkpoint_is_named(on_the_cpu, tmp_path, damage):
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    path = tmp_path / "x.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 1000)
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"losses": [1, 2]}))
    elif damage == "foreign":  # a whole safetensors file, but not one of ours
        save_file({"w": torch.zeros(2)}, path)
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(UserError, match="damaged") as error:
        fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), OSError(30, "Read-only file system"), SafetensorError("No space left")]
)
def test_a_full_or_read_only_disk(on_the_cpu, tmp_path, monkeypatch, fault):
    fit("x", *line_problem(), RECIPE, tmp_path / "whole", progress=False)
    real, calls = training.save_file, []

    def fail(tensors, path, metadata):
        calls.append(1)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise fault
        real(tensors, path, metadata)

    monkeypatch.setattr(training, "save_file", fail)
    with pytest.raises(UserError, match="Can't save") as error:
        fit("x", *line_problem(), RECIPE, tmp_path, progress=False, save_every=3)
    assert str(tmp_path / "x.safetensors") in one_sentence(error) and str(fault) in one_sentence(error)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["x.safetensors"]  # no litter on a full disk
    assert len(load_file(tmp_path / "x.safetensors")["losses"]) == 3  # what was saved before is whole
    resumed = fit("x", *line_problem(), RECIPE, tmp_path, progress=False, save_every=3)  # space was made
    assert len(resumed) == 9 and same(tmp_path / "x.safetensors", tmp_path / "whole" / "x.safetensors")


def test_a_file_where_the_folder_should_be(on_the_cpu, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="Can't save") as error:
        fit("x", *line_problem(), RECIPE, tmp_path / "file" / "run", progress=False)
    assert "file" in one_sentence(error) and (tmp_path / "file").read_text() == "here"


def test_an_error_of_the_caller_is_not_swallowed(on_the_cpu, tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit("x", *line_problem(), RECIPE, tmp_path, progress=False, on_step=lambda *_: 1 / 0)
    assert signal.getsignal(signal.SIGINT) is not None and signal.getsignal(signal.SIGINT).__name__ == "default_int_handler"


def test_checkpoints_hold_no_pickle(on_the_cpu, tmp_path):
    fit("x", *line_problem(), RECIPE, tmp_path, progress=False)
    (path,) = tmp_path.rglob("*")
    assert path.name == "x.safetensors"
    with safe_open(path, "pt") as f:  # reads tensors and text only
        names = set(f.keys())
        assert f.metadata().keys() == {"settings"}
    assert {"losses", "model/line.weight", "ema/0", "optimizer/0/exp_avg", "optimizer/1/exp_avg_sq"} <= names


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trial(monkeypatch):
    """A profile of two steps each."""
    trial = models.Profile(40, (2, 4, 1e-3), (2, 8, 1e-3), (2, 4, 1e-3), (16, 32), (2, 8, 1e-3))
    monkeypatch.setitem(models.PROFILES, "trial", trial)
    return trial


def test_from_nothing_to_a_picture(trial, tmp_path, monkeypatch):
    """All three parts, on a GPU where there is one; the second time nothing is trained or computed again."""
    out = Run(tmp_path / "run", "trial", progress=False).finish(tmp_path / "model")
    assert out == tmp_path / "model"
    loaded = load_models(out)
    picture = sample(loaded, ["an avocado armchair"], [7], steps=2, progress=False)
    assert picture.shape == (1, 64, 64, 3) and picture.dtype.name == "uint8"
    data = Curios("train", 40, progress=False)
    assert 0.8 < loaded.encode(to_model(data.images)).std().item() < 1.25  # so that noise of variance 1 fits
    clip, text = load_clip(out).text_model.state_dict(), loaded.text_encoder.state_dict()
    strip = lambda states: {k.removeprefix("text_model."): v.cpu() for k, v in states.items()}  # noqa: E731
    clip, text = strip(clip), strip(text)
    assert clip.keys() == text.keys() and any(not torch.equal(clip[k], text[k]) for k in clip)  # it learned on, with the U-Net

    def never(*_, **__):
        raise AssertionError("computed again")

    for name in ("VAELoss", "CLIPLoss", "DiffusionLoss"):
        monkeypatch.setattr(getattr(training, name), "forward", never)
    monkeypatch.setattr(models.Models, "encode", never)
    again = Run(tmp_path / "run", "trial", progress=False).finish(tmp_path / "again")
    for name in ("vae", "unet", "text_encoder", "clip", "tokenizer"):
        for file in (out / name).iterdir():
            assert file.read_bytes() == (again / name / file.name).read_bytes(), f"{name}/{file.name}"


def test_damaged_latents_are_computed_again(on_the_cpu, trial, tmp_path):
    Run(tmp_path, "trial", progress=False).part("unet")
    path = tmp_path / "latents.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    run = Run(tmp_path, "trial", progress=False)
    assert run.latents(run.models(unet=build_unet(channels=(16, 32)))).shape == (40, 8, 16, 16)
    assert path.read_bytes() == content


def test_the_judge_learns_from_all_pairs(on_the_cpu, trial, tmp_path):
    judge = Run(tmp_path, "trial", progress=False).part("judge")
    assert [len(x[0]) for x in judge(torch.zeros(1, 3, 64, 64))] == [18, 16, 8]


def test_an_interrupt_ends_the_whole_run(on_the_cpu, trial, tmp_path):
    run = Run(tmp_path, "trial", progress=False)
    with pytest.raises(UserError, match="vae was stopped at step 1 of 2") as error:
        run.part("vae", on_step=lambda *_: signal.raise_signal(signal.SIGINT))
    one_sentence(error)
    assert [p.name for p in tmp_path.iterdir()] == ["vae.safetensors"]
    assert len(load_file(tmp_path / "vae.safetensors")["losses"]) == 1
    run.part("vae")
    assert len(load_file(tmp_path / "vae.safetensors")["losses"]) == 2


@pytest.mark.parametrize("name", ["gan", "", "VAE", "all"])
def test_unknown_part(trial, tmp_path, name):
    with pytest.raises(UserError, match=f"no part {name!r}.*vae, clip, unet") as error:
        Run(tmp_path, "trial").part(name)
    one_sentence(error)


def test_scale_shortens_the_run(tmp_path):
    quick, short = Run(tmp_path, "quick"), Run(tmp_path, "quick", scale=0.1)
    assert short.recipe("vae").steps == round(0.1 * quick.recipe("vae").steps)
    assert Run(tmp_path, "quick", scale=1e-9).recipe("unet").steps == 1
    assert quick.recipe("clip").batch == models.PROFILES["quick"].clip[1]
