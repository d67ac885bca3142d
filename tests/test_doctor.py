"""The doctor finds each fault, names it, and says what to do. Faults are real ones, made in a temporary folder."""

import hashlib
import json
import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors.torch import save_file

from ldm_tutorial.notebook import doctor
from ldm_tutorial.notebook.doctor import Finding
from tests.run import ROOT


@pytest.fixture
def weights(tmp_path):
    """A small folder of whole weights."""
    folder = tmp_path / "weights"
    (folder / "unet").mkdir(parents=True)
    save_file({"w": torch.arange(1000.0)}, folder / "unet" / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    names = ["unet/model.safetensors", "model_index.json"]
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "checksums.json").write_text(json.dumps(checksums))
    return folder


def run_doctor(**environment) -> subprocess.CompletedProcess:
    """The whole examination in a process of its own, as a learner runs it."""
    environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "ldm_tutorial.lab.cli", "doctor"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_whole_weights_are_whole(weights):
    assert doctor.check_weights(weights) == Finding("ok", "weights: all 2 files are whole")


def test_missing_weights(weights):
    (weights / "model_index.json").unlink()
    finding = doctor.check_weights(weights)
    assert finding == Finding("fault", "weights: model_index.json is missing", doctor.WEIGHTS_CURE)


@pytest.mark.parametrize("size", [0, 5, 50, 2000])
def test_truncated_weights(weights, size):
    path = weights / "unet" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    finding = doctor.check_weights(weights)
    assert finding.level == "fault" and finding.what == "weights: unet/model.safetensors is cut short"
    assert "git checkout -- ldm_tutorial/weights" in finding.advice


def test_one_altered_bit(weights):
    path = weights / "unet" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    finding = doctor.check_weights(weights)
    assert finding.level == "fault" and finding.what == "weights: unet/model.safetensors is altered"


def test_every_bad_file_is_named(weights):
    (weights / "model_index.json").write_text("{ }")
    (weights / "unet" / "model.safetensors").unlink()
    what = doctor.check_weights(weights).what
    assert "model_index.json is altered" in what and "unet/model.safetensors is missing" in what


@pytest.mark.parametrize("content", [None, "", "[]", "not json"])
def test_bad_list_of_checksums(weights, content):
    (weights / "checksums.json").unlink()
    if content is not None:
        (weights / "checksums.json").write_text(content)
    finding = doctor.check_weights(weights)
    assert finding.level == "fault" and "checksums.json" in finding.what


def test_torchvision_that_does_not_fit_torch(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    examined = run_doctor(PYTHONPATH=str(tmp_path))
    assert examined.returncode == 1, examined.stderr
    assert "fault   torchvision cannot be imported: operator torchvision::nms does not exist" in examined.stdout
    assert "python -m pip install torch torchvision" in examined.stdout
    # One cause, one finding: that diffusers and transformers fail with it is not reported as well.
    assert "diffusers cannot" not in examined.stdout and "Traceback" not in examined.stderr


def test_broken_library(tmp_path):
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    examined = run_doctor(PYTHONPATH=str(tmp_path))
    assert examined.returncode == 1, examined.stderr
    assert "fault   diffusers cannot be imported: broken on purpose" in examined.stdout


def test_requirements(monkeypatch):
    wanted = ["numpy>=999", "no-such-package-at-all>=1", "packaging>=1"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    finding = doctor.check_requirements()
    assert finding.level == "fault"
    assert "numpy" in finding.what and "no-such-package-at-all is missing" in finding.what
    assert "packaging" not in finding.what


def test_the_library_alone(monkeypatch):
    """What only notebooks or developers need is no fault where the library alone is installed."""
    wanted = ["packaging>=1", 'no-such-lab>=4; extra == "notebooks"', 'no-such-test>=1; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    finding = doctor.check_requirements()
    assert finding.level == "ok" and finding.what.endswith(": all 1 required packages are installed, in versions that fit")
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    assert doctor.check_kernel() == Finding("warn", "Jupyter is not installed: all works but the notebooks", doctor.EXTRAS)


def test_no_kernel(monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    finding = doctor.check_kernel()
    assert finding.level == "fault" and "ipykernel install --sys-prefix" in finding.advice


def test_kernel_of_another_python(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))  # where Jupyter looks first
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    kernel = {"argv": ["/elsewhere/bin/python", "-m", "ipykernel_launcher"], "display_name": "", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(kernel))
    finding = doctor.check_kernel()
    assert finding.level == "warn" and "/elsewhere/bin/python" in finding.what

    kernel["argv"][0] = sys.executable
    (folder / "kernel.json").write_text(json.dumps(kernel))
    assert doctor.check_kernel().level == "ok"


def test_gpu_seen_or_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_gpu() == Finding("ok", "GPU: none; ok, CPU: everything works")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert doctor.check_gpu().level == "warn"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert doctor.check_gpu().level == "ok"


def test_little_memory(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(2**30))
    finding = doctor.check_memory()
    assert finding.level == "warn" and "1.0 GiB" in finding.what


def test_cache_is_looked_at_and_not_made(monkeypatch, tmp_path):
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(folder))
    assert doctor.check_cache().level in ("ok", "warn")
    assert not folder.parent.exists()


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("a file, where a folder should be")
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))
    finding = doctor.check_cache()
    assert finding.level == "fault" and "LDM_TUTORIAL_CACHE" in finding.advice


def test_a_full_cache_that_can_only_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor.check_cache().level == "fault"
    (tmp_path / "curios" / "v1-64-cpu").mkdir(parents=True)
    (tmp_path / "curios" / "v1-64-cpu" / "train-0-000000-000256.safetensors").touch()
    finding = doctor.check_cache()
    assert finding.level == "warn" and f"{tmp_path} can only be read" in finding.what and "LDM_TUTORIAL_CACHE" in finding.advice


def test_little_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(2**30))
    assert doctor.check_cache().level == "warn"


def test_report_speaks_only_when_something_is_wrong(capsys):
    well = [Finding("ok", "all well")]
    assert doctor.report(only_problems=True, findings=well)
    assert capsys.readouterr() == ("", "")
    # To stderr: what a notebook prints stays the same on every machine.
    assert not doctor.report(only_problems=True, findings=[*well, Finding("fault", "it broke", "mend it")])
    assert capsys.readouterr() == ("", "fault   it broke\n        -> mend it\n")
    assert doctor.report(findings=[*well, Finding("warn", "slow", "wait")])
    assert capsys.readouterr().out == "   ok   all well\n warn   slow\n        -> wait\n"
