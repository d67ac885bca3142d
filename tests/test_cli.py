"""The command line: what it writes and says, and one sentence with status 2 for whatever cannot work."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_tutorial import checkpoints, settings
from ldm_tutorial.curios import MATERIALS, OBJECTS, Curios
from ldm_tutorial.files import write_checksums
from ldm_tutorial.lab import cli, commands, training
from ldm_tutorial.notebook import doctor
from ldm_tutorial.sampling import sample
from ldm_tutorial.storage.about import CURIOS
from tests.run import ROOT, environment

FEW = ["--steps", "2"]
TRIAL = ["--profile", "quick", "--scale", "0.0004"]


@pytest.fixture
def ldm(ldm, monkeypatch, tmp_path):
    """Runs `ldm ...` in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return ldm


@pytest.fixture(scope="module")
def curios_folder(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model, saying of itself that it is one of Curios."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("curios") / "model")
    CURIOS.write(folder)
    write_checksums(folder)
    return folder


def as_typed(*arguments, cwd, **options) -> subprocess.CompletedProcess:
    """The same in a process of its own, as a learner runs it."""
    command = [sys.executable, "-m", "ldm_tutorial.lab.cli", *map(str, arguments)]
    options = {"capture_output": True, "text": True, "env": {**environment(), "PYTHONPATH": str(ROOT)}, **options}
    return subprocess.run(command, cwd=cwd, **options)


# --- render -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_contact_sheet(ldm, tmp_path):
    status, out, _ = ldm("render", "--sheet", "new/sheet.png")
    assert (status, out) == (0, "wrote new/sheet.png\n")
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB")).astype(int)
    height, width, _ = sheet.shape
    # Every picture is on it, where its row and its column say.
    data = Curios("all", len(OBJECTS) * len(MATERIALS), progress=False)
    step = 128 + 8
    left, top = width - step * len(MATERIALS), height - step * len(OBJECTS)
    for i, picture in enumerate(data.images.numpy()):
        y, x = top + i // len(MATERIALS) * step, left + i % len(MATERIALS) * step
        assert np.array_equal(sheet[y : y + 128 : 2, x : x + 128 : 2], picture), data.captions[i]
    assert (sheet[:, :left] < 128).any() and (sheet[:top] < 128).any()  # the names beside and above


@pytest.mark.parametrize("split", ["train", "held_out"])
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


# --- generate ---------------------------------------------------------------------------------------------------------


def test_one_picture(ldm, tmp_path, curios_folder):
    arguments = ["generate", "a golden mug", "--seed", 7, "--model", curios_folder, *FEW]
    status, out, said = ldm(*arguments, "--out", "new/a.png")
    assert (status, out) == (0, "wrote new/a.png\n") and "no picture" not in said
    expected = sample(checkpoints.load_models(curios_folder), ["a golden mug"], [7], steps=2, progress=False)
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


def test_a_seed_of_more_than_32_bits_names_the_smaller_one(ldm, tmp_path, tiny_folder):
    made = []
    for seed in (7, 7 + 2**32):
        status, _, said = ldm("generate", "a mug", "--seed", seed, "--out", f"{seed}.png", "--model", tiny_folder, *FEW)
        assert status == 0 and ("draws what 7 draws" in said) == (seed != 7)
        made.append((tmp_path / f"{seed}.png").read_bytes())
    assert made[0] == made[1]


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


@pytest.mark.parametrize("own", [True, False], ids=["of the course", "of somebody else"])
def test_the_default_way_and_what_is_named_in_its_place(ldm, tmp_path, curios_folder, tiny_folder, own):
    folder = curios_folder if own else tiny_folder  # a checkpoint that says nothing of itself is sampled as papers have it
    default = settings.DEFAULT_SAMPLING if own else settings.Sampling()
    arguments = ["generate", "a golden mug", "--seed", 7, "--model", folder]
    loaded = checkpoints.load_models(folder)
    for more, expected in (
        ([], default),
        (["--steps", 4], dataclasses.replace(default, steps=4)),
        (["--sampler", "ddim"], settings.Sampling()),
    ):
        assert ldm(*arguments, *more)[0] == 0
        expected = sample(loaded, ["a golden mug"], [7], expected, progress=False)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), expected[0])


