"""The command line: what it writes and says, and one sentence with status 2 for whatever cannot work."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_tutorial import cli, doctor, models
from ldm_tutorial.curios import MATERIALS, OBJECTS, Curios
from ldm_tutorial.sampling import FAST, sample
from tests.run import ROOT

FEW = ["--steps", "2"]


@pytest.fixture
def ldm(ldm, monkeypatch, tmp_path):
    """Runs `ldm ...` in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return ldm


def as_typed(*arguments, cwd) -> subprocess.CompletedProcess:
    """The same in a process of its own, as a learner runs it."""
    return subprocess.run([sys.executable, "-m", "ldm_tutorial.cli", *arguments], cwd=cwd, capture_output=True, text=True)


# --- render ---------------------------------------------------------------------------------------------------------


def test_contact_sheet(ldm, tmp_path):
    status, out, _ = ldm("render", "--sheet", "new/sheet.png")
    assert (status, out) == (0, "wrote new/sheet.png\n")
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB")).astype(int)
    height, width, _ = sheet.shape
    assert height > 64 * len(OBJECTS) and width > 64 * len(MATERIALS)
    # Every picture is on it, where its row and its column say.
    data = Curios("all", len(OBJECTS) * len(MATERIALS), progress=False)
    step, left, top = 67, width - 67 * len(MATERIALS) - 3, height - 67 * len(OBJECTS) - 3
    for i, picture in enumerate(data.images.numpy()):
        y, x = top + 3 + i // len(MATERIALS) * step, left + 3 + i % len(MATERIALS) * step
        assert np.array_equal(sheet[y : y + 64, x : x + 64], picture), data.captions[i]
    assert (sheet[:, :left] < 128).any() and (sheet[:top] < 128).any()  # the names beside and above


@pytest.mark.parametrize("split", ["train", "validation", "held_out"])
def test_image_folder(ldm, tmp_path, split):
    status, out, _ = ldm("render", "--count", 3, "--split", split, "--out", "pictures", "--seed", 5)
    assert status == 0 and "3 pictures" in out
    (table,) = (tmp_path / "pictures").rglob("metadata.csv")
    with open(table, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    data = Curios(split, 3, seed=5, progress=False)
    assert [r["text"] for r in rows] == data.captions
    for row, picture in zip(rows, data.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(table.parent / row["file_name"])), picture.numpy())
    before = sorted(tmp_path.rglob("*"))
    status, _, said = ldm("render", "--count", 2, "--out", "pictures")  # nothing is mixed or overwritten
    assert status == 2 and "'pictures'" in said and sorted(tmp_path.rglob("*")) == before


# --- generate -------------------------------------------------------------------------------------------------------


def test_one_picture(ldm, tmp_path, tiny_folder):
    arguments = ["generate", "a golden mug", "--seed", 7, "--model", tiny_folder, *FEW]
    status, out, said = ldm(*arguments, "--out", "new/a.png")
    assert (status, out) == (0, "wrote new/a.png\n") and "no picture" not in said
    expected = sample(models.load_models(tiny_folder), ["a golden mug"], [7], steps=2, progress=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), expected[0])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
    assert ldm(*arguments)[1] == "wrote picture.png\n"
    assert (tmp_path / "picture.png").read_bytes() == (tmp_path / "new" / "a.png").read_bytes()  # to the last bit


def test_several_pictures_and_a_sheet(ldm, tmp_path, tiny_folder):
    status, out, _ = ldm("generate", "a golden mug", "--seed", 7, "--count", 3, "--out", "a.png", "--model", tiny_folder, *FEW)
    assert status == 0
    assert out.splitlines() == ["wrote a-7.png", "wrote a-8.png", "wrote a-9.png", "wrote a.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-7.png", "a-8.png", "a-9.png", "a.png"]
    pictures = [np.asarray(Image.open(tmp_path / f"a-{seed}.png")).astype(int) for seed in (7, 8, 9)]
    assert all(p.shape == (64, 64, 3) for p in pictures) and np.abs(pictures[0] - pictures[1]).max() > 50
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.width >= 3 * 64 and sheet.height >= 64
    ldm("generate", "a golden mug", "--seed", 8, "--out", "alone.png", "--model", tiny_folder, *FEW)
    assert np.abs(np.asarray(Image.open(tmp_path / "alone.png")).astype(int) - pictures[1]).max() <= 1


