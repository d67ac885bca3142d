"""The wheel: it holds all that the package needs, and what is installed from it works where there is no checkout, and where
nothing is installed but what it declares as needed without extras."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.run import ROOT

pytestmark = pytest.mark.slow
PROMPT = "an armchair made of avocado"
PYTHON = [sys.executable, "-S"]  # without what is installed beside it
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


def needed(name: str, place: Path) -> set[str]:
    """The names of all distributions that the one in a folder needs when it is installed without extras, and those that they
    need, and so on."""
    (first,) = metadata.distributions(name=name, path=[str(place)])
    waiting, seen = [(first, "")], set()
    while waiting:
        distribution, extra = waiting.pop()
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in ("", *requirement.extras):
                found = (canonicalize_name(requirement.name), wanted)
                if found not in seen:
                    seen.add(found)
                    waiting.append((metadata.distribution(requirement.name), wanted))
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel, installed into a folder of its own, with links to what it needs without extras, and to nothing else. `PYTHON`
    sees this folder and the standard library alone."""
    folder = tmp_path_factory.mktemp("site")
    run(folder, sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, wheel)
    for name in needed("ldm-tutorial", folder):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(distribution.locate_file(top)).resolve())
    return folder


def test_holds_every_file(wheel):
    files = [path.relative_to(ROOT) for path in (ROOT / "ldm_tutorial").rglob("*") if path.is_file()]
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts and not path.name.startswith(".")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ldm_tutorial/")}
    assert held == wanted
    for ending in (".safetensors", ".onnx", ".txt", ".jsonl", ".js", ".html", ".mplstyle"):  # weights, words, pages
        assert any(name.endswith(ending) for name in held), ending


def test_nothing_of_the_extras_is_there(site, tmp_path):
    wheel = metadata.distributions(name="ldm-tutorial", path=[str(site)])
    requirements = [Requirement(line) for distribution in wheel for line in distribution.requires]
    extras = {canonicalize_name(r.name) for r in requirements if r.marker} - needed("ldm-tutorial", site)
    assert {"ipywidgets", "jupyterlab", "onnx", "pytest", "sphinx"} <= extras
    ask = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    there = {canonicalize_name(name) for name in run(tmp_path, *PYTHON, "-c", ask, PYTHONPATH=str(site)).split()}
    assert "torch" in there and not there & extras
    for name in ("ipywidgets", "onnx", "pytest"):
        with pytest.raises(AssertionError, match=f"No module named '{name}'"):
            run(tmp_path, *PYTHON, "-c", f"import {name}", PYTHONPATH=str(site))


def test_the_command_makes_the_checkouts_picture(site, tmp_path):
    """The installed `ldm`, in an empty folder; the doctor there finds the weights whole."""
    where = "import ldm_tutorial; print(ldm_tutorial.__file__)"
    assert Path(run(tmp_path, *PYTHON, "-c", where, PYTHONPATH=str(site)).strip()).is_relative_to(site)
    arguments = ["generate", PROMPT, "--seed", 7]
    installed_ldm = [*PYTHON, site / "bin" / "ldm"]
    assert "generate" in run(tmp_path, *installed_ldm, "--help", PYTHONPATH=str(site))
    run(tmp_path, *installed_ldm, *arguments, "--out", "installed.png", PYTHONPATH=str(site))
    checkout_ldm = [sys.executable, "-m", "ldm_tutorial.lab.cli"]
    run(tmp_path, *checkout_ldm, *arguments, "--out", "checkout.png", PYTHONPATH=str(ROOT))
    installed, checkout = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("installed", "checkout"))
    assert installed.shape == (64, 64, 3) and installed.std() > 10
    assert np.array_equal(installed, checkout)
    checked = run(tmp_path, *installed_ldm, "doctor", PYTHONPATH=str(site))
    assert "files are whole" in checked and "Jupyter is not installed" in checked


def test_plain_diffusers_reads_the_installed_weights(site, tmp_path):
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict

    weights = site / "ldm_tutorial" / "weights" / "curios-64"
    run(tmp_path, *PYTHON, "-c", PLAIN, weights, PROMPT, "plain.png", PYTHONPATH=str(site))
    seen = predict(load_judge(), np.array(Image.open(tmp_path / "plain.png"))[None])
    assert seen[0, :2].tolist() == labels_of([("armchair", "avocado", "pink")])[0, :2].tolist()