def test_unknown_words_are_noted_where_the_model_knows_curios_alone(ldm, tmp_path, curios_folder, tiny_folder):
    status, out, said = ldm("generate", "a golden throne", "--model", curios_folder, *FEW)
    assert status == 0 and "'throne' (nearest: 'armchair')" in said and "throne" not in out
    status, _, said = ldm("generate", "ein кресло", "--model", tiny_folder, *FEW)  # says nothing of itself
    assert status == 0 and "nearest" not in said
    status, _, said = ldm("generate", "кресло", "--model", curios_folder, *FEW)
    assert status == 2 and "taught to read (Latin)" in said


# --- what cannot work -------------------------------------------------------------------------------------------------

BAD = [
    (["generate", ""], "empty"),
    (["generate", "🥑🛋️"], "🥑🛋️"),
    (["generate", "mug " * 3000], "too long"),
    (["generate", "a mug", "--negative", "🥑"], "negative prompt '🥑'"),
    *((["generate", "a mug", "--seed", bad], "--seed") for bad in ("abc", "-1", "1.5", str(2**64), "")),
    *((["generate", "a mug", "--steps", bad], "--steps") for bad in ("0", "1001", "x", "2.5")),
    *((["generate", "a mug", "--guidance", bad], "--guidance") for bad in ("nan", "inf", "-1", "x")),
    *((["generate", "a mug", "--count", bad], "--count") for bad in ("0", "257", "many")),
    (["generate", "a mug", "--seed", str(2**63 - 2), "--count", "3"], f"beyond the last seed, {2**63 - 1}"),
    (["generate", "a mug <|endoftext|> of gold"], "holds <|endoftext|>"),
    (["generate", "a mug", "--negative", "<|startoftext|>red"], "negative prompt holds <|startoftext|>"),
    (["generate", "a mug", "--sampler", "euler"], "'euler'"),
    (["generate", "a mug", "--out", "."], "'.'"),
    (["generate", "a mug", "--out", "a.jpg"], "'a.jpg'"),
    (["generate", "a mug", "--out", "file/a.png"], "file"),
    (["generate"], "prompt"),
    (["generate", "a mug", "--colour", "red"], "--colour"),
    (["generate", "a", "mug"], "mug"),
    (["paint"], "paint"),
    (["edit", "gone.png", "a mug"], "gone.png"),
    (["edit", ".", "a mug"], "'.'"),
    (["edit", "a.png", ""], "empty"),
    (["edit", "a.png", "a mug", "--mask", "gone.png"], "gone.png"),
    *((["edit", "a.png", "a mug", "--strength", bad], "--strength") for bad in ("0", "1.1", "nan", "x")),
    (["edit", "a.png", "a mug", "--out", "./a.png"], "'a.png'"),
    (["edit", "a.png", "a mug", "--mask", "b.png", "--out", "b.png"], "'b.png'"),
    (["evaluate", "--json", "a.txt"], "'a.txt'"),
    (["evaluate", "--sheet", "."], "'.'"),
    (["evaluate", "--data", "."], "--data"),
    (["render"], "--sheet"),
    *((["render", "--count", bad, "--out", "new"], "--count") for bad in ("0", "-4", "abc")),
    (["render", "--count", "3", "--split", "test", "--out", "new"], "'test'"),
    (["render", "--count", "3", "--out", "file"], "'file'"),
    (["render", "--sheet", "a.jpg"], "'a.jpg'"),
    (["train", "vae", "--out", "model"], "'vae'"),
    (["train", "all", "--out", "file"], "file"),
    (["train", "all", "--run", "file"], "file"),
    (["train", "vae", "--run", "file"], "'file' is a file"),
    (["train", "judge", "--out", "file"], "'file' is a file"),
    (["train", "baselines", "--out", "file/b"], "file/b"),
    *((["train", part, "--out", "."], "holds something else than a model") for part in ("all", "judge", "baselines")),
    (["train", "gan"], "'gan'"),
    (["train", "vae", "--profile", "huge"], "'huge'"),
    *((["train", "vae", "--scale", bad], "--scale") for bad in ("0", "-1", "nan", "inf", "abc")),
]


