"""The project's frame: both ways to install agree, versions agree, every target is explained, no secret told."""

import ast
import importlib
import io
import itertools
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.run import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}


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


def test_conda_installs_what_make_installs():
    environment = yaml.safe_load(read("environment.yml"))
    *conda, pip = environment["dependencies"]
    # Conda brings Python and pip only, pip this project: so there is one list of requirements, and it is pyproject's.
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    (wanted,) = pip["pip"]
    assert f"$(PIP) -e '{wanted.removeprefix('-e ')}'" in read("Makefile")
    assert set(re.search(r"\[(.+)\]", wanted)[1].split(",")) == set(PROJECT["optional-dependencies"])
    assert environment["name"] == PROJECT["name"]


def test_the_library_alone_needs_no_notebook_and_no_test():
    for extra in ("notebooks", "dev"):
        assert not REQUIREMENTS.keys() & {requirement.name for requirement in EXTRAS[extra]}, extra


def test_tested_versions_cover_every_requirement():
    lines = [line.partition("#")[0].strip() for line in read("requirements-tested.txt").splitlines()]
    tested = {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}
    for requirement in [*REQUIREMENTS.values(), *itertools.chain(*EXTRAS.values())]:
        name = canonicalize_name(requirement.name)
        (specifier,) = tested[name].specifier
        assert requirement.specifier.contains(specifier.version), name
    for name, requirement in tested.items():
        (specifier,) = requirement.specifier
        # A pinned torch can pick a CPU-only file that torchvision does not fit.
        assert specifier.operator == (">=" if name in ("torch", "torchvision") else "=="), name


def test_versions_agree():
    package = importlib.import_module("ldm_tutorial")
    assert package.__version__ == PROJECT["version"] == yaml.safe_load(read("CITATION.cff"))["version"]


def test_without_torch():
    """What answers at once: `ldm --help`, a wrong option, the doctor before it looks, and the parts that the engine needs."""
    names = ["errors", "files", "settings", "storage.about", "storage.threads", "text", "curios.vocabulary", "lab.cli"]
    names += ["notebook.doctor", "practice.progress"]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("ldm_tutorial." + name)
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def lines_of_code(source: str) -> int:
    """Lines that hold anything but a comment or a docstring."""
    nothing = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_what_one_reads_stays_short():
    assert lines_of_code('"""A module."""\n\n# a remark\nx = [\n    1,\n]\n\n\ndef f():\n    """Doc."""\n    return x\n') == 5
    lengths = {path.name: lines_of_code(path.read_text()) for path in (ROOT / "ldm_tutorial").glob("*.py")}
    assert sum(lengths.values()) <= 1000, lengths


PROCESS_WIDE = """
import importlib, logging, os, pkgutil, random, signal, socket, sys, warnings
import accelerate, anywidget, datasets, diffusers, huggingface_hub, ipywidgets, matplotlib, numpy, onnxruntime, scipy.stats
import torch, torchmetrics, torchvision, tqdm.auto, transformers, typer
from PIL import Image, ImageFile, PngImagePlugin
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

def settings():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters),
        "matplotlib": dict(matplotlib.rcParams),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
                  torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(), torch._inductor.config.freezing),
        "random": (random.getstate(), torch.initial_seed(), numpy.random.get_state()[1].tolist()),
        "logging": [logging.getLogger(name).level for name in (None, "diffusers", "transformers", "datasets", "matplotlib")],
        "progress bars": (diffusers.utils.logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled(),
                          transformers.utils.logging.is_progress_bar_enabled(),
                          huggingface_hub.utils.are_progress_bars_disabled()),
        "pictures": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, ImageFile.SAFEBLOCK,
                     PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY),
        "default timeout": socket.getdefaulttimeout(),
        "exceptions": (sys.excepthook, sys.stdout, sys.stderr),
    }

import torch._inductor.config
before = settings()
import ldm_tutorial
names = [m.name for m in pkgutil.walk_packages(ldm_tutorial.__path__, "ldm_tutorial.")]
for name in names:
    importlib.import_module(name)
    after = settings()
    changed = [what for what in before if before[what] != after[what]]
    assert not changed, f"{name} changes {changed}: {[(before[what], after[what]) for what in changed]}"
print(len(names))
"""


def test_importing_the_package_changes_nothing_of_the_process():
    done = subprocess.run([sys.executable, "-c", PROCESS_WIDE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 25, "all modules were imported"


def test_the_picture_of_the_rooms_shows_every_import():
    """All imports between rooms, the modules on top as one; not those of `lab`, nor of errors and files."""
    import grimp

    package = ROOT / "ldm_tutorial"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    graph = grimp.build_graph("ldm_tutorial", cache_dir=None)
    arrows = set()
    for importer, imported in itertools.permutations(sorted(rooms - {"__init__", "lab"}), 2):
        if imported in ("errors", "files"):
            continue
        modules = (f"ldm_tutorial.{importer}", f"ldm_tutorial.{imported}")
        if graph.direct_import_exists(importer=modules[0], imported=modules[1], as_packages=True):
            arrows.add(tuple(name if (package / name).is_dir() else "top" for name in (importer, imported)))
    (picture,) = re.findall(r"```mermaid\n(.*?)```", read("docs/architecture.md"), re.DOTALL)
    assert arrows - {("top", "top")} == set(re.findall(r"(\w+) --> (\w+)", picture))


def test_package_data_is_declared():
    data = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["ldm_tutorial"]
    package = ROOT / "ldm_tutorial"
    installed = {path for pattern in data for path in package.glob(pattern)}
    present = {path for path in committed_files() if path.is_relative_to(package) and path.suffix != ".py"}
    assert present <= installed


def test_make_help_lists_every_target():
    makefile = read("Makefile")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert {"help", "venv", "lab", "test", "test-all", "check", "test-browser", "notebooks", "weights", "bench"} <= set(targets)
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = dict(re.findall(r"^  make ([\w-]+) +(\S.*)$", shown, re.MULTILINE))
    assert set(explained) == set(targets)


def test_make_says_which_python_is_needed(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    made = subprocess.run(["make", "venv", "PYTHON="], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0
    assert "No Python 3.11 or newer" in made.stdout
    assert not (tmp_path / ".venv").exists()


def test_hooks_are_what_make_check_runs():
    recipe = re.search(r"^check: .*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    recipe = re.sub(r" \$\(if .*\)\)", "", recipe).replace("$(PY)", ".venv/bin/python")
    commands = re.findall(r"^\t(\.venv/bin/.*?); \\$", recipe, re.MULTILINE)
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert commands == [hook["entry"] for hook in repository["hooks"]] and len(commands) == 5


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
