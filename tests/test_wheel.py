"""The wheel: it holds all that the package needs, and what is installed from it works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.run import ROOT

pytestmark = pytest.mark.slow
PROMPT = "an armchair made of avocado"
PLAIN = """
import sys; sys.modules["ldm_tutorial"] = None  # any import of it fails
import torch
from diffusers import StableDiffusionPipeline
folder, prompt, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder)
g = torch.Generator().manual_seed(7)
pipe(prompt, num_inference_steps=20, guidance_scale=3.0, generator=g).images[0].save(out)
"""


def run(folder: Path, *command: object, **environment: str) -> str:
    """A command in a folder, its Python without a cache of ours and without this checkout."""
    given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run([*map(str, command)], cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, for setuptools leaves a folder ``build`` beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "ldm_tutorial", source / "ldm_tutorial", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    # torch brings setuptools along: nothing needs to be fetched
    run(source, sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    run(folder, sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, wheel)
    return folder


def test_holds_every_file(wheel):
    files = [path.relative_to(ROOT) for path in (ROOT / "ldm_tutorial").rglob("*") if path.is_file()]
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts and not path.name.startswith(".")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ldm_tutorial/")}
    assert held == wanted
    for ending in (".safetensors", ".onnx", ".txt", ".jsonl", ".js", ".html", ".mplstyle"):  # weights, words, pages
        assert any(name.endswith(ending) for name in held), ending


def test_the_command_makes_the_checkouts_picture(site, tmp_path):
    """The installed `ldm`, in an empty folder; the doctor there finds the weights whole."""
    where = "import ldm_tutorial; print(ldm_tutorial.__file__)"
    assert Path(run(tmp_path, sys.executable, "-c", where, PYTHONPATH=str(site)).strip()).is_relative_to(site)
    arguments = ["generate", PROMPT, "--seed", 7]
    run(tmp_path, site / "bin" / "ldm", *arguments, "--out", "installed.png", PYTHONPATH=str(site))
    command = [sys.executable, "-m", "ldm_tutorial.lab.cli"]
    run(tmp_path, *command, *arguments, "--out", "checkout.png", PYTHONPATH=str(ROOT))
    installed, checkout = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("installed", "checkout"))
    assert installed.shape == (64, 64, 3) and installed.std() > 10
    assert np.array_equal(installed, checkout)
    checked = run(tmp_path, *command, "doctor", PYTHONPATH=str(site))
    assert "files are whole" in checked


def test_plain_diffusers_reads_the_installed_weights(site, tmp_path):
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict

    weights = site / "ldm_tutorial" / "weights" / "curios-64"
    run(tmp_path, sys.executable, "-c", PLAIN, weights, PROMPT, "plain.png")
    seen = predict(load_judge(), np.array(Image.open(tmp_path / "plain.png"))[None])
    assert seen[0, :2].tolist() == labels_of([("armchair", "avocado", "pink")])[0, :2].tolist()