@pytest.mark.parametrize("arguments, named", BAD, ids=[" ".join(a)[:45] for a, _ in BAD])
def test_one_sentence_for_each_bad_input(ldm, tmp_path, monkeypatch, arguments, named):
    def never(*_, **__):
        raise AssertionError("a model was loaded first")

    for name in ("load_models", "load_checkpoint"):
        monkeypatch.setattr(checkpoints, name, never)
    monkeypatch.setattr("ldm_tutorial.engine.Engine", never)
    (tmp_path / "file").write_text("here")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    status, out, said = ldm(*arguments)
    assert status == 2 and out == ""
    assert re.fullmatch(r"ldm: [^\n]+\.\n", said) and named.lower() in said.lower(), said
    assert len(said) < 500 and "Traceback" not in said
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before  # checks only check


def test_what_only_the_model_can_judge(ldm, tmp_path, tiny_folder):
    for arguments in (["a mug", "--model", "no/such/folder"], ["mug " * 70 + "qxzqxz " * 4, "--model", tiny_folder]):
        status, out, said = ldm("generate", *arguments)
        assert status == 2 and out == "" and re.fullmatch(r"ldm: [^\n]+\.\n", said), said
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    status, _, said = ldm("generate", "a mug", "--model", folder)
    assert status == 2 and "unet/diffusion_pytorch_model.safetensors" in said and said.count("\n") == 1


def test_a_model_of_unknown_origin_is_not_measured_as_if_it_were_curios(ldm, tiny_folder):
    status, _, said = ldm("evaluate", "--model", tiny_folder)
    assert status == 2 and "has no course.json" in said and said.count("\n") == 1
    assert "There is no model in" in ldm("evaluate", "--model", "nowhere")[2]


def test_the_menus_hold_what_there_is():
    def menu(annotated) -> set:
        (options, *_) = [kind for kind in (get_args(annotated)[0], *get_args(get_args(annotated)[0])) if get_args(kind)]
        found = get_args(options)
        return set(found) if isinstance(found[0], str) else set(get_args(found[0]))

    assert menu(commands.Sampler) == set(settings.SAMPLER_NAMES)
    assert menu(commands.ProfileName) == set(training.PROFILES)


