"""Training: stopped anywhere and resumed it gives the same bits, and nothing that goes wrong spoils what was saved."""

import dataclasses
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from ldm_tutorial import training
from ldm_tutorial.autoencoder import VAELoss, build_vae
from ldm_tutorial.checkpoints import load_clip, load_models
from ldm_tutorial.clip import CLIPLoss, build_clip, contrastive_loss
from ldm_tutorial.curios import Curios
from ldm_tutorial.diffusion import DiffusionLoss, build_scheduler, build_unet
from ldm_tutorial.errors import Interrupted, UserError
from ldm_tutorial.images import to_model
from ldm_tutorial.lab import training as lab
from ldm_tutorial.models import default_device
from ldm_tutorial.sampling import sample
from ldm_tutorial.storage import resume
from ldm_tutorial.storage.about import CURIOS
from ldm_tutorial.training import Recipe, fit
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

    def sample_batch(g):
        return {"images": torch.rand(2, 3, 32, 32, generator=g) * 2 - 1, "noise": torch.randn(2, 4, 8, 8, generator=g)}

    return VAELoss(build_vae(4, (8, 8, 8)).to(memory_format=torch.channels_last), edge_weight=1.0), sample_batch


def diffusion_problem():
    torch.manual_seed(0)

    def sample_batch(g):
        return {
            "latents": torch.randn(4, 4, 8, 8, generator=g),
            "noise": torch.randn(4, 4, 8, 8, generator=g),
            "timesteps": torch.randint(1000, (4,), generator=g),
            "encoder_hidden_states": torch.randn(4, 77, 16, generator=g),
        }

    return DiffusionLoss(build_unet(4, (16, 16), 16), build_scheduler()), sample_batch


PROBLEMS = {"line": line_problem, "vae": vae_problem, "diffusion": diffusion_problem}
RECIPE = Recipe(steps=9, batch=8, lr=1e-3, warmup=3)


def train(problem: str, folder: Path, recipe: Recipe = RECIPE, **options) -> tuple[torch.Tensor, nn.Module]:
    """Train one of the problems as "x": (its losses, the module)."""
    loss, sample_batch = PROBLEMS[problem]()
    return fit("x", loss, sample_batch, recipe, folder, progress=False, **options), loss


