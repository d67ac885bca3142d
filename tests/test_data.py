"""A learner's own pictures: everything wrong with them is said at once, and from folder to picture it works."""

import csv
import hashlib
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm_tutorial import cli, data, page
from ldm_tutorial.data import Pictures, to_square
from ldm_tutorial.errors import UserError
from tests.run import ROOT, environment

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "yellow": (230, 210, 50)}


def draw(seed: int, size=(48, 40)) -> tuple[Image.Image, str]:
    """A bar of some colour, lying or standing, somewhere, and its caption."""
    rng = np.random.default_rng(seed)
    colour, lying = list(COLOURS)[rng.integers(4)], bool(rng.integers(2))
    pixels = np.full((size[1], size[0], 3), rng.integers(200, 256), np.uint8)
    x, y = rng.integers(4, 20, 2)
    high, wide = (8, 20) if lying else (20, 8)
    pixels[y : y + high, x : x + wide] = COLOURS[colour]
    return Image.fromarray(pixels), f"a {colour} bar that {'lies' if lying else 'stands'}, number {seed}"


def folder_of(path: Path, n: int = 24, table: str = "csv", start: int = 0) -> Path:
    path.mkdir(parents=True)
    rows = []
    for i in range(start, start + n):
        picture, caption = draw(i)
        picture.save(path / f"{i:03d}.png")
        rows.append({"file_name": f"{i:03d}.png", "text": caption})
    write(path, rows, table)
    return path


def write(path: Path, rows: list[dict], table: str = "csv") -> None:
    if table == "csv":
        with open(path / "metadata.csv", "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        (path / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["csv", "jsonl"])
def test_both_tables_say_the_same(tmp_path, table):
    found = Pictures(folder_of(tmp_path / "in", 40, table), 32, tmp_path / "run", progress=False)
    assert found.images.dtype == torch.uint8 and found.images.shape == (36, 32, 32, 3)
    assert found.validation_images.shape == (4, 32, 32, 3)
    captions = found.captions + found.validation_captions
    assert sorted(captions) == sorted(draw(i)[1] for i in range(40))
    for image, caption in zip(torch.cat([found.images, found.validation_images]), captions, strict=True):
        assert np.array_equal(image.numpy(), to_square(draw(int(caption.split()[-1]))[0], 32))
    assert found.wording(3, None) == found.captions[3] and len(found) == 36


def test_as_datasets_reads_it(tmp_path):
    import datasets

    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder_of(tmp_path / "in")), cache_dir=str(tmp_path / "cache"))
    ours = Pictures(tmp_path / "in", 32, tmp_path / "run", progress=False)
    assert sorted(theirs["train"]["text"]) == sorted(ours.captions + ours.validation_captions)


def test_nested_folders_and_tables(tmp_path):
    folder_of(tmp_path / "in" / "train" / "a", 20)
    folder_of(tmp_path / "in" / "train" / "b" / "c", 10, "jsonl", start=30)
    rows = [{"file_name": f"deep/{i}.png", "text": f"  one\n more {i} "} for i in range(3)]
    (tmp_path / "in" / "deep").mkdir()
    for i in range(3):
        draw(50 + i)[0].save(tmp_path / "in" / "deep" / f"{i}.png")
    write(tmp_path / "in", rows)
    found = Pictures(tmp_path / "in", 32, tmp_path / "run", progress=False)
    captions = found.captions + found.validation_captions
    assert len(captions) == 33 and "one more 2" in captions


def test_the_split(tmp_path):
    folder = folder_of(tmp_path / "in", 60)
    draw(5)[0].save(folder / "017.png")  # two equal pictures are never on two sides
    splits = []
    for seed in (0, 0, 1):
        found = Pictures(folder, 32, tmp_path / "run", seed, progress=False)
        looks = [{x.numpy().tobytes() for x in images} for images in (found.images, found.validation_images)]
        assert not looks[0] & looks[1]
        splits.append(found.validation_captions)
    assert splits[0] == splits[1] != splits[2] and 5 <= len(splits[0]) <= 6


WHITE = 255