# --- evaluate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.txt", "/dev/full"])
def test_the_numbers_are_written_before_anything_is_printed(curios_folder, tmp_path, monkeypatch, output):
    """Where the output takes ASCII only, or is full: the numbers are there, and so is exit status 0."""
    from ldm_tutorial.lab import evaluation
    from ldm_tutorial.measure import report

    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: ({"psnr": 31.0}, None))
    monkeypatch.setattr(report, "table", lambda found: f"Fréchet {found['psnr']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ldm", "evaluate", "--quick", "--model", str(curios_folder), "--json", "new/a.json"])
    with open(output, "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"psnr": 31.0}
    if output == "out.txt":
        assert (tmp_path / "out.txt").read_text() == "Fr\\xe9chet 31.0\nwrote new/a.json\n"


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_says_where_and_goes_on(ldm, tmp_path, monkeypatch):
    trial = training.Profile(8, *[training.Recipe(2, 4, 1e-3, warmup=1)] * 3, unet_channels=(16, 32))
    monkeypatch.setitem(training.PROFILES, "quick", trial)
    status, out, _ = ldm("train", "clip", "--profile", "quick")
    assert status == 0 and out == "clip is trained; its state is in runs/quick\n"
    assert {p.name for p in (tmp_path / "runs" / "quick").iterdir() if not p.name.startswith(".")} >= {"clip.pt", "tokenizer"}
    status, out, _ = ldm("train", "--profile", "quick", "--run", "runs/quick", "--out", "model")
    assert status == 0 and out == "wrote model\n"  # the path as it was given
    assert json.loads((tmp_path / "model" / "course.json").read_text())["kind"] == "curios"
    status, _, said = ldm("generate", "a golden throne", "--model", "model", *FEW)
    assert status == 0 and "'throne' (nearest: 'armchair')" in said
    status, _, said = ldm("train", "clip", "--profile", "quick", "--scale", 2)  # another recipe in the same folder
    assert status == 2 and "other settings" in said


# --- everything that was written can be read --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["two words, größe, 東京", pytest.param("link", marks=pytest.mark.slow)])
def test_round_trips(ldm, tmp_path, monkeypatch, place):
    """render -> train --data, train -> generate, edit and evaluate --model, generate -> edit; by name and by path."""
    (tmp_path / "real").mkdir()
    top = tmp_path / place
    top.symlink_to("real") if place == "link" else top.mkdir()
    assert ldm("render", "--count", 24, "--out", f"{place}/pictures")[0] == 0
    monkeypatch.chdir(top)
    few = [*TRIAL, "--resolution", 16, "--run", "run"]
    assert ldm("train", "all", "--data", "pictures", *few, "--out", "model")[0] == 0
    assert ldm("generate", "a golden mug", "--model", "model", *FEW, "--out", "größe/a b.png")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert ldm("edit", top / "größe" / "a b.png", "a duck", "--model", top / "model", *FEW, "--out", f"{place}/b.png")[0] == 0
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save(top / "mask.png")
    again = ["edit", f"{place}/b.png", "a duck", "--model", f"{place}/model/", *FEW]
    assert ldm(*again, "--mask", f"{place}/mask.png", "--out", f"{place}/c.png")[0] == 0
    status, _, said = ldm("evaluate", "--model", f"{place}/model", "--data", top / "pictures", "--json", f"{place}/a.json")
    assert status == 0, said
    assert json.loads((top / "a.json").read_text())["psnr_aside"]["n"] == 4
    assert Image.open(top / "b.png").size == Image.open(top / "c.png").size == (16, 16)


def test_the_home_folder(ldm, tmp_path, monkeypatch):
    """In quotes and after "=" a shell leaves the "~" as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ldm("generate", "a golden mug", *FEW, "--out=~/a b.png")[0] == 0
    assert ldm("edit", "~/a b.png", "a duck", *FEW, "--strength", 1, "--out", "~/b.png")[0] == 0
    assert sorted(p.name for p in (tmp_path / "home").glob("*.png")) == ["a b.png", "b.png"] and not (tmp_path / "~").exists()
    assert "'~user'" in ldm("generate", "a golden mug", "--model", "~user")[2]  # nobody's home
    assert cli.expand_home("~/a=b") == str(tmp_path / "home" / "a=b") and cli.expand_home("a mug=~/x") == "a mug=~/x"


def test_places_that_are_not_utf8(ldm, tmp_path):
    """Pictures may lie there; models, which libraries could not read again, are refused at the start."""
    top = tmp_path / os.fsdecode(b"caf\xe9")
    assert ldm("render", "--count", 1, "--out", top / "pictures")[0] == 0
    assert ldm("generate", "a golden mug", *FEW, "--out", top / "a.png")[0] == 0
    assert ldm("edit", top / "a.png", "a duck", *FEW, "--out", top / "b.png")[0] == 0
    assert Image.open(top / "b.png").size == (64, 64)
    for arguments in (["train", "all", "--run", top / "run"], ["train", "all", "--out", top / "model"]):
        status, _, said = ldm(*arguments, *TRIAL)
        assert status == 2 and "is not UTF-8 text" in said
    assert sorted(p.name for p in top.iterdir()) == ["a.png", "b.png", "pictures"]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_doctor(ldm, monkeypatch):
    well = [doctor.Finding("ok", "all is well")]
    monkeypatch.setattr(doctor, "diagnose", lambda: well)
    assert ldm("doctor")[:2] == (0, "   ok   all is well\n")
    well.append(doctor.Finding("fault", "it broke", "mend it"))
    status, out, _ = ldm("doctor")
    assert status == 1 and "fault   it broke" in out and "mend it" in out


def test_help(ldm):
    status, out, _ = ldm("--help")
    names = {command.callback.__name__ for command in commands.app.registered_commands}
    assert names == {"render", "train", "generate", "edit", "export", "evaluate", "progress", "doctor"}
    assert status == 0 and all(name in out for name in names) and ldm()[1] == out
    for name in names:
        assert ldm(name, "--help")[0] == 0


def test_as_a_learner_types_it(tmp_path):
    bad = as_typed("generate", "a mug", "--seed", "-1", cwd=tmp_path)
    assert bad.returncode == 2 and bad.stdout == ""
    assert re.fullmatch(r"ldm: [^\n]*'--seed'[^\n]+\.\n", bad.stderr), bad.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="ldm")
    assert command.value == "ldm_tutorial.lab.cli:main"


@pytest.mark.parametrize("redirect", ["> /dev/full", "2> /dev/full", ">&-", "2>&-", "> out.txt", "| true"])
def test_printing_fails_no_command(tmp_path, redirect):
    command = f"{sys.executable} -m ldm_tutorial.lab.cli generate mug --steps 2 --out tasse-grün.png {redirect}"
    variables = {**environment(), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "tasse-grün.png").exists()
    if redirect == "> out.txt":
        assert (tmp_path / "out.txt").read_text() == "wrote tasse-gr\\xfcn.png\n"


@pytest.mark.parametrize(
    ("limit", "arguments", "named"),
    [
        (4, ["generate", "a mug", *FEW, "--out", "new/a.png"], "'{}/new' (File too large): free some space there, or name"),
        pytest.param(40, ["train", "vae", "--data", "r", *TRIAL], "name another folder with --run", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_refuses_is_named(tmp_path, limit, arguments, named):
    if "r" in arguments:
        assert as_typed("render", "--count", 24, "--out", "r", cwd=tmp_path).returncode == 0
    command = " ".join(f"'{part}'" for part in (sys.executable, "-m", "ldm_tutorial.lab.cli", *arguments))
    variables = {**environment(), "PYTHONPATH": str(ROOT)}
    script = f"ulimit -f {limit}; {command}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 2 and named.format(tmp_path) in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.glob("new/*"))  # nothing half done is left


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare, of util-linux, to be a user without a name and a home")
def test_no_home(tmp_path):
    user = ["unshare", "-U", "--map-user=12345", "--map-group=12345", "env", "-u", "HOME", "-u", "LDM_TUTORIAL_CACHE"]
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process be another user")
    tmp_path.chmod(0o777)
    for arguments in (["generate", "a mug", *FEW], ["render", "--count", "2", "--out", "r"]):
        command = [*user, sys.executable, "-m", "ldm_tutorial.lab.cli", *arguments]
        variables = {**environment(), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0 and "wrote" in done.stdout, done.stderr
    script = "from ldm_tutorial.notebook.doctor import check_kernel; print(check_kernel())"
    done = subprocess.run([*user, sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert "level='warn'" in done.stdout and "export HOME=" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "a mug", "--colour", "red"], ["edit", "a.png", "a", "--seed", "x"]]
)
def test_help_and_wrong_options_come_at_once(tmp_path, arguments):
    import resource

    as_typed("--help", cwd=tmp_path)  # compiles what is not yet compiled
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    as_typed(*arguments, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of a processor: others may be busy
    assert seconds < 1  # usually 0.1 to 0.4; importing torch alone takes more than one


LATER = [pytest.param(seconds, marks=pytest.mark.slow) for seconds in (5, 9)]
# Rendering starts processes where more than one core may compute.
WITH_WORKERS = {**environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
DRAW = ["generate", "a mug", "--engine", "torch", "--steps", "1000"]


@pytest.mark.parametrize("seconds", [0.2, 0.8, 2, *LATER])
@pytest.mark.parametrize("arguments", [DRAW, ["render", "--count", "900", "--out", "r"]], ids=["generate", "render"])
def test_ctrl_c_is_silent(tmp_path, arguments, seconds):
    """As a terminal sends it: to the command and to all that it has started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ldm_tutorial.lab.cli", *arguments],
        cwd=tmp_path,
        env=WITH_WORKERS | {"LDM_TUTORIAL_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=120)
    if "<frozen site>" in said:
        pytest.skip("Python itself had not started yet")
    assert process.returncode == cli.STOPPED and "Traceback" not in said and out == "", said


WHILE_WORKERS_START = """
import contextlib, os, signal, sys
from ldm_tutorial.curios import dataset
from ldm_tutorial.lab import cli
real = dataset._delayed_ctrl_c

@contextlib.contextmanager
def interrupted():
    with real():
        os.killpg(0, signal.SIGINT)
        yield

dataset._delayed_ctrl_c = interrupted
sys.argv = ["ldm", "render", "--count", "900", "--out", "r"]
cli.main()
"""


def test_ctrl_c_while_the_workers_start_is_not_lost(tmp_path):
    """It was ignored at that moment, and 900 pictures were rendered to the end."""
    done = subprocess.run(
        [sys.executable, "-c", WHILE_WORKERS_START],
        cwd=tmp_path,
        env=WITH_WORKERS | {"LDM_TUTORIAL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
    )
    assert done.returncode == cli.STOPPED and "Traceback" not in done.stderr, done.stderr


def test_a_gpu_is_used_where_there_is_one(tiny_folder):
    device = checkpoints.load_models(tiny_folder).device
    assert device.type == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