def read(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(a, b) -> bool:
    """Whether two states hold the same bits: losses, weights, averaged weights, the optimiser's memory."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text, text
    return text


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "moment"),
    [("line", "sample_batch"), ("line", "forward"), ("line", "on_step"), ("vae", "forward"), ("diffusion", "forward")],
)
def test_interrupted_and_resumed_is_as_uninterrupted(on_the_cpu, tmp_path, monkeypatch, problem, moment):
    monkeypatch.setattr(resume, "SAVE_EVERY", 4)
    losses, trained = train(problem, tmp_path / "whole")
    assert losses.shape == (9,) and losses.isfinite().all()

    stopped, sample_batch = PROBLEMS[problem]()
    calls = []

    def interrupt(*_):  # Ctrl-C at the sixth step
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)

    def interrupted_batch(g):
        interrupt()
        return sample_batch(g)

    if moment == "forward":  # between the forward and the backward pass
        stopped.register_forward_hook(interrupt)
    before = signal.getsignal(signal.SIGINT)
    batches = interrupted_batch if moment == "sample_batch" else sample_batch
    watcher = interrupt if moment == "on_step" else None
    first = fit("x", stopped, batches, RECIPE, tmp_path / "parts", on_step=watcher, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.equal(first, losses[:6])  # the step was finished, and is kept
    calls[:] = [1] * 99
    for again in (stopped, PROBLEMS[problem]()[0]):  # in the same notebook, or in a new process
        folder = tmp_path / f"parts{id(again)}"
        shutil.copytree(tmp_path / "parts", folder)
        resumed = fit("x", again, sample_batch, RECIPE, folder, progress=False)
        assert torch.equal(resumed, losses)
        assert same(read(folder / "x.pt"), read(tmp_path / "whole" / "x.pt"))
        assert same(again.state_dict(), trained.state_dict())


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from ldm_tutorial.storage import resume
from tests.test_training import Path, read, same, train

resume.SAVE_EVERY = 1  # so that many a kill comes while the state is written
folder, most, deaths, status = Path(sys.argv[1]), int(sys.argv[2]), 0, 1
start = time.monotonic()
train("vae", folder / "whole")
whole_run = time.monotonic() - start  # a fast machine needs earlier kills than a slow one
while status:
    child = os.fork()
    if child == 0:
        train("vae", folder / "killed")
        os._exit(0)
    if deaths < most:
        time.sleep(random.uniform(0.1, 0.4) * whole_run)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    deaths += os.WIFSIGNALED(status)
assert same(read(folder / "killed" / "x.pt"), read(folder / "whole" / "x.pt"))
print("deaths", deaths)
"""


@pytest.mark.parametrize("most", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_is_as_undisturbed(tmp_path, most):
    """kill -9, again and again, until the run is finished."""
    variables = {**environment(), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(most)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 2


def test_a_finished_run_is_only_loaded(on_the_cpu, tmp_path):
    losses, trained = train("line", tmp_path)
    content = (tmp_path / "x.pt").read_bytes()
    again = Line()
    assert torch.equal(fit("x", again, lambda g: 1 / 0, RECIPE, tmp_path, progress=False), losses)
    assert same(again.state_dict(), trained.state_dict())
    assert (tmp_path / "x.pt").read_bytes() == content and not again.training


def test_a_second_interrupt_does_not_wait(on_the_cpu, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_EVERY", 4)

    def twice(step, _):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("line", tmp_path, on_step=twice)
    assert len(read(tmp_path / "x.pt")["losses"]) == 4


def test_an_interrupt_before_the_first_step_loses_nothing(on_the_cpu, tmp_path, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.ResumableRun, "__enter__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("line", tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    losses, _ = train("line", tmp_path)
    assert torch.equal(losses, train("line", tmp_path / "whole")[0])


def test_a_signal_that_is_ignored_stays_ignored(on_the_cpu, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        losses, _ = train("line", tmp_path, on_step=lambda *_: signal.raise_signal(signal.SIGINT))
        assert len(losses) == 9 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_seeds_decide(on_the_cpu, tmp_path):
    first = train("line", tmp_path / "a")[0]
    assert torch.equal(first, train("line", tmp_path / "b")[0])
    assert not torch.equal(first, train("line", tmp_path / "c", dataclasses.replace(RECIPE, seed=1))[0])
    drawn = {training.generator(seed, step).initial_seed() for seed in range(3) for step in range(2000)}
    assert len(drawn) == 6000  # no two steps share their random numbers


# --- the loop's parts -------------------------------------------------------------------------------------------------


def test_learning_rate():
    recipe = Recipe(steps=1000, batch=1, lr=2e-3, warmup=100, decay=0.4)
    rates = [recipe.lr_at(k) for k in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[49] == pytest.approx(1e-3)
    assert all(r == 2e-3 for r in rates[99:600])
    assert rates[800] == pytest.approx(1e-3) and rates[999] == pytest.approx(2e-3 / 400)
    assert all(a < b for a, b in zip(rates[:99], rates[1:100], strict=True))
    assert all(a > b for a, b in zip(rates[600:999], rates[601:], strict=True))
    assert Recipe(10, 1, 1.0, warmup=0, decay=0).lr_at(9) == 1.0  # neither warm-up nor decay


def bare_loop(recipe: Recipe, clipped: bool = True, scheduled: bool = True) -> list[float]:
    """What ``fit`` does, in plain PyTorch."""
    line = Line()
    optimizer = torch.optim.AdamW(line.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01)
    losses = []
    for step in range(recipe.steps):
        if scheduled:
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step)
        loss = line(**cloud(training.generator(0, step)))
        loss.backward()
        if clipped:
            nn.utils.clip_grad_norm_(line.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_fit_is_the_plain_loop(on_the_cpu, tmp_path):
    recipe = dataclasses.replace(RECIPE, lr=0.05)
    losses = train("line", tmp_path, recipe)[0].tolist()
    assert losses == bare_loop(recipe)
    assert losses != bare_loop(recipe, clipped=False) and losses != bare_loop(recipe, scheduled=False)


def test_averaged_weights_are_left(on_the_cpu, tmp_path):
    """They are steadier than the weights of any one step."""
    seen = []

    def run(ema: float) -> float:
        loss, sample_batch = line_problem()
        seen.clear()
        recipe = Recipe(steps=300, batch=8, lr=0.3, warmup=3, decay=0, ema=ema)
        note = lambda *_: seen.append(loss.line.weight.item())  # noqa: E731
        fit("x", loss, sample_batch, recipe, tmp_path / str(ema), on_step=note, progress=False)
        return loss.line.weight.item()

    assert run(0.0) == seen[-1]  # an average of the last weights alone
    averaged = run(0.99)
    typical = torch.tensor(seen[-100:]).sub(3).abs().mean().item()
    assert abs(averaged - 3) < 0.5 * typical
    states = read(tmp_path / "0.99" / "x.pt")["states"]
    assert states["model"]["line.weight"].item() == seen[-1] and states["ema"]["shadow_params"][0].item() == averaged


def test_a_line_is_found(on_the_cpu, tmp_path):
    losses, loss = train("line", tmp_path, Recipe(steps=300, batch=8, lr=0.1, warmup=10, ema=0.9))
    assert losses[:5].mean() > 5 and losses[-20:].mean() < 0.02
    assert loss.line.weight.item() == pytest.approx(3, abs=0.05) and loss.line.bias.item() == pytest.approx(-1, abs=0.05)


def test_loss_falls_on_real_pictures(on_the_cpu, tmp_path, tokenizer):
    data = Curios("train", 16, progress=False)
    images = to_model(data.images)
    ids = tokenizer(data.captions, padding="longest", return_tensors="pt").input_ids
    torch.manual_seed(0)
    vae = VAELoss(build_vae(4, (8, 16, 16)))
    rows = lambda g: torch.randint(16, (4,), generator=g)  # noqa: E731
    batch = lambda g: {"images": images[rows(g)], "noise": torch.randn(4, 4, 16, 16, generator=g)}  # noqa: E731
    losses = fit("vae", vae, batch, Recipe(40, 4, 4e-3, warmup=5), tmp_path, progress=False)
    assert losses[-8:].mean() < 0.6 * losses[:4].mean()

    clip = CLIPLoss(build_clip(tokenizer, width=32, text_layers=1, vision_layers=1))
    recipe = Recipe(30, 16, 3e-3, warmup=5)
    losses = fit("clip", clip, lambda g: {"images": images, "input_ids": ids}, recipe, tmp_path, progress=False)
    assert losses[0] == pytest.approx(2.77, abs=0.5)  # 16 captions, a blind guess: ln 16
    assert losses[-3:].mean() < 0.5 * losses[0]


# --- the losses -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_loss_of_the_autoencoder():
    torch.manual_seed(0)
    images, noise = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 8, 8)
    vae = build_vae(4, (8, 8, 8)).eval()
    posterior = vae.encode(images).latent_dist
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    made = vae.decode(normal.loc + normal.scale * noise).sample
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3)).mean()
    pixels = F.l1_loss(made, images) + F.mse_loss(made, images)
    torch.testing.assert_close(VAELoss(vae, 0.0)(images, noise), pixels)
    torch.testing.assert_close(VAELoss(vae, 1e-2)(images, noise), pixels + 1e-2 * kl)

    # A brighter picture has the same edges; a single brighter column has two that are wrong.
    sharp = VAELoss(nn.Module(), 0.0, edge_weight=1.0)
    flat = VAELoss(nn.Module(), 0.0)

    def edge_term(error: torch.Tensor) -> float:
        for loss in (sharp, flat):
            loss.vae.encode = lambda _: _Encoded(posterior)
            loss.vae.decode = lambda _: _Decoded(images + error)
        return (sharp(images, noise) - flat(images, noise)).item()

    assert edge_term(torch.full((2, 3, 32, 32), 0.3)) == pytest.approx(0, abs=1e-6)
    column = torch.zeros(2, 3, 32, 32)
    column[..., 7] = 0.31
    assert edge_term(column) == pytest.approx(0.31 * 2 / 31, rel=1e-4)


@dataclasses.dataclass
class _Encoded:
    latent_dist: object


@dataclasses.dataclass
class _Decoded:
    sample: torch.Tensor


@torch.no_grad()
@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_loss_of_diffusion(predicted):
    torch.manual_seed(0)
    scheduler, unet = build_scheduler(predicted), build_unet(4, (16, 16), 16).eval()
    t, text, z, eps = torch.tensor([3, 900]), torch.randn(2, 77, 16), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    a = scheduler.alphas_cumprod[t].view(2, 1, 1, 1)
    target = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * z}[predicted]
    found = unet(a.sqrt() * z + (1 - a).sqrt() * eps, t, text).sample
    expected = (found - target).square().mean()
    torch.testing.assert_close(DiffusionLoss(unet, scheduler)(z, eps, t, text), expected)

    class Encoder(nn.Module):
        def forward(self, input_ids):
            return (text[input_ids],)

    with_words = DiffusionLoss(unet, scheduler, Encoder())
    torch.testing.assert_close(with_words(z, eps, t, input_ids=torch.tensor([0, 1])), expected)
    assert not torch.equal(with_words(z, eps, t, input_ids=torch.tensor([1, 0])), expected)


@torch.no_grad()
def test_loss_of_clip(tokenizer):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1).eval()
    ids = tokenizer(["a golden mug", "a wooden duck on blue"], padding="longest", return_tensors="pt").input_ids
    expected = clip(input_ids=ids, pixel_values=images, return_loss=True).loss  # transformers' own
    torch.testing.assert_close(CLIPLoss(clip)(images, ids), expected)
    axes, scale = torch.eye(4), torch.tensor(100.0)
    assert contrastive_loss(axes, axes, scale) < 1e-6
    assert contrastive_loss(axes, axes.roll(1, 0), scale) > 50


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(on_the_cpu, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(resume, "SAVE_EVERY", 3)
    count = iter(range(99))

    def spoiled(g):
        batch = cloud(g)
        return {**batch, "y": batch["y"] * bad} if next(count) == 7 else batch

    loss = Line()
    with pytest.raises(UserError, match="x is no longer a number at step 7: .* good state") as error:
        fit("x", loss, spoiled, RECIPE, tmp_path, progress=False)
    assert str(tmp_path / "x.pt") in one_sentence(error) and str(RECIPE.lr) in one_sentence(error)
    saved = read(tmp_path / "x.pt")
    assert len(saved["losses"]) == 6 and all(t.isfinite().all() for t in saved["states"]["model"].values())
    assert loss.line.weight.isfinite().all()  # nor is the model in memory spoiled


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"batch": 4}, {"steps": 12}, {"seed": 1}, {"ema": 0.9}, "data", "model"])
def test_other_settings_are_refused(on_the_cpu, tmp_path, change):
    train("line", tmp_path, data_fingerprint="one world")
    before = (tmp_path / "x.pt").read_bytes()
    other = dataclasses.replace(RECIPE, **change) if isinstance(change, dict) else RECIPE
    world = "another world" if change == "data" else "one world"
    named = {"model": "weights"}.get(change, change) if isinstance(change, str) else next(iter(change))
    with pytest.raises(UserError, match=rf"other settings \(.*{named}.*\)") as error:
        train("diffusion" if change == "model" else "line", tmp_path, other, data_fingerprint=world)
    assert "x.pt" in one_sentence(error) and (tmp_path / "x.pt").read_bytes() == before


