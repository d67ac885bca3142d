"""The project's frame: both ways to install agree, versions agree, every target is explained, no secret told."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from tests.run import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def committed_files():
    git = shutil.which("git")
    listed = git and subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if not listed or listed.returncode:
        pytest.skip("this copy of the project is not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_conda_installs_what_pip_installs():
    environment = yaml.safe_load(read("environment.yml"))
    *conda, pip = environment["dependencies"]
    # Conda brings Python and pip only, pip this project: so there is one list of requirements, and it is pyproject's.
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-e ."]}
    assert "optional-dependencies" not in PROJECT
    assert environment["name"] == PROJECT["name"]


def test_tested_versions_cover_every_requirement():
    lines = [line.partition("#")[0].strip() for line in read("requirements-tested.txt").splitlines()]
    tested = {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}
    assert tested.keys() == REQUIREMENTS.keys()
    for name, requirement in tested.items():
        (specifier,) = requirement.specifier
        assert REQUIREMENTS[name].specifier.contains(specifier.version), name
        # A pinned torch can pick a CPU-only file that torchvision does not fit.
        assert specifier.operator == (">=" if name in ("torch", "torchvision") else "=="), name


def test_versions_agree():
    package = importlib.import_module("ldm_tutorial")
    assert package.__version__ == PROJECT["version"] == yaml.safe_load(read("CITATION.cff"))["version"]


def test_importing_the_package_stays_light():
    code = "import sys, ldm_tutorial, ldm_tutorial.errors, ldm_tutorial.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_package_data_is_declared():
    data = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["ldm_tutorial"]
    package = ROOT / "ldm_tutorial"
    installed = {path for pattern in data for path in package.glob(pattern)}
    present = {path for path in committed_files() if path.is_relative_to(package) and path.suffix != ".py"}
    assert present <= installed


def test_make_help_lists_every_target():
    makefile = read("Makefile")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert {"help", "venv", "lab", "test", "test-browser", "notebooks", "weights", "bench", "clean"} <= set(targets)
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = dict(re.findall(r"^  make ([\w-]+) +(\S.*)$", shown, re.MULTILINE))
    assert list(explained) == targets


def test_make_says_which_python_is_needed(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    made = subprocess.run(["make", "venv", "PYTHON="], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0
    assert "No Python 3.11 or newer" in made.stdout
    assert not (tmp_path / ".venv").exists()


def test_scripts_and_workflows_call_make_test():
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert re.search(r"^make test$", read(".ci/run"), re.MULTILINE)
    for name in ("cpu.yml", "gpu.yml"):
        job = yaml.safe_load(read(f".github/workflows/{name}"))["jobs"]["test"]
        assert any(step.get("run") == ".ci/run" for step in job["steps"])


def test_nothing_private_is_told():
    # Written in pieces, so that this file does not find itself.
    private = re.compile(
        "|".join(
            [
                r"\.\./" + "shared",
                r"/work" + r"/(?:main|shared)\b",
                r"/(?:home|Users)" + r"/\w+/",
                r"\b(?:192\.168|10\.\d{1,3}|172\.(?:1[6-9]|2\d|3[01]))" + r"\.\d{1,3}\.\d{1,3}\b",
                r"\bhttps?://[\w.-]+\.(?:internal|intranet|corp|lan|local)\b",
            ]
        )
    )
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = private.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_ruff_is_content():
    # Committed files only: a learner's own scratch files are nobody's business.
    files = [str(path) for path in committed_files() if path.suffix in (".py", ".ipynb")]
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", *files], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