def test_every_option_counts(ldm, tmp_path, tiny_folder):
    basic = {"--seed": 7, "--steps": 4, "--guidance": 3, "--sampler": "ddim", "--negative": ""}
    changes = [{}, {"--seed": 8}, {"--steps": 3}, {"--guidance": 9}, {"--guidance": 1}, {"--sampler": "ddpm"}]
    changes.append({"--negative": "a bed"})
    found = set()
    for change in changes:
        options = [str(x) for pair in {**basic, **change}.items() for x in pair]
        status, _, said = ldm("generate", "a golden mug", *options, "--model", tiny_folder)
        assert status == 0, said
        found.add((tmp_path / "picture.png").read_bytes())
    assert len(found) == len(changes)


def test_the_fast_way(ldm, tmp_path, tiny_folder):
    arguments = ["generate", "a golden mug", "--seed", 7, "--model", tiny_folder]
    loaded = models.load_models(tiny_folder)
    for more, options in ([], {}), (["--steps", 4], {"steps": 4}), (["--sampler", "ddim"], {"sampler": "ddim"}):
        assert ldm(*arguments, "--fast", *more)[0] == 0
        expected = sample(loaded, ["a golden mug"], [7], progress=False, **{**FAST, **options})
        assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), expected[0])


def test_unknown_words_are_noted_and_the_picture_is_made(ldm, tmp_path, tiny_folder):
    status, out, said = ldm("generate", "a golden sofa", "--model", tiny_folder, *FEW)
    assert status == 0 and "'sofa' (nearest: 'armchair')" in said and "sofa" not in out
    assert (tmp_path / "picture.png").exists()


# --- what cannot work -----------------------------------------------------------------------------------------------

BAD = [
    (["generate", ""], "empty"),
    (["generate", "  "], "empty"),
    (["generate", "🥑🛋️"], "🥑🛋️"),
    (["generate", "mug " * 3000], "too long"),
    *((["generate", "a mug", "--seed", bad], bad) for bad in ("abc", "-1", "1.5", str(2**64), "nan", "")),
    *((["generate", "a mug", "--steps", bad], bad) for bad in ("0", "-3", "1001", "x", "2.5")),
    *((["generate", "a mug", "--guidance", bad], bad) for bad in ("nan", "inf", "-1", "x")),
    *((["generate", "a mug", "--count", bad], bad) for bad in ("0", "-2", "257", "many")),
    (["generate", "a mug", "--out", "."], "'.'"),
    (["generate", "a mug", "--out", "a.jpg"], "'a.jpg'"),
    (["generate", "a mug", "--out", "file/a.png"], "file"),
    (["generate", "a mug", "--model", "no/such/folder"], "no/such/folder"),
    (["render"], "--sheet"),
    (["render", "--count", "0", "--out", "new"], "0"),
    (["render", "--count", "-4", "--out", "new"], "-4"),
    (["render", "--count", "abc", "--out", "new"], "'abc'"),
    (["render", "--count", "3", "--split", "test", "--out", "new"], "'test'"),
    (["render", "--count", "3", "--out", "new", "--seed", "abc"], "'abc'"),
    (["render", "--count", "3", "--out", "file"], "'file'"),
    (["render", "--sheet", "a.jpg"], "'a.jpg'"),
    (["render", "--sheet", "."], "'.'"),
    (["generate", "a mug", "--negative", "🥑"], "🥑"),
    (["train", "vae", "--out", "model"], "'vae'"),
    (["train", "all", "--out", "file"], "file"),
    (["train", "gan"], "'gan'"),
    (["train", "vae", "--profile", "huge"], "'huge'"),
    *((["train", "vae", "--scale", bad], bad) for bad in ("0", "-1", "nan", "inf", "abc")),
]