def test_parts_are_no_other_settings(on_the_cpu, tmp_path):
    losses, _ = train("line", tmp_path)
    assert torch.equal(losses, train("line", tmp_path, dataclasses.replace(RECIPE, accumulate=4))[0])


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut at the end": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "garbage": lambda path: path.write_bytes(b"\xff" * 1000),
    "a pickle that runs a program": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "the same inside a checkpoint": lambda path: torch.save({"settings": Evil()}, path),
    "a list": lambda path: torch.save([torch.zeros(2)], path),
    "another's checkpoint": lambda path: torch.save({"state_dict": {}}, path),
    "no states": lambda path: torch.save({key: value for key, value in read(path).items() if key != "states"}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named(on_the_cpu, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    train("line", tmp_path)
    path = tmp_path / "x.pt"
    DAMAGES[damage](path)
    content = path.read_bytes()
    with pytest.raises(UserError, match="damaged") as error:
        train("line", tmp_path)
    assert str(path) in one_sentence(error) and path.read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_a_changed_bit_is_noticed(on_the_cpu, tmp_path):
    train("vae", tmp_path)
    path = tmp_path / "x.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        train("vae", tmp_path)


def test_a_folder_in_the_place_of_a_checkpoint(on_the_cpu, tmp_path):
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(UserError, match=r"can't be read \(Is a directory\)") as error:
        train("line", tmp_path)
    assert str(tmp_path / "x.pt") in one_sentence(error)


def test_a_run_of_an_older_version_says_so(on_the_cpu, tmp_path):
    older = tmp_path / "x.safetensors"
    save_file({"losses": torch.zeros(3), "model/line.weight": torch.zeros(1, 1)}, older, {"settings": "{}"})
    with pytest.raises(UserError, match="saved by an older version of this package") as error:
        train("line", tmp_path)
    assert str(older) in one_sentence(error) and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    older.unlink()
    assert len(train("line", tmp_path)[0]) == 9


@pytest.fixture
def fill_the_disk():
    """A function after which no file can grow beyond 100 bytes, which stands for a full disk; and one that makes space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    free = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # noqa: E731
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)), free
    free()


def test_a_disk_that_fills_up(on_the_cpu, tmp_path, monkeypatch, fill_the_disk):
    monkeypatch.setattr(resume, "SAVE_EVERY", 3)
    train("line", tmp_path / "whole")
    fill, free = fill_the_disk
    with pytest.raises(UserError, match=r"Can't write to .*\(File too large\): free some space") as error:
        train("line", tmp_path / "run", on_step=lambda step, _: fill() if step == 4 else None)
    free()
    assert str(tmp_path / "run" / "x.pt") in one_sentence(error)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["x.pt"]  # no litter on a full disk
    assert len(read(tmp_path / "run" / "x.pt")["losses"]) == 3  # what was saved before is whole
    losses, _ = train("line", tmp_path / "run")  # space was made
    assert len(losses) == 9 and same(read(tmp_path / "run" / "x.pt"), read(tmp_path / "whole" / "x.pt"))


def test_a_folder_that_cannot_be_written_shows_at_once(on_the_cpu, tmp_path):
    (tmp_path / "file").write_text("here")
    (tmp_path / "closed").mkdir(mode=0o500)
    places = [tmp_path / "file" / "run", Path("/proc/nothing")]
    if os.geteuid():  # to the superuser nothing is closed
        places.append(tmp_path / "closed")
    for place in places:
        with pytest.raises(UserError, match="Can't write") as error:
            fit("x", Line(), lambda g: 1 / 0, RECIPE, place, progress=False)  # before anything is computed
        assert str(place) in one_sentence(error)
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_that_vanishes_is_made_again(on_the_cpu, tmp_path):
    def vanish(step, _):
        if step == 5:
            shutil.rmtree(tmp_path / "run")

    losses, _ = train("line", tmp_path / "run", on_step=vanish)
    assert len(losses) == 9 == len(read(tmp_path / "run" / "x.pt")["losses"])


def test_an_error_of_the_caller_is_not_swallowed(on_the_cpu, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        train("line", tmp_path, on_step=lambda *_: 1 / 0)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_checkpoint_holds(on_the_cpu, tmp_path):
    train("line", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
    saved = read(tmp_path / "x.pt")  # tensors and plain containers only: read() refuses anything else
    assert saved.keys() == {"settings", "losses", "states"} and len(saved["losses"]) == 9
    assert saved["states"].keys() == {"model", "optimizer", "ema"}
    assert saved["settings"]["lr"] == RECIPE.lr and saved["settings"]["name"] == "x"


# --- variables that a launcher left behind ----------------------------------------------------------------------------

ALONE = {
    "the first of two": {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
    "the second of two": {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
    "no address": {"WORLD_SIZE": "2", "RANK": "0"},
    "MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    "one, no address": {"LOCAL_RANK": "0"},
    "no number": {"WORLD_SIZE": "two", "RANK": "0"},
}


@pytest.mark.parametrize("case", ALONE)
def test_nobody_waits_for_processes_that_are_not_there(on_the_cpu, tmp_path, monkeypatch, case):
    monkeypatch.setattr(resume, "PATIENCE", resume.timedelta(seconds=1))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ALONE[case].items():
        monkeypatch.setenv(name, value)
    assert default_device() == torch.device("cpu")  # what trains nothing needs nobody
    with pytest.raises(UserError, match="they do not answer: start all of them with .* or unset") as error:
        train("line", tmp_path)
    one_sentence(error)
    assert not list(tmp_path.iterdir())
    for name in os.environ.keys() & {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", *ALONE[case]}:
        monkeypatch.delenv(name)  # also those that accelerate set
    assert len(train("line", tmp_path)[0]) == 9  # in the same notebook, after they were unset


# --- the whole --------------------------------------------------------------------------------------------------------

TRIAL = lab.Profile(
    renders=40,
    autoencoder=Recipe(2, 4, 1e-3),
    clip=Recipe(2, 8, 1e-3),
    unet=Recipe(2, 4, 1e-3),
    judge=Recipe(2, 8, 1e-3),
    unet_channels=(16, 32),
)


@pytest.fixture(scope="module")
def curios():
    return Curios("train", 40, progress=False)


class OwnPictures:
    """Twenty captioned pictures, 16 x 16, as :class:`lab.pictures.Pictures` holds them."""

    captions = [f"a red square number {i}" for i in range(20)]
    wordings = [[text] for text in captions]
    tokenizer_captions = captions
    images = torch.randint(256, (20, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def wording(self, i, rng):
        return self.captions[i]


def test_from_nothing_to_a_picture(curios, tmp_path, monkeypatch):
    """All three parts, on a GPU where there is one; the second time nothing is trained or computed again."""
    models, clip = lab.train_all(curios, TRIAL, tmp_path / "run", progress=False)
    out = lab.save_all(models, clip, tmp_path / "model", CURIOS)
    assert out == tmp_path / "model"
    loaded = load_models(out)
    picture = sample(loaded, ["an avocado armchair"], [7], steps=2, progress=False)
    assert picture.shape == (1, 64, 64, 3) and picture.dtype.name == "uint8"
    assert 0.8 < loaded.encode(to_model(curios.images)).std().item() < 1.25  # so that noise of variance 1 fits
    half, text = lab.text_half(load_clip(out).cpu()).state_dict(), loaded.text_encoder.cpu().state_dict()
    assert half.keys() == text.keys() and not same(half, text)  # it learned on, with the U-Net

    def never(*_, **__):
        raise AssertionError("computed again")

    for kind in (VAELoss, CLIPLoss, DiffusionLoss):
        monkeypatch.setattr(kind, "forward", never)
    monkeypatch.setattr("ldm_tutorial.models.Models.encode", never)
    again = lab.save_all(*lab.train_all(curios, TRIAL, tmp_path / "run", progress=False), tmp_path / "again", CURIOS)
    for name in ("vae", "unet", "text_encoder", "clip", "tokenizer"):
        for file in (out / name).iterdir():
            assert file.read_bytes() == (again / name / file.name).read_bytes(), f"{name}/{file.name}"


def test_pictures_of_ones_own(on_the_cpu, tmp_path, monkeypatch):
    seen = []
    real = CLIPLoss.forward

    def note(self, images, input_ids):
        seen.append(images.flatten(1).unique(dim=0).shape[0])
        return real(self, images, input_ids)

    monkeypatch.setattr(CLIPLoss, "forward", note)
    own = dataclasses.replace(TRIAL, clip=Recipe(3, 128, 1e-3))
    models, clip = lab.train_all(OwnPictures(), own, tmp_path, progress=False)
    assert seen == [16, 16, 16]  # of few pictures none is twice in a batch
    assert models.resolution == 16 and clip.config.vision_config.image_size == 16
    assert set(models.tokenizer.tokenize("a red square")) == {"a</w>", "red</w>", "square</w>"}


def test_clip_learns_all_captions_of_a_picture(on_the_cpu, tmp_path, monkeypatch):
    """Each with its own picture: picture i has i % 3 + 1 captions."""
    data, seen = OwnPictures(), set()
    data.wordings = [[f"{word} square number {i}" for word in ("red", "wide", "old")[: i % 3 + 1]] for i in range(20)]
    data.tokenizer_captions = [text for texts in data.wordings for text in texts]
    tokenizer = lab.make_tokenizer(data, tmp_path)
    pixels = to_model(data.images)

    def note(self, images, input_ids):
        for image, ids in zip(images, input_ids, strict=True):
            i = (pixels == image).flatten(1).all(1).nonzero().item()
            seen.add((i, tokenizer.decode(ids, skip_special_tokens=True)))
        return self.clip.logit_scale

    monkeypatch.setattr(CLIPLoss, "forward", note)
    lab.train_clip(data, tokenizer, Recipe(40, 16, 1e-3), tmp_path, progress=False)
    as_read = {text: tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) for text in data.tokenizer_captions}
    assert seen == {(i, as_read[text]) for i, texts in enumerate(data.wordings) for text in texts}


def test_damaged_latents_are_computed_again(on_the_cpu, tmp_path, tiny, curios):
    found = lab.encode_all(tiny[0], curios.images, tmp_path, "these models", progress=False)
    assert found.shape == (40, 8, 16, 16)
    path = tmp_path / "latents.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    assert torch.equal(lab.encode_all(tiny[0], curios.images, tmp_path, "these models", progress=False), found)
    assert path.read_bytes() == content
    marked = lab.encode_all(tiny[0], curios.images.flip(0), tmp_path, "other models", progress=False)
    assert not torch.equal(marked, found)


def test_a_damaged_tokenizer_is_named(on_the_cpu, tmp_path):
    tokenizer = lab.make_tokenizer(OwnPictures(), tmp_path)
    assert lab.make_tokenizer(OwnPictures(), tmp_path).get_vocab() == tokenizer.get_vocab()
    for file in (tmp_path / "tokenizer").iterdir():
        file.write_text(file.read_text()[:20])
    with pytest.raises(UserError, match="tokenizer is damaged: delete it") as error:
        lab.make_tokenizer(OwnPictures(), tmp_path)
    one_sentence(error)


def test_a_tokenizer_of_other_captions(on_the_cpu, tmp_path):
    """It would spell out the words of these letter by letter, and nobody would notice."""
    data = OwnPictures()
    lab.make_tokenizer(data, tmp_path)
    data.tokenizer_captions = data.captions[::-1]
    lab.make_tokenizer(data, tmp_path)  # the same ones
    data.tokenizer_captions = [*data.captions[1:], "a blue square"]
    with pytest.raises(UserError, match="tokenizer belongs to a run with other captions") as error:
        lab.make_tokenizer(data, tmp_path)
    assert str(tmp_path / "tokenizer") in one_sentence(error)
    (tmp_path / "tokenizer" / "captions.txt").unlink()  # as earlier versions of this package left it
    lab.make_tokenizer(data, tmp_path)


@pytest.mark.parametrize("what", ["tokenizer", "latents.safetensors"])
def test_a_full_disk_before_the_training(on_the_cpu, tmp_path, tiny, curios, fill_the_disk, what):
    fill, free = fill_the_disk
    fill()
    with pytest.raises(UserError, match=r"(?i)\(file too large\): free some space there, or choose another folder") as error:
        if what == "tokenizer":
            lab.make_tokenizer(OwnPictures(), tmp_path)
        else:
            lab.encode_all(tiny[0], curios.images, tmp_path, "these models", progress=False)
    free()
    assert str(tmp_path / what) in one_sentence(error) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["judge", "second"])
def test_the_judges_learn_from_all_pairs(on_the_cpu, tmp_path, curios, name):
    judge = lab.train_judge(curios, TRIAL.judge, tmp_path, name, progress=False)
    assert (tmp_path / f"{name}.pt").exists()
    assert [len(x[0]) for x in judge(torch.zeros(1, 3, 64, 64))] == [18, 16, 8]


def test_an_interrupt_ends_the_whole_run(on_the_cpu, tmp_path, curios):
    with pytest.raises(Interrupted, match="vae was stopped at step 1 of 2") as error:
        lab.train_all(curios, TRIAL, tmp_path, progress=False, on_step=lambda *_: signal.raise_signal(signal.SIGINT))
    one_sentence(error)
    assert not (tmp_path / "clip.pt").exists() and len(read(tmp_path / "vae.pt")["losses"]) == 1
    lab.train_autoencoder(curios, TRIAL.autoencoder, tmp_path, progress=False)
    assert len(read(tmp_path / "vae.pt")["losses"]) == 2


def test_scale_shortens_the_run():
    quick = lab.PROFILES["quick"]
    short = quick.scaled(0.1, accumulate=2)
    assert short.autoencoder.steps == round(0.1 * quick.autoencoder.steps) and short.unet.accumulate == 2
    assert quick.scaled(1e-9).unet.steps == 1 and quick.scaled(1) == quick


def test_profiles(monkeypatch):
    monkeypatch.delenv("LDM_TUTORIAL_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lab.choose_profile() == "quick" and lab.choose_profile("full") == "full"
    monkeypatch.setenv("LDM_TUTORIAL_PROFILE", "evening")
    assert lab.choose_profile() == "evening"
    with pytest.raises(UserError, match="no profile 'fast': choose one of quick, evening, full"):
        lab.choose_profile("fast")
