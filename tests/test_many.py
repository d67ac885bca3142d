"""Many processes: they learn what one learns, one of them writes, and what one began any number can go on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from ldm_tutorial.errors import UserError
from ldm_tutorial.models import build_scheduler, build_unet, build_vae
from ldm_tutorial.training import CLIPLoss, DiffusionLoss, Recipe, VAELoss, fit
from tests.run import ROOT, environment
from tests.test_training import on_the_cpu  # noqa: F401 (a fixture)

RECIPE = Recipe(steps=6, batch=8, lr=1e-3, warmup=3)
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def vae_problem():
    torch.manual_seed(0)

    def draw(g):
        return {"images": torch.rand(8, 3, 16, 16, generator=g) * 2 - 1, "noise": torch.randn(8, 4, 4, 4, generator=g)}

    return VAELoss(build_vae(4, (8, 8, 8))), draw


def clip_problem():
    torch.manual_seed(0)
    same = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {**same, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49, "pad_token_id": 49}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**same, "image_size": 16, "patch_size": 8}, projection_dim=16))

    def draw(g):
        ids = torch.randint(49, (8, 8), generator=g)
        ids[:, -1] = 49
        return {"images": torch.rand(8, 3, 16, 16, generator=g) * 2 - 1, "input_ids": ids}

    return CLIPLoss(clip), draw


def diffusion_problem():
    torch.manual_seed(0)

    def draw(g):
        shape = 8, 4, 8, 8
        return {
            "latents": torch.randn(shape, generator=g), "noise": torch.randn(shape, generator=g),
            "timesteps": torch.randint(1000, (8,), generator=g), "encoder_hidden_states": torch.randn(8, 77, 16, generator=g),
        }  # fmt: skip

    return DiffusionLoss(build_unet(4, (16, 16), 16), build_scheduler()), draw


PROBLEMS = {"vae": vae_problem, "clip": clip_problem, "diffusion": diffusion_problem}

MANY = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from ldm_tutorial import training
from tests.test_many import PROBLEMS, RECIPE, fit

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
real = training.save_file

def note(tensors, path, metadata):
    with open(folder / "writers", "a") as f:
        f.write(f"{rank} {Path(path).parent.name}/{Path(path).name}\\n")
    real(tensors, path, metadata)

training.save_file = note

def train(name, place, **options):
    return fit(name, *PROBLEMS[name](), RECIPE, folder / place, progress=False, save_every=2, **options)

def stop(step, _):
    if step == 2 and rank == 1:
        signal.raise_signal(signal.SIGTERM)

def hang(step, _):
    with open(folder / f"step{rank}", "w") as f:
        f.write(f"{os.getpid()} {step}")
    if step == 4 and rank == 1:
        time.sleep(600)  # killed here

for name in PROBLEMS:
    train(name, "two")
    train(name, "two, in parts", accumulate=2)
train("diffusion", "begun by one")
train("diffusion", "begun by two", on_step=stop)
from ldm_tutorial import cli
cli.app = lambda: train("diffusion", "killed", on_step=hang)
cli.main()
"""


def curve(path: Path) -> torch.Tensor:
    return load_file(path)["losses"]


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
    (folder / "many.py").write_text(MANY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "many.py", str(folder)]
    with open(folder / "said", "w") as said:
        run = subprocess.Popen(command, cwd=folder, env={**environment(), **ENVIRONMENT}, stdout=said, stderr=said)
    victim = folder / "step1"
    while run.poll() is None and not (victim.exists() and victim.read_text().endswith(" 4")):
        time.sleep(0.1)
    assert run.poll() is None, (folder / "said").read_text()[-3000:]
    killed = time.monotonic()
    os.kill(int(victim.read_text().split()[0]), signal.SIGKILL)
    assert run.wait(timeout=60) != 0
    (folder / "seconds").write_text(str(time.monotonic() - killed))
    return folder


def alone(folder: Path) -> None:
    for name, problem in PROBLEMS.items():
        for place, parts in (("one", 1), ("one, in parts", 4)):
            fit(name, *problem(), RECIPE, folder / place, progress=False, accumulate=parts)

    def stop(step, _):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    fit("diffusion", *diffusion_problem(), RECIPE, folder / "begun by one", progress=False, on_step=stop)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("place", ["two", "two, in parts", "one, in parts"])