@pytest.mark.parametrize("arguments, named", BAD, ids=[" ".join(a)[:45] for a, _ in BAD])
def test_one_sentence_for_each_bad_input(ldm, tmp_path, monkeypatch, arguments, named):
    if "--model" not in arguments:  # what is wrong with the words is said before a model is loaded

        def never(*_, **__):
            raise AssertionError("a model was loaded first")

        monkeypatch.setattr(models, "load_models", never)
        monkeypatch.setattr("ldm_tutorial.show.contact_sheet", never)
    (tmp_path / "file").write_text("here")
    status, out, said = ldm(*arguments)
    assert status == 2 and out == ""
    assert re.fullmatch(r"ldm: [^\n]+\.\n", said) and named in said, said
    assert len(said) < 500 and "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize("arguments", [["generate", "a mug", "--sampler", "euler"], ["generate", "mug " * 90]])
def test_what_only_the_model_can_judge(ldm, tmp_path, tiny_folder, arguments):
    status, out, said = ldm(*arguments, "--model", tiny_folder)
    assert status == 2 and out == "" and re.fullmatch(r"ldm: [^\n]+\.\n", said), said
    assert not list(tmp_path.iterdir())


def test_damaged_weights(ldm, tmp_path, tiny_folder):
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    status, _, said = ldm("generate", "a mug", "--model", folder)
    assert status == 2 and "unet/diffusion_pytorch_model.safetensors" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["paint"], "paint"),
        (["generate"], "prompt"),
        (["generate", "a mug", "--colour", "red"], "--colour"),
        (["generate", "a", "mug"], "mug"),
    ],
)
def test_wrong_usage(ldm, tmp_path, arguments, named):
    status, out, said = ldm(*arguments)
    assert status == 2 and out == "" and named in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_train_is_resumable_and_says_where(ldm, tmp_path, monkeypatch):
    trial = models.Profile(8, (2, 4, 1e-3), (2, 4, 1e-3), (2, 4, 1e-3), (16, 32))
    monkeypatch.setitem(models.PROFILES, "trial", trial)
    status, out, _ = ldm("train", "clip", "--profile", "trial")
    assert status == 0 and "clip is trained" in out and "runs/trial" in out
    assert {p.name for p in (tmp_path / "runs" / "trial").iterdir()} == {"clip.safetensors", "tokenizer"}
    status, out, _ = ldm("train", "--profile", "trial", "--run", "runs/trial", "--out", "model")
    assert status == 0 and out == "wrote model\n"  # the path as it was given
    assert ldm("generate", "a mug", "--model", "model", *FEW)[0] == 0
    status, _, said = ldm("train", "clip", "--profile", "trial", "--scale", 2)  # another recipe in the same folder
    assert status == 2 and "other settings" in said


def test_doctor(ldm, monkeypatch):
    well = [doctor.Finding("ok", "all is well")]
    monkeypatch.setattr(doctor, "diagnose", lambda: well)
    assert ldm("doctor")[:2] == (0, "   ok   all is well\n")
    well.append(doctor.Finding("fault", "it broke", "mend it"))
    status, out, _ = ldm("doctor")
    assert status == 1 and "fault   it broke" in out and "mend it" in out


def test_help(ldm):
    status, out, _ = ldm("--help")
    assert status == 0 and all(name in out for name in ("render", "train", "generate", "doctor"))
    for name in ("render", "train", "generate", "doctor"):
        assert ldm(name, "--help")[0] == 0
    status, out, said = ldm()
    assert "generate" in out + said


def test_as_a_learner_types_it(tmp_path):
    bad = as_typed("generate", "a mug", "--seed", "-1", cwd=tmp_path)
    assert bad.returncode == 2 and bad.stdout == ""
    assert re.fullmatch(r"ldm: The seed '-1' [^\n]+\.\n", bad.stderr), bad.stderr
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_the_heavy_libraries():
    code = "import sys; import ldm_tutorial.cli; sys.exit(sum(m in sys.modules for m in ('torch', 'diffusers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="ldm")
    assert command.load() is cli.main


def test_a_gpu_is_used_where_there_is_one(tiny_folder):
    device = models.load_models(tiny_folder).device
    assert device.type == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