def test_every_kind_of_picture(tmp_path):
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 200
    colour = Image.fromarray(np.stack([half, 255 - half, half], 2))

    grey = Image.fromarray(half)
    assert np.array_equal(to_square(grey, 32), np.stack([half] * 3, 2))
    deep = Image.fromarray((half.astype(np.uint16) * 257))  # 16 bit
    deep.save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode.startswith("I") and np.array_equal(to_square(image, 32), np.stack([half] * 3, 2))

    clear = colour.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(half > 0, 255, 0).astype(np.uint8)))
    found = to_square(clear, 32)
    assert (found[:, :16] == WHITE).all() and np.array_equal(found[:, 16:], np.asarray(colour)[:, 16:])
    half_clear = Image.new("LA", (32, 32), (0, 128))
    assert abs(int(to_square(half_clear, 32)[0, 0, 0]) - 127) <= 1

    palette = colour.quantize(4)
    index = palette.getpixel((0, 0))
    palette.save(tmp_path / "palette.png", transparency=index)
    with Image.open(tmp_path / "palette.png") as image:
        assert image.mode == "P"
        found = to_square(image, 32)
    assert (found[:, :16] == WHITE).all() and (found[:, 16:, 1] < 100).all()

    for tag, turned in ((6, Image.Transpose.ROTATE_270), (3, Image.Transpose.ROTATE_180), (2, Image.Transpose.FLIP_LEFT_RIGHT)):
        exif = Image.Exif()
        exif[0x0112] = tag
        colour.save(tmp_path / "turned.png", exif=exif)
        with Image.open(tmp_path / "turned.png") as image:
            assert np.array_equal(to_square(image, 32), np.asarray(colour.transpose(turned))), tag

    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))  # the centre is blue
    assert abs(to_square(wide, 32)[:, 1:-1].astype(int) - (0, 0, 255)).max() < 3
    large = Image.new("RGB", (2000, 1500), (10, 200, 30))
    large.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        assert to_square(image, 16).shape == (16, 16, 3) and abs(to_square(image, 16).astype(int) - (10, 200, 30)).max() < 6
    cmyk = to_square(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), 16)
    assert (cmyk[..., 0] > 200).all() and (cmyk[..., 1:] < 60).all()


# --- faults -----------------------------------------------------------------------------------------------------------