def test_the_loss_curve_of_one_process(folder, name, place):
    wanted, found = (load_file(folder / where / f"{name}.safetensors") for where in ("one", place))
    assert len(wanted["losses"]) == RECIPE.steps and wanted["losses"].unique().numel() == RECIPE.steps
    torch.testing.assert_close(found["losses"], wanted["losses"], atol=1e-5, rtol=1e-5)
    start = {f"model/{k}": v for k, v in PROBLEMS[name]()[0].state_dict().items()}
    moved, apart = (sum((wanted[k] - other[k]).abs().sum().item() for k in start) for other in (start, found))
    assert apart < 0.02 * moved  # not to the digit: Adam makes much of a gradient that is nearly 0


def test_one_process_writes(folder):
    writers = (folder / "writers").read_text().splitlines()
    assert len(writers) >= 3 * 2 * 3 and {line.split()[0] for line in writers} == {"0"}
    assert not list(folder.rglob("*.part"))


def test_two_go_on_where_one_stopped(folder):
    found = curve(folder / "begun by one" / "diffusion.safetensors")
    torch.testing.assert_close(found, curve(folder / "one" / "diffusion.safetensors"), atol=1e-5, rtol=1e-5)


def test_one_goes_on_where_two_stopped(on_the_cpu, folder):  # noqa: F811
    path = folder / "begun by two" / "diffusion.safetensors"
    assert len(curve(path)) == 3  # one of them was told to stop, and both did, saved
    fit("diffusion", *diffusion_problem(), RECIPE, path.parent, progress=False)
    torch.testing.assert_close(curve(path), curve(folder / "one" / "diffusion.safetensors"), atol=1e-5, rtol=1e-5)


def test_a_killed_process_ends_the_run(on_the_cpu, folder):  # noqa: F811
    said, path = (folder / "said").read_text(), folder / "killed" / "diffusion.safetensors"
    (sentence,) = [line for line in said.splitlines() if line.startswith("ldm: ")]
    assert "Another of the 2 processes" in sentence and str(path) in sentence and sentence.endswith(".")
    assert "SIGKILL" in said  # the launcher says which one
    assert float((folder / "seconds").read_text()) < 40
    assert len(curve(path)) == 4 and not list(folder.rglob("*.part"))
    fit("diffusion", *diffusion_problem(), RECIPE, path.parent, progress=False)  # one is enough to go on
    torch.testing.assert_close(curve(path), curve(folder / "one" / "diffusion.safetensors"), atol=1e-5, rtol=1e-5)


# --- in one process -------------------------------------------------------------------------------------------------


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.seen = nn.Linear(4, 1), set()

    def forward(self, x):
        y = self.line(x)
        self.seen.add((y.dtype, len(x)))
        return y.square().mean()


def draw(g):
    return {"x": torch.randn(8, 4, generator=g)}


@pytest.mark.parametrize(("told", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), (None, torch.float32)])
def test_precision_is_what_accelerate_is_told(on_the_cpu, tmp_path, monkeypatch, told, dtype):  # noqa: F811
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if told:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    line = Line()
    fit("x", line, draw, RECIPE, tmp_path, progress=False)
    assert line.seen == {(dtype, 8)}


def test_parts_are_parts(on_the_cpu, tmp_path):  # noqa: F811
    line = Line()
    fit("x", line, draw, RECIPE, tmp_path, progress=False, accumulate=4)
    assert {rows for _, rows in line.seen} == {2}
    with pytest.raises(UserError, match="batch of 8 .* in 3 parts"):
        fit("y", Line(), draw, RECIPE, tmp_path, progress=False, accumulate=3)


def test_sigterm_ends_a_run_saved(on_the_cpu, tmp_path):  # noqa: F811
    before = signal.getsignal(signal.SIGTERM)
    losses = fit(
        "x", Line(), draw, RECIPE, tmp_path, progress=False,
        on_step=lambda step, _: signal.raise_signal(signal.SIGTERM) if step == 2 else None,
    )  # fmt: skip
    assert len(losses) == 3 == len(curve(tmp_path / "x.safetensors")) and signal.getsignal(signal.SIGTERM) is before
