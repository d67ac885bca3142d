"""Many processes: they learn what one learns, one of them writes, and what one began any number can go on with."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import CLIPConfig, CLIPModel

from ldm_tutorial.autoencoder import VAELoss, build_vae
from ldm_tutorial.clip import CLIPLoss
from ldm_tutorial.diffusion import DiffusionLoss, build_scheduler, build_unet
from ldm_tutorial.errors import UserError
from ldm_tutorial.lab import training as lab
from ldm_tutorial.training import Recipe, fit
from tests.run import ROOT, environment
from tests.test_training import on_the_cpu, read  # noqa: F401 (a fixture)

RECIPE = Recipe(steps=6, batch=8, lr=1e-3, warmup=3)
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def vae_problem():
    torch.manual_seed(0)

    def sample_batch(g):
        return {"images": torch.rand(8, 3, 16, 16, generator=g) * 2 - 1, "noise": torch.randn(8, 4, 4, 4, generator=g)}

    return VAELoss(build_vae(4, (8, 8, 8))), sample_batch


def clip_problem():
    torch.manual_seed(0)
    same = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {**same, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49, "pad_token_id": 49}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**same, "image_size": 16, "patch_size": 8}, projection_dim=16))

    def sample_batch(g):
        ids = torch.randint(49, (8, 8), generator=g)
        ids[:, -1] = 49
        return {"images": torch.rand(8, 3, 16, 16, generator=g) * 2 - 1, "input_ids": ids}

    return CLIPLoss(clip), sample_batch


def diffusion_problem():
    torch.manual_seed(0)

    def sample_batch(g):
        shape = 8, 4, 8, 8
        return {
            "latents": torch.randn(shape, generator=g), "noise": torch.randn(shape, generator=g),
            "timesteps": torch.randint(1000, (8,), generator=g), "encoder_hidden_states": torch.randn(8, 77, 16, generator=g),
        }  # fmt: skip

    return DiffusionLoss(build_unet(4, (16, 16), 16), build_scheduler()), sample_batch


PROBLEMS = {"vae": vae_problem, "clip": clip_problem, "diffusion": diffusion_problem}


def train(name: str, place: Path, parts: int = 1, **options) -> torch.Tensor:
    return fit(name, *PROBLEMS[name](), replace(RECIPE, accumulate=parts), place, progress=False, **options)


BEGIN = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from ldm_tutorial.storage import resume
from ldm_tutorial.errors import UserError
from tests.test_many import PROBLEMS, train

resume.SAVE_EVERY = 2
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
"""

MANY = (
    BEGIN
    + """
real = resume.atomic_write

def note(path):
    with open(folder / "writers", "a") as f:
        f.write(f"{rank} {path}\\n")
    return real(path)

resume.atomic_write = note

def stop(step, _):
    if step == 2 and rank == 1:
        signal.raise_signal(signal.SIGTERM)

def hang(step, _):
    with open(folder / f"step{rank}", "w") as f:
        f.write(f"{os.getpid()} {step}")
    if step == 4 and rank == 1:
        time.sleep(600)  # killed here

for name in PROBLEMS:
    train(name, folder / "two")
    train(name, folder / "two, in parts", 2)
train("diffusion", folder / "begun by one")
train("diffusion", folder / "begun by two", on_step=stop)
try:
    train("diffusion", folder / "killed", on_step=hang)
except UserError as error:
    sys.exit(f"told: {error}")
"""
)


def launch(folder: Path, script: str) -> subprocess.Popen:
    """Two processes that run ``script``; what they say goes to ``folder/said``."""
    (folder / "script.py").write_text(script)
    # The launcher looks every two seconds, so that a process that loses its neighbour can say so before it is ended too.
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=2"]
    command = [sys.executable, "-m", *launcher, "script.py", str(folder)]
    variables = {**environment(), **ENVIRONMENT}
    with open(folder / "said", "w") as said:
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=said, stderr=said, start_new_session=True)