def test_every_fault_at_once(tmp_path, ldm):
    folder = folder_of(tmp_path / "in")
    rows = [{"file_name": f"{i:03d}.png", "text": draw(i)[1]} for i in range(24)]
    (tmp_path / "outside.png").write_bytes((folder / "000.png").read_bytes())
    os.symlink(tmp_path / "outside.png", folder / "link.png")
    (folder / "text.png").write_text("no picture")
    whole = (folder / "001.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (100, 15)).save(folder / "tiny.png")
    rows += [{"file_name": name, "text": "here"} for name in ("../outside.png", "link.png", "text.png", "cut.png", "tiny.png")]
    rows += [{"file_name": f"gone{i}.png", "text": "gone"} for i in range(12)]
    rows += [{"file_name": "./000.png", "text": "again"}, {"file_name": "", "text": "no name"}]
    rows[2]["text"] = " \n "
    write(folder, rows)
    with open(folder / "metadata.csv", "a") as f:
        f.write("003.png,a text, with a comma\n")
    for name, line in {"a": '{"file_name": "x.png"}\nnonsense\n', "b": '{"file_name": "../004.png", "text": 7}\n'}.items():
        (folder / name).mkdir()
        (folder / name / "metadata.jsonl").write_text(line)
    (folder / "c").mkdir()
    (folder / "c" / "metadata.csv").write_text("file,text\nx.png,a thing\n")
    (folder / "d").mkdir()
    (folder / "d" / "metadata.csv").write_bytes("file_name,text\nx.png,caf\xe9\n".encode("latin-1"))

    status, _, said = ldm(
        "train", "all", "--data", folder, "--out", tmp_path / "out", "--run", tmp_path / "run", "--resolution", 32
    )
    lines = [line for line in said.splitlines() if line.startswith(("ldm: ", "- "))]
    assert status == 2 and "Traceback" not in said and lines[0].startswith(f"ldm: '{folder}' has faults; nothing was trained")
    found = dict(line[2:].split(": ", 1) for line in lines[1:])
    gone = ", ".join(f"gone{i}.png" for i in range(10))
    assert found.pop("missing file (12)") == gone + " and 2 more"
    assert found.pop("path that leaves the folder (2)") == "../outside.png, link.png"
    assert "text.png" in (unread := found.pop("picture that can't be read (2)")) and "cut.png" in unread
    assert found.pop("shorter side below 16 pixels, half the resolution (1)") == "tiny.png (100 x 15)"
    assert found.pop("file named twice (2)") == "004.png, ./000.png"
    assert found.pop("empty caption (2)") == "004.png, 002.png"  # the number 7 is no text
    assert found.pop("line without a file's name (1)") == "metadata.csv"
    assert found.pop('line with more fields than columns (put "..." around a text with commas) (1)') == "metadata.csv, line 46"
    assert found.pop("line without text (1)") == "a/metadata.jsonl, line 1 (it has: file_name)"
    assert found.pop("line that is no JSON object (1)") == "a/metadata.jsonl, line 2"
    assert found.pop("table without the column file_name (1)") == "c/metadata.csv (it has: file, text)"
    assert "d/metadata.csv" in found.pop("table that can't be read (it must be UTF-8 text) (1)")
    assert not found
    assert not (tmp_path / "out").exists() and not (tmp_path / "run" / "vae.safetensors").exists()


def test_too_few(tmp_path):
    with pytest.raises(UserError, match=r"fewer than 20 pictures \(1\): 19 listed and found"):
        Pictures(folder_of(tmp_path / "in", 19), 32, tmp_path / "run", progress=False)
    assert len(Pictures(folder_of(tmp_path / "enough", 20), 32, tmp_path / "run", progress=False)) == 16


def test_all_alike(tmp_path):
    folder = folder_of(tmp_path / "in")
    for file in folder.glob("*.png"):
        Image.new("RGB", (40, 40), "red").save(file)
    with pytest.raises(UserError, match="look the same"):
        Pictures(folder, 32, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["all", "--data", "nowhere"], "no folder 'nowhere'.*metadata.csv.*hub:OWNER/NAME"),
        (["all", "--data", "empty"], "'empty' has no captions: put a metadata.csv"),
        (["judge", "--data", "in"], "--data goes with all, vae, clip and unet: 'judge'"),
        (["companions", "--data", "in"], "--data goes with all.*'companions'"),
        (["all", "--resolution", "40"], "--resolution goes with --data"),
        (["all", "--data", "in", "--resolution", "36"], "resolution 36 won't do: give a multiple of 8.*32"),
        (["all", "--data", "in", "--resolution", "8"], "resolution '8' won't do"),
        (["all", "--data", "in", "--accumulate", "0"], "--accumulate '0' won't do"),
        (["all", "--data", "hub:nobody/nothing"], "Can't load the data set 'nobody/nothing' from the hub .*download it"),
    ],
)
def test_one_sentence(ldm, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    folder_of(tmp_path / "in")
    status, _, said = ldm("train", *arguments, "--profile", "quick")
    (line,) = [line for line in said.splitlines() if line]
    assert status == 2 and re.search(sentence, line) and line.endswith(".")


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    import datasets

    made = [draw(i) for i in range(24)]
    table = datasets.Dataset.from_dict({"image": [p for p, _ in made], "text": [t for _, t in made]})
    asked = []

    def load(place, **options):
        asked.append((place, options))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Pictures("hub:a/b@v1", 32, tmp_path / "run", progress=False)
    assert asked == [("a/b", {"split": "train", "revision": "v1"})]
    assert sorted(found.captions + found.validation_captions) == sorted(t for _, t in made)
    again = Pictures("hub:a/b@v1", 32, tmp_path / "run", progress=False)  # later, offline
    assert len(asked) == 1 and torch.equal(again.images, found.images)
    table = table.rename_column("text", "caption")
    with pytest.raises(UserError, match="needs the columns image and text; it has: image, caption"):
        Pictures("hub:a/b", 32, tmp_path / "other", progress=False)


def test_the_emoji_example(tmp_path):
    """From a package like emoji-datasource-twitter's to pictures and captions, with credits beside them."""
    package = tmp_path / "package"
    (package / "img" / "twitter" / "64").mkdir(parents=True)
    entries = []
    for i in range(22):
        draw(i)[0].save(package / "img" / "twitter" / "64" / f"{i}.png")
        entries.append({"name": f"BAR {i}", "short_name": "bar", "image": f"{i}.png", "subcategory": "book-paper"})
    entries = [{**e, "has_img_twitter": i != 3} for i, e in enumerate(entries)] + [
        {"name": None, "short_name": "no_file", "image": "none.png", "subcategory": "x", "has_img_twitter": True}
    ]
    (package / "emoji.json").write_text(json.dumps(entries))
    (package / "package.json").write_text('{"version": "1.2.3"}')
    command = [sys.executable, str(ROOT / "examples" / "emoji.py"), str(package), str(tmp_path / "emoji")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("wrote 21 pictures")
    found = Pictures(tmp_path / "emoji", 32, tmp_path / "run", progress=False)
    captions = found.captions + found.validation_captions
    assert sorted(captions) == sorted(f"bar {i}, book paper" for i in range(22) if i != 3)
    credits = (tmp_path / "emoji" / "CREDITS").read_text()
    assert "CC-BY 4.0" in credits and "1.2.3" in credits
    done = subprocess.run([*command[:2], str(tmp_path), str(tmp_path / "other")], capture_output=True, text=True)
    assert done.returncode == 1 and "is not the unpacked package" in done.stderr


# --- the cache ------------------------------------------------------------------------------------------------------


def test_pictures_are_read_once(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "in")
    first = Pictures(folder, 32, tmp_path / "run", progress=False)
    cache = tmp_path / "run" / "data.safetensors"
    content, real = cache.read_bytes(), data.read_pictures
    monkeypatch.setattr(data, "read_pictures", lambda *_: 1 / 0)
    assert torch.equal(Pictures(folder, 32, tmp_path / "run", progress=False).images, first.images)
    monkeypatch.setattr(data, "read_pictures", real)
    for damage in (content[:1000], b""):
        cache.write_bytes(damage)
        assert torch.equal(Pictures(folder, 32, tmp_path / "run", progress=False).images, first.images)
        assert len(cache.read_bytes()) == len(content)


@pytest.mark.parametrize("change", ["picture", "caption", "one more", "resolution"])
def test_a_run_refuses_other_data(tmp_path, change):
    folder, run = folder_of(tmp_path / "in"), tmp_path / "run"
    digest = Pictures(folder, 32, run, progress=False).digest
    rows = [{"file_name": f"{i:03d}.png", "text": draw(i)[1]} for i in range(24)]
    if change == "picture":
        draw(99)[0].save(folder / "007.png")
    elif change == "caption":
        rows[7]["text"] = "something else"
        write(folder, rows)
    elif change == "one more":
        draw(99)[0].save(folder / "024.png")
        write(folder, [*rows, {"file_name": "024.png", "text": "one more"}])
    side = 40 if change == "resolution" else 32
    assert Pictures(folder, side, run, progress=False).digest != digest  # nothing was trained yet
    (run / "vae.safetensors").touch()
    before = (run / "data.safetensors").read_bytes()
    folder_of(tmp_path / "first")
    with pytest.raises(UserError, match="begun with other pictures.*--run") as error:
        Pictures(tmp_path / "first", 32, run, progress=False)
    assert "\n" not in str(error.value) and (run / "data.safetensors").read_bytes() == before


def test_a_copied_folder_is_the_same_data(tmp_path):
    digest = Pictures(folder_of(tmp_path / "in"), 32, tmp_path / "run", progress=False).digest
    (tmp_path / "run" / "vae.safetensors").touch()
    time.sleep(0.01)
    assert Pictures(folder_of(tmp_path / "copy"), 32, tmp_path / "run", progress=False).digest == digest


# --- from folder to picture -------------------------------------------------------------------------------------------

PLAIN = """
import sys
sys.modules["ldm_tutorial"] = None
import torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(1)
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
print(pipe("a red bar that lies", num_inference_steps=2).images[0].size)
"""


def command(folder: Path, side: int, run: Path, out: Path) -> list[str]:
    few = ["--profile", "quick", "--scale", "0.002", "--resolution", side, "--run", run, "--out", out]
    return list(map(str, ["train", "all", "--data", folder, *few]))


def begin(arguments: list[str], *launcher: str) -> subprocess.Popen:
    variables = {**environment(), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *launcher, "-m", "ldm_tutorial.cli", *arguments], cwd=ROOT, env=variables, **pipes)


@pytest.fixture(scope="module", params=[16, 24])
def trained(request, tmp_path_factory):
    """(folder of pictures, run, model, side) after `ldm train all --data`."""
    place = tmp_path_factory.mktemp(f"own{request.param}")
    folder = folder_of(place / "pictures", 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ldm", *command(folder, request.param, place / "run", place / "model")])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return folder, place / "run", place / "model", request.param


@pytest.mark.parametrize("trained", [24], indirect=True)
def test_plain_diffusers_draws(trained, tmp_path):
    _, _, model, side = trained
    done = subprocess.run([sys.executable, "-c", PLAIN, str(model)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f"({side}, {side})", done.stderr


def test_generate(trained, ldm, tmp_path):
    _, _, model, side = trained
    status, _, said = ldm("generate", "a red bar", "--model", model, "--steps", 2, "--out", tmp_path / "bar.png")
    assert status == 0 and "no picture for" not in said  # that is about Curios
    assert Image.open(tmp_path / "bar.png").size == (side, side)


def test_the_page_holds_the_numbers(trained):
    folder, run, model, side = trained
    found = json.loads((model / "evaluation.json").read_text())
    text = (model / "evaluation.html").read_text(encoding="utf-8")
    assert found["data"]["learned"] == 20 and found["data"]["aside"] == 4 and found["data"]["resolution"] == side
    for key in page.ROWS:
        assert f"<td class=number>{page.shown(key, found)}</td>" in text, key
    assert found["frechet_real"] is None and "needs 64 pictures kept aside" in text  # four pictures tell nothing
    assert found["top1_chance"]["value"] == 1 / 4 and found["psnr_aside"]["n"] == 4
    images = re.findall(r"<img ([^>]*)>", text)
    assert len(images) >= 4 * 2 + 4 * 5 and all(re.match(r'alt="[^"]+" src="data:image/png;base64,', i) for i in images)
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and str(folder.parent) not in text
    aside = Pictures(folder, side, run, progress=False).validation_captions
    assert all(html.escape(c) in text for c in aside)


def test_the_reconstruction_is_measured_on_what_was_kept_aside(trained):
    from ldm_tutorial.models import load_models

    folder, run, model, side = trained
    images = Pictures(folder, side, run, progress=False).validation_images
    models = load_models(model, "cpu")
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    error = ((models.decode(models.encode(x)).clamp(-1, 1) - x) / 2).square().flatten(1).mean(1)
    wanted = (-10 * error.log10()).mean().item()
    assert json.loads((model / "evaluation.json").read_text())["psnr_aside"]["value"] == pytest.approx(wanted, abs=0.05)


def digests(model: Path) -> dict[str, str]:
    return {
        p.relative_to(model).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in model.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("trained", [16], indirect=True)
def test_killed_and_resumed_is_as_undisturbed(trained, ldm, tmp_path):
    folder, _, model, side = trained
    again = command(folder, side, tmp_path / "run", tmp_path / "model")
    victim = begin(again)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (tmp_path / "run" / "clip.safetensors").exists():
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)  # somewhere after CLIP
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()
    status, _, said = ldm(*again)
    assert status == 0, said
    ours, theirs = digests(tmp_path / "model"), digests(model)
    assert ours == theirs  # bit for bit, the page too


@pytest.mark.parametrize("trained", [16], indirect=True)
def test_under_accelerate_launch(trained, tmp_path, monkeypatch):
    """The same command, two processes, each batch in two parts: the losses of one process in the same precision."""
    folder, _, _, side = trained
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as the launcher is told: CPUs may compute in bfloat16 otherwise
    run, alone = tmp_path / "alone", begin(command(folder, side, tmp_path / "alone", tmp_path / "other"))
    said = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, said
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = begin([*command(folder, side, tmp_path / "run", tmp_path / "model"), "--accumulate", "2"], *launcher)
    said = done.communicate(timeout=300)[0]
    assert done.returncode == 0, said
    assert said.count("wrote ") == 1
    for part in ("vae", "clip", "unet"):
        one, two = (load_file(where / f"{part}.safetensors")["losses"] for where in (run, tmp_path / "run"))
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)
    assert (tmp_path / "model" / "evaluation.html").exists()
