"""Is everything in place? Each check looks at one thing and says what to do about a fault.

`ldm doctor` prints all findings; a notebook's first cell calls `report(only_problems=True)`, silent when all is well.
Nothing heavy is imported before it is checked. The checks (`diagnose`, `check_...`) change nothing. `report` changes one thing
before it calls them: as the first call of a notebook, it settles how threads wait, which must come before torch is loaded.
"""

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..errors import UserError
from ..files import CHECKSUMS, WEIGHTS, cache_folder, check_place, read_checksums, verify_checksums
from ..storage.threads import share_the_machine

MIN_MEMORY = 3 * 2**30  # bytes
MIN_DISK = 2 * 2**30  # bytes

INSTALL = "run `make venv`, or `python -m pip install -e .` in the project's folder"
TORCH_CURE = (
    "install both from one place: `python -m pip uninstall -y torch torchvision`, then "
    "`python -m pip install torch torchvision` (both with the same --index-url, if you use one)"
)
EXTRAS = "run `make venv`, or `python -m pip install -e '.[notebooks]'` in the project's folder"
WEIGHTS_CURE = "restore them: `git checkout -- ldm_tutorial/weights`, or download the project again"


@dataclass(frozen=True)
class Finding:
    """What one check found: level "ok", "warn" (works, but not well) or "fault" (will not work)."""

    level: str
    what: str
    advice: str = ""


def diagnose() -> list[Finding]:
    """Check the installation and the machine. Takes a few seconds: it imports the libraries."""
    findings = [check_requirements(), check_libraries()]
    if any(finding.level == "fault" for finding in findings):
        return findings  # the other checks stand on these packages
    return [*findings, check_kernel(), check_weights(), check_gpu(), check_memory(), check_cache()]


def report(only_problems: bool = False, findings: list[Finding] | None = None) -> bool:
    """Print the findings (of `diagnose`, unless given), each with its advice; True if there is no fault.

    With `only_problems` it prints to stderr, and nothing at all when all is well: a notebook that begins with it then
    shows the same output on every machine. First it settles how threads wait (:mod:`storage.threads`).
    """
    share_the_machine()  # `diagnose` imports torch
    findings = diagnose() if findings is None else findings
    for finding in findings:
        if finding.level != "ok" or not only_problems:
            advice = f"\n        -> {finding.advice}" if finding.advice else ""
            print(f"{finding.level:>5}   {finding.what}{advice}", file=sys.stderr if only_problems else sys.stdout)
    return all(finding.level != "fault" for finding in findings)


def check_requirements() -> Finding:
    """Compare what is installed with what pyproject.toml asks for; what only notebooks or developers need is left out."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("ldm-tutorial") or []]
    except metadata.PackageNotFoundError:
        return Finding("warn", "ldm_tutorial is used from its folder, but not installed", INSTALL)
    always = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    problems = []
    for requirement in always:
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if problems:
        return Finding("fault", "requirements: " + ", ".join(problems), INSTALL)
    python = platform.python_version()
    return Finding("ok", f"Python {python}: all {len(always)} required packages are installed, in versions that fit")


def check_libraries() -> Finding:
    """Import what the course is built on. torchvision comes first: where it does not fit torch, the others fail too."""
    needed = [
        ("torchvision", "ops", TORCH_CURE),
        ("transformers", "CLIPModel", INSTALL),
        ("diffusers", "UNet2DConditionModel", INSTALL),
    ]
    for name, part, cure in needed:
        try:
            getattr(importlib.import_module(name), part)
        except Exception as error:
            return Finding("fault", f"{name} cannot be imported: {first_line(error)}", cure)
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "transformers", "diffusers")]
    return Finding("ok", f"{', '.join(versions)} can be imported")


def check_kernel() -> Finding:
    """Jupyter's kernel `python3`, which the notebooks name, must be this environment's."""
    cure = f"run `{sys.executable} -m ipykernel install --sys-prefix`"
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except ModuleNotFoundError:
        return Finding("warn", "Jupyter is not installed: all works but the notebooks", EXTRAS)
    except Exception as error:
        if "home directory" in str(error):  # no HOME, and a user whom the system has no name for
            what = "Jupyter needs a home folder, and there is none: all works but the notebooks"
            return Finding("warn", what, "name one that you may write to: `export HOME=/some/folder`")
        return Finding("fault", f"Jupyter has no kernel `python3`: {first_line(error)}", cure)
    # A bare name means: the Python that runs Jupyter. A symbolic link is not followed: every .venv links to one Python.
    if os.path.isabs(program) and Path(program).parent != Path(sys.executable).parent:
        return Finding("warn", f"Jupyter's kernel `python3` runs another Python: {program}", cure)
    return Finding("ok", "Jupyter's kernel `python3` runs this Python")


def check_weights(folder: Path = WEIGHTS) -> Finding:
    """Compare each file in `folder` with its SHA-256 in checksums.json ({relative path: hex digest})."""
    try:
        listed, found = read_checksums(folder), verify_checksums(folder)
    except (OSError, ValueError):
        return Finding("fault", f"weights: {folder / CHECKSUMS} is missing or damaged", WEIGHTS_CURE)
    if found:
        faults = [f"{name} is {state}" for name, state in found.items()]
        return Finding("fault", "weights: " + ", ".join(faults), WEIGHTS_CURE)
    return Finding("ok", f"weights: all {len(listed)} files are whole")


def check_gpu() -> Finding:
    """Say which GPU torch sees; without one everything works, on the CPU."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return Finding("ok", f"GPU: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        return Finding("ok", "GPU: Apple's, through MPS")
    if shutil.which("nvidia-smi"):
        advice = "update the driver, or install a CUDA build of torch (pytorch.org); meanwhile the CPU does everything"
        return Finding("warn", "GPU: NVIDIA's driver is here, but torch sees no GPU", advice)
    return Finding("ok", "GPU: none; ok, CPU: everything works")


def check_memory() -> Finding:
    """Say how much memory is free."""
    import psutil

    free = psutil.virtual_memory().available
    if free < MIN_MEMORY:
        return Finding("warn", f"memory: only {free / 2**30:.1f} GiB free", "close other programs: 3 GiB is enough")
    return Finding("ok", f"memory: {free / 2**30:.1f} GiB free")


def check_cache() -> Finding:
    """There must be room for renders, in a folder that can be written."""
    folder = cache_folder()
    advice = "name a folder that you may write to: `export LDM_TUTORIAL_CACHE=/some/folder`"
    try:
        check_place(folder / "renders")
    except UserError as error:
        if any(folder.glob("curios/*/*.safetensors")):
            return Finding("warn", f"cache: {folder} can only be read: renders that are not in it can't be made", advice)
        return Finding("fault", f"cache: {error}", advice)
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < MIN_DISK:
        advice = "free 2 GiB there, or name another folder: `export LDM_TUTORIAL_CACHE=/some/folder`"
        return Finding("warn", f"cache: only {free / 2**30:.1f} GiB of disk free in {folder}", advice)
    return Finding("ok", f"cache: {folder}, {free / 2**30:.0f} GiB of disk free")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