def wait_for_step(folder: Path, run: subprocess.Popen, step: int) -> int:
    """The process number of the second of two, when it has made this step."""
    victim = folder / "step1"
    while run.poll() is None and not (victim.exists() and victim.read_text().endswith(f" {step}")):
        time.sleep(0.1)
    assert run.poll() is None, (folder / "said").read_text()[-3000:]
    return int(victim.read_text().split()[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made before one of them was killed, and beside it ("one") what one process makes of the same."""
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        AcceleratorState._reset_state(reset_partial_state=True)
        alone(folder)
        AcceleratorState._reset_state(reset_partial_state=True)
    run = launch(folder, MANY)
    victim = wait_for_step(folder, run, 4)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert run.wait(timeout=60) != 0
    (folder / "seconds").write_text(str(time.monotonic() - killed))
    return folder


def alone(folder: Path) -> None:
    for name in PROBLEMS:
        train(name, folder / "one")
        train(name, folder / "one, in parts", 4)

    def stop(step, _):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    train("diffusion", folder / "begun by one", on_step=stop)


def losses(folder: Path, place: str, name: str = "diffusion") -> torch.Tensor:
    return torch.tensor(read(folder / place / f"{name}.pt")["losses"])


def assert_as_one(folder: Path, place: str, name: str = "diffusion") -> None:
    torch.testing.assert_close(losses(folder, place, name), losses(folder, "one", name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("place", ["two", "two, in parts", "one, in parts"])
def test_the_loss_curve_of_one_process(folder, name, place):
    assert len(losses(folder, "one", name).unique()) == RECIPE.steps
    assert_as_one(folder, place, name)
    start = PROBLEMS[name]()[0].state_dict()
    wanted, found = (read(folder / where / f"{name}.pt")["states"]["model"] for where in ("one", place))
    moved, apart = (sum((wanted[k] - other[k]).abs().sum().item() for k in start) for other in (start, found))
    assert apart < 0.02 * moved  # not to the digit: Adam makes much of a gradient that is nearly 0


def test_one_process_writes(folder):
    writers = (folder / "writers").read_text().splitlines()
    assert len(writers) >= 3 * 2 * 3 and {line.split()[0] for line in writers} == {"0"}
    assert not list(folder.rglob("*.part"))


def test_two_go_on_where_one_stopped(folder):
    assert_as_one(folder, "begun by one")


def test_one_goes_on_where_two_stopped(on_the_cpu, folder):  # noqa: F811
    assert len(losses(folder, "begun by two")) == 3  # one of them was told to stop, and both did, saved
    train("diffusion", folder / "begun by two")
    assert_as_one(folder, "begun by two")


def test_a_killed_process_ends_the_run(on_the_cpu, folder):  # noqa: F811
    said, path = (folder / "said").read_text(), folder / "killed" / "diffusion.pt"
    (sentence,) = [line for line in said.splitlines() if line.startswith("told: ")]
    assert "Another of the 2 processes" in sentence and str(path) in sentence and sentence.endswith(".")
    assert "SIGKILL" in said  # the launcher says which one
    assert float((folder / "seconds").read_text()) < 40
    assert len(losses(folder, "killed")) == 4 and not list(folder.rglob("*.part"))
    train("diffusion", folder / "killed")  # one is enough to go on
    assert_as_one(folder, "killed")


INTERRUPTED = (
    BEGIN
    + """
def note(step, _):
    with open(folder / f"step{rank}", "w") as f:
        f.write(f"{os.getpid()} {step}")
    if step == 4:
        time.sleep(5)  # interrupted here

made = train("diffusion", folder / "interrupted", on_step=note)
print(f"rank {rank} made {len(made)} steps", flush=True)
"""
)


@pytest.mark.slow
def test_ctrl_c_for_all_of_them_loses_nothing(tmp_path):
    """A terminal sends it to the launcher, which passes it on to each process."""
    run = launch(tmp_path, INTERRUPTED)
    wait_for_step(tmp_path, run, 4)
    os.killpg(run.pid, signal.SIGINT)
    run.wait(timeout=60)
    said = (tmp_path / "said").read_text()
    assert sorted(line for line in said.splitlines() if line.startswith("rank")) == [
        "rank 0 made 5 steps", "rank 1 made 5 steps",
    ]  # fmt: skip
    assert len(losses(tmp_path, "interrupted")) == 5


# --- in one process -------------------------------------------------------------------------------------------------


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.seen = nn.Linear(4, 1), set()

    def forward(self, x):
        y = self.line(x)
        self.seen.add((y.dtype, len(x)))
        return y.square().mean()


def noise(g):
    return {"x": torch.randn(8, 4, generator=g)}


@pytest.mark.parametrize(("told", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), (None, torch.float32)])
def test_precision_is_what_accelerate_is_told(on_the_cpu, tmp_path, monkeypatch, told, dtype):  # noqa: F811
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if told:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    line = Line()
    fit("x", line, noise, RECIPE, tmp_path, progress=False)
    assert line.seen == {(dtype, 8)}


@pytest.mark.parametrize(
    ("told", "native", "dtype"),
    [(None, True, torch.bfloat16), (None, False, torch.float32), ("no", True, torch.float32)],
)
def test_bfloat16_on_a_cpu(on_the_cpu, tmp_path, monkeypatch, told, native, dtype):  # noqa: F811
    """Where the CPU has it, and nobody said otherwise; callbacks and batches are not computed in it."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if told:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    monkeypatch.setattr(lab, "cpu_has_bfloat16", lambda: native)
    line, outside = Line(), set()
    note = lambda *_: outside.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)  # noqa: E731
    fit("x", lab.LowPrecision(line), noise, RECIPE, tmp_path, on_step=note, progress=False)
    assert line.seen == {(dtype, 8)} and outside == {torch.float32} and line.line.weight.dtype == torch.float32


def test_parts_are_parts(on_the_cpu, tmp_path):  # noqa: F811
    line = Line()
    fit("x", line, noise, replace(RECIPE, accumulate=4), tmp_path, progress=False)
    assert {rows for _, rows in line.seen} == {2}
    with pytest.raises(UserError, match="batch of 8 .* in 3 parts"):
        fit("y", Line(), noise, replace(RECIPE, accumulate=3), tmp_path, progress=False)


def test_sigterm_ends_a_run_saved(on_the_cpu, tmp_path):  # noqa: F811
    def stop(step, _):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    made = fit("x", Line(), noise, RECIPE, tmp_path, on_step=stop, progress=False)
    assert len(made) == 3 == len(read(tmp_path / "x.pt")["losses"]) and signal.getsignal(signal.SIGTERM) is before
