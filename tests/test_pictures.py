"""A learner's own pictures: whatever Pillow opens is a value or a sentence, everything wrong with a folder is said at once, and
from folder to picture it works."""

import csv
import hashlib
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from ldm_tutorial.errors import UserError
from ldm_tutorial.lab import page, pictures
from ldm_tutorial.lab.pictures import Pictures
from ldm_tutorial.notebook.picture_files import load_picture, read_picture, to_square
from ldm_tutorial.notebook.picture_tables import MISSING, folder_rows
from ldm_tutorial.storage.about import read_about
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


def folder_of(path: Path, n: int = 24, table: str = "csv", start: int = 0, text=None) -> Path:
    path.mkdir(parents=True)
    rows = []
    for i in range(start, start + n):
        picture, caption = draw(i)
        picture.save(path / f"{i:03d}.png")
        rows.append({"file_name": f"{i:03d}.png", "text": text(i) if text else caption})
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


def captions_of(folder: Path) -> dict[str, list[str]]:
    """{name: captions} as read, where nothing is wrong."""
    found = folder_rows(folder)
    assert not found.faults, str(found.faults)
    return {row.name: row.captions for row in found.rows}


@pytest.fixture
def never_waits():
    """A test that waits for what never comes fails."""

    def late(*_):
        raise BaseException("it waits")  # an Exception would be taken for a damaged file

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- every kind of picture --------------------------------------------------------------------------------------------

SIDE = 32
HALVES = np.full((SIDE, SIDE), 51, np.uint8)  # the left half dark, the right half light
HALVES[:, SIDE // 2 :] = 204
GREY = Image.fromarray(HALVES)
RGB = GREY.convert("RGB")
LEFT_CLEAR = Image.fromarray(np.where(HALVES > 128, 255, 0).astype(np.uint8))  # an alpha channel


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(LEFT_CLEAR)
    return image


def palette() -> Image.Image:
    return RGB.quantize(4)


def turned(tag: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = tag
    return {"exif": exif}


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def lab() -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(RGB, srgb, lab, outputMode="LAB")


def large_text() -> dict:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3 * 2**20, zip=True)
    return {"pnginfo": info}


def too_much_text() -> dict:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 65 * 2**20, zip=True)
    return {"pnginfo": info}


# name: (image, format, options of save, grey of the left half and of the right as a picture); as a mask, what is clear stays
KINDS = {
    "1": (GREY.point(lambda v: 255 * (v > 128), "1"), "PNG", {}, (0, 255)),
    "L": (GREY, "PNG", {}, (51, 204)),
    "LA": (with_alpha(GREY), "PNG", {}, (255, 204)),
    "P": (palette(), "PNG", {}, (51, 204)),
    "P, one colour clear": (palette(), "PNG", {"transparency": palette().getpixel((0, 0))}, (255, 204)),
    "RGB": (RGB, "BMP", {}, (51, 204)),
    "RGB, one colour clear": (RGB, "PNG", {"transparency": (51, 51, 51)}, (255, 204)),
    "RGBA": (with_alpha(RGB), "PNG", {}, (255, 204)),
    "RGBA, WebP": (with_alpha(RGB), "WEBP", {"lossless": True}, (255, 204)),
    "YCbCr, JPEG": (RGB.convert("YCbCr"), "JPEG", {"quality": 95}, (51, 204)),
    "CMYK, TIFF": (RGB.convert("CMYK"), "TIFF", {}, (51, 204)),
    "CMYK, JPEG": (RGB.convert("CMYK"), "JPEG", {"quality": 95}, (51, 204)),
    "LAB": (lab(), "TIFF", {}, (51, 204)),
    "16 bit, PNG": (Image.fromarray(HALVES.astype(np.uint16) * 257), "PNG", {}, (51, 204)),
    "16 bit, TIFF": (Image.fromarray((HALVES.astype(np.uint16) * 257).astype(">u2")), "TIFF", {}, (51, 204)),
    "16 bit, PPM": (Image.fromarray(HALVES.astype(np.int32) * 257), "PPM", {}, (51, 204)),
    "32 bit, small numbers": (Image.fromarray(HALVES.astype(np.int32) * 257), "TIFF", {}, (51, 204)),
    "32 bit, large numbers": (Image.fromarray(HALVES.astype(np.int32) * 2**20), "TIFF", {}, "32-bit numbers"),
    "floating point": (Image.fromarray(HALVES.astype(np.float32) / 255), "TIFF", {}, "floating-point numbers"),
    "GIF, animated": (GREY, "GIF", {"save_all": True, "append_images": [Image.new("L", (SIDE, SIDE))]}, (51, 204)),
    "PNG, animated": (RGB, "PNG", {"save_all": True, "append_images": [Image.new("RGB", (SIDE, SIDE))]}, (51, 204)),
    "WebP, animated": (RGB, "WEBP", {"save_all": True, "append_images": [RGB.rotate(90)], "lossless": True}, (51, 204)),
    "TIFF, two pages": (RGB, "TIFF", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, (51, 204)),
    "EXIF 2": (RGB, "JPEG", {**turned(2), "quality": 95}, (204, 51)),
    "EXIF 0, which does not exist": (RGB, "PNG", turned(0), (51, 204)),
    "EXIF 3": (RGB, "TIFF", turned(3), (204, 51)),
    "EXIF of rubbish": (RGB, "JPEG", {"exif": b"Exif\0\0b'Exif\\x00\\x00MM", "quality": 95}, (51, 204)),
    "colour profile of rubbish": (RGB, "PNG", {"icc_profile": b"no profile"}, (51, 204)),
    "colour profile sRGB": (RGB, "PNG", {"icc_profile": SRGB}, (51, 204)),
    "3 MB of text": (RGB, "PNG", large_text(), (51, 204)),
    "65 MB of text": (RGB, "PNG", too_much_text(), "exceed 64 MB"),
    "3 MB of colour profile": (RGB, "PNG", {"icc_profile": b"CMYK" * 750_000}, (51, 204)),
    "one pixel": (Image.new("RGB", (1, 1), (204, 204, 204)), "PNG", {}, (204, 204)),
    "a strip": (Image.new("L", (2000, 40), 204), "PNG", {}, (204, 204)),
    "a bomb": (Image.new("1", (20_000, 9_500)), "PNG", {}, "exceeds limit"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_as_picture_and_as_mask(tmp_path, kind):
    image, form, options, expected = KINDS[kind]
    path = tmp_path / f"a.{form.lower()}"
    image.save(path, form, **options)
    if isinstance(expected, str):  # the same reason for both
        with pytest.raises(UserError, match=rf"The picture '{path}' can't be read: .*{expected}.*\.$"):
            read_picture(path, SIDE)
        Image.new("RGB", image.size if image.width < 99 else (8, 8)).save(tmp_path / "whole.png")
        with pytest.raises(UserError, match=rf"The mask '{path}' can't be read: .*{expected}.*\.$"):
            read_picture(tmp_path / "whole.png", SIDE, path)
        return
    for found in (read_picture(path, SIDE)[0], np.asarray(to_square(load_picture(path, side=SIDE), SIDE))):
        assert found.shape == (SIDE, SIDE, 3) and found.dtype == np.uint8
        inner = np.delete(found.astype(int), range(12, 20), 1)  # JPEG blurs the middle
        left, right = inner[:, :12], inner[:, 12:]
        assert abs(left - expected[0]).max() <= 3 and abs(right - expected[1]).max() <= 3, (left[0, 0], right[0, -1])
    Image.new("RGB", image.size).save(tmp_path / "whole.png")
    mask = read_picture(tmp_path / "whole.png", SIDE, path)[1]
    changes = [value > 128 for value in expected]
    if expected[0] == 255 and kind != "1":  # clear in a mask means: leave it
        changes[0] = False
    assert mask.dtype == bool and mask[:, :12].all() == changes[0] and mask[:, 20:].all() == changes[1]


def test_long_texts_leave_pillows_own_limit_as_it_was(tmp_path):
    for name in ("3 MB of text", "65 MB of text"):
        image, form, options, _ = KINDS[name]
        image.save(tmp_path / name, form, **options)
    limit = PngImagePlugin.MAX_TEXT_CHUNK
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(load_picture, [tmp_path / "3 MB of text"] * 12))) == 12
    with pytest.raises(UserError, match="exceed 64 MB"):
        load_picture(tmp_path / "65 MB of text")
    assert limit == PngImagePlugin.MAX_TEXT_CHUNK < 2 * 2**20


def test_pipes_in_the_place_of_files(tmp_path, ldm, never_waits):
    os.mkfifo(tmp_path / "pipe.png")
    RGB.save(tmp_path / "a.png")
    edit = ["edit", tmp_path / "a.png", "a mug", "--steps", 1, "--strength", 1]
    status, _, said = ldm("edit", tmp_path / "pipe.png", *edit[2:], "--out", tmp_path / "b.png")
    assert status == 2 and "pipe.png' can't be read: it is a folder, a pipe or a device, not a file." in said
    status, _, said = ldm(*edit, "--mask", tmp_path / "pipe.png", "--out", tmp_path / "b.png")
    assert status == 2 and "The mask" in said and "it is a folder, a pipe or a device, not a file." in said
    status, _, said = ldm(*edit, "--out", tmp_path / "pipe.png")
    assert status == 2 and "pipe.png' is a pipe or a device, not a file: name a file." in said
    folder = folder_of(tmp_path / "in")
    (folder / "metadata.csv").unlink()
    os.mkfifo(folder / "metadata.csv")
    status, _, said = ldm("train", "all", "--data", folder, "--profile", "quick", "--run", tmp_path / "run")
    assert status == 2 and "in' has no captions: put a metadata.csv" in said


def test_every_orientation(tmp_path):
    corner = RGB.copy()
    corner.paste("red", (0, 0, 8, 4))
    T = Image.Transpose
    as_stored = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    for form in ("PNG", "TIFF"):
        corner.save(tmp_path / "a", form, **turned(1))
        assert np.array_equal(load_picture(tmp_path / "a"), corner)
        for tag, change in as_stored.items():
            corner.transpose(change).save(tmp_path / "a", form, **turned(tag))
            assert np.array_equal(load_picture(tmp_path / "a"), corner), (form, tag)


def test_a_picture_is_turned_where_another_of_its_tags_is_odd(tmp_path, monkeypatch):
    RGB.save(tmp_path / "a.jpg", **turned(3), quality=95)

    def refuse(self, *_):
        raise ValueError("an odd tag can't be written again")

    monkeypatch.setattr(Image.Exif, "tobytes", refuse)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert to_square(stored, SIDE)[0, 0, 0] > 150, "light on the left"
        assert stored.getpixel((0, 0))[0] < 100, "the given picture is as it was"


def test_a_colour_profile_is_applied(tmp_path):
    # sRGB with red and blue exchanged: what is stored as red is meant to be blue
    exchanged = SRGB.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (8, 8), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=exchanged)
        found = np.asarray(load_picture(tmp_path / "a.png"))[0, 0]
        assert found[2] > 200 and found[0] < 100, found


WHOLE = io.BytesIO()
RGB.resize((200, 200)).save(WHOLE, "JPEG")
DAMAGED = {
    "text.png": (b"no picture", "none of the formats PNG, JPEG"),
    "empty.jpg": (b"", "none of the formats"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "none of the formats"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of the formats"),
    "cut.jpg": (WHOLE.getvalue()[:700], "truncated"),
}


def test_one_reason_for_all_commands(tmp_path):
    """What training says of a file that is no picture, editing says too; an upload, which is a file in memory, as well."""
    folder = folder_of(tmp_path / "in")
    rows = [{"file_name": f"{i:03d}.png", "text": draw(i)[1]} for i in range(24)]
    for name, (content, _) in DAMAGED.items():
        (folder / name).write_bytes(content)
    KINDS["floating point"][0].save(folder / "float.tif")
    names = [*DAMAGED, "float.tif"]
    write(folder, [*rows, *({"file_name": name, "text": "here"} for name in names)])
    with pytest.raises(UserError) as error:
        Pictures(folder, 32, tmp_path / "run", progress=False)
    (line,) = [line for line in str(error.value).splitlines() if line.startswith("- picture that can't be read (6): ")]
    for name in names:
        with pytest.raises(UserError) as error:
            read_picture(folder / name, 32)
        sentence = str(error.value)
        assert sentence.startswith(f"The picture '{folder / name}' can't be read: ") and "\n" not in sentence
        reason = sentence.split("can't be read: ")[1].rstrip(".")
        assert f"{name} ({reason})" in line
        assert DAMAGED.get(name, (b"", "floating-point"))[1] in reason
        with pytest.raises(UserError) as error:
            load_picture(io.BytesIO((folder / name).read_bytes()))
        assert str(error.value) == reason


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["csv", "jsonl"])
def test_both_tables_say_the_same(tmp_path, table):
    found = Pictures(folder_of(tmp_path / "in", 40, table), 32, tmp_path / "run", progress=False)
    assert found.images.dtype == torch.uint8 and found.images.shape == (36, 32, 32, 3)
    assert found.validation_images.shape == (4, 32, 32, 3)
    captions = found.captions + found.validation_captions
    assert sorted(captions) == sorted(draw(i)[1] for i in range(40))
    for image, caption in zip(torch.cat([found.images, found.validation_images]), captions, strict=True):
        assert np.array_equal(image.numpy(), to_square(draw(int(caption.split()[-1]))[0], 32))
    assert found.wording(3, None) == found.captions[3] and len(found) == 36 and not found.notes


def test_as_datasets_reads_it_and_where_datasets_would_change_it(tmp_path):
    import datasets

    def theirs(name: str) -> list:
        data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        return data["train"]["text"][:]

    def ours(name: str) -> list[str]:
        return [texts[0] for texts in captions_of(tmp_path / name).values()]

    folder_of(tmp_path / "same")
    assert sorted(theirs("same")) == sorted(ours("same"))
    folder_of(tmp_path / "digits", 3, text=lambda i: f"00{i}")
    assert theirs("digits") == [0, 1, 2] and ours("digits") == ["000", "001", "002"]
    folder_of(tmp_path / "holes", 3, text=lambda i: ["NA", "null", "a mug"][i])
    assert theirs("holes") == [None, None, "a mug"] and ours("holes") == ["NA", "null", "a mug"]


def test_nested_folders_and_tables(tmp_path):
    folder_of(tmp_path / "in" / "train" / "a", 20)
    folder_of(tmp_path / "in" / "train" / "b" / "c", 10, "jsonl", start=30)
    (tmp_path / "in" / "deep").mkdir()
    for i in range(3):
        draw(50 + i)[0].save(tmp_path / "in" / "deep" / f"{i}.png")
    write(tmp_path / "in", [{"file_name": f"deep/{i}.png", "text": f"  one  more {i} "} for i in range(3)])
    found = Pictures(tmp_path / "in", 32, tmp_path / "run", progress=False)
    captions = found.captions + found.validation_captions
    assert len(captions) == 33 and "one more 2" in captions


def test_several_captions_are_all_used(tmp_path):
    rows = [
        {"file_name": "000.png", "text": ["a red square", "a square, red", "a red square"]},
        {"file_name": "001.png", "text": "one"},
    ]
    folder = folder_of(tmp_path / "in", 22, "jsonl")
    rows += [{"file_name": f"{i:03d}.png", "text": [f"bar {i}", f"number {i}"]} for i in range(2, 22)]
    rows += [{"file_name": "001.png", "text": "two"}]  # a second line about the same picture
    write(folder, rows, "jsonl")
    assert captions_of(folder)["000.png"] == ["a red square", "a square, red"]
    assert captions_of(folder)["001.png"] == ["one", "two"]
    found = Pictures(folder, 32, tmp_path / "run", progress=False)
    import random

    i = next(i for i, texts in enumerate(found.wordings) if len(texts) == 2)
    assert {found.wording(i, random.Random(k)) for k in range(20)} == set(found.wordings[i])


def test_captions_that_are_numbers_or_hold_line_breaks(tmp_path):
    folder = folder_of(tmp_path / "in", 20, "jsonl", text=lambda i: i % 10)
    assert captions_of(folder)["013.png"] == ["3"]
    write(folder, [{"file_name": "000.png", "text": "\ufeffa gold\u00aden\u200b mug"}], "jsonl")
    assert captions_of(folder)["000.png"] == ["a golden mug"]
    write(folder, [{"file_name": f"{i:03d}.png", "text": f"two\nlines {i}\u2028"} for i in range(20)], "jsonl")
    found = Pictures(folder, 32, tmp_path / "run", progress=False)
    assert "two lines 7" in found.captions + found.validation_captions
    assert "caption that holds a line break, read as a space (20): 000.png, 001.png" in str(found.notes)


def test_a_quote_that_is_never_closed(tmp_path):
    folder = folder_of(tmp_path / "in", 60, text=lambda i: f"a red square number {i}")
    lines = (folder / "metadata.csv").read_text().splitlines()
    lines[10] = '009.png,"wide screen, new'
    lines[40] = '039.png,"flat" screen'
    (folder / "metadata.csv").write_text("\n".join(lines))
    found = folder_rows(folder)
    ((kind, places),) = found.faults.items()
    assert kind.startswith('line with a quote, ", that is never closed')
    assert places == ["metadata.csv, line 11", "metadata.csv, line 41"], "the lines between are read"
    assert found.notes == {"picture that no line of a table names, left out": ["009.png", "039.png"]}


def test_pictures_that_no_line_names_are_named(tmp_path, ldm):
    folder = folder_of(tmp_path / "in")
    (folder / "._000.png").write_bytes(b"hidden: not meant to be seen")
    (folder / "readme.txt").write_text("no picture")
    draw(99)[0].save(folder / "more.webp")
    found = Pictures(folder, 32, tmp_path / "run", progress=False)
    assert found.notes == {"picture that no line of a table names, left out": ["more.webp"]}
    again = Pictures(folder, 32, tmp_path / "run", progress=False)  # from the run's copy
    assert again.notes == found.notes


def test_tables_of_other_names_and_kinds(tmp_path):
    folder = folder_of(tmp_path / "in", 4)
    table = (folder / "metadata.csv").read_text()
    for given in (folder / "metadata.csv", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="There is no folder"):
            folder_rows(given)
    for head in ("file_name, text", '"file_name", "text"'):
        (folder / "metadata.csv").write_text(table.replace("file_name,text", head), encoding="utf-8-sig")
        assert len(captions_of(folder)) == 4
    os.rename(folder / "metadata.csv", folder / "metadata1000.csv")
    with pytest.raises(UserError, match=r"has no captions: put a metadata.csv .* \(or a metadata.jsonl\)\."):
        folder_rows(folder)


def test_what_is_called_a_picture_and_is_none(tmp_path):
    folder = folder_of(tmp_path / "in", 4)
    (folder / "000.png").unlink()
    (folder / "000.png").mkdir()
    (folder / "001.png").unlink()
    os.mkfifo(folder / "001.png")
    os.rename(folder / "003.png", folder / "train.png")
    found = folder_rows(folder)
    assert found.faults == {MISSING: [f"'{i:03d}.png' (metadata.csv, line {i + 2})" for i in (0, 1, 3)]}
    assert found.notes == {"picture that no line of a table names, left out": ["train.png"]}


def test_names_in_other_forms(tmp_path):
    folder = folder_of(tmp_path / "in", 4)
    os.rename(folder / "000.png", folder / unicodedata.normalize("NFD", "café.png"))
    os.rename(folder / "001.png", folder / unicodedata.normalize("NFC", "größe.png"))
    (folder / "sub").mkdir()
    os.rename(folder / "002.png", folder / "sub" / "..two.png")
    names = [
        unicodedata.normalize("NFC", "café.png"),
        unicodedata.normalize("NFD", "größe.png"),
        "sub\\..two.png",
        "./sub/../003.png",
    ]
    write(folder, [{"file_name": name, "text": f"text {i}"} for i, name in enumerate(names)])
    assert sorted(texts[0] for texts in captions_of(folder).values()) == ["text 0", "text 1", "text 2", "text 3"]


def test_links_are_followed(tmp_path):
    originals = folder_of(tmp_path / "originals")
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in originals.iterdir():  # as a person links them
        (linked / file.name).symlink_to(file)
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "0123", tmp_path / "hub" / "blobs"  # as the hub's cache holds them
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(originals.iterdir()):
        (blobs / str(i)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "part").symlink_to(originals)  # a folder with a table of its own
    for name in ("round", "and round"):  # each link doubles the paths at every level, if a folder is entered twice
        (outer / name).symlink_to(outer)
    for folder in (linked, snapshot, outer):
        assert len(captions_of(folder)) == 24
    (linked / "000.png").unlink()
    (linked / "000.png").symlink_to("nowhere")
    assert folder_rows(linked).faults == {MISSING: ["'000.png' (metadata.csv, line 2)"]}


def test_every_fault_at_once(tmp_path, ldm):
    folder = folder_of(tmp_path / "in")
    rows = [{"file_name": f"{i:03d}.png", "text": draw(i)[1]} for i in range(24)]
    (tmp_path / "outside.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "text.png").write_text("no picture")
    whole = (folder / "001.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (100, 15)).save(folder / "tiny.png")
    rows += [{"file_name": name, "text": "here"} for name in ("../outside.png", "text.png", "cut.png", "tiny.png")]
    rows += [{"file_name": f"gone{i}.png", "text": "gone"} for i in range(12)]
    rows += [
        {"file_name": "", "text": "no name"},
        {"file_name": "new\nline.png", "text": "here"},
        {"file_name": "\0", "text": "here"},
    ]
    rows[2]["text"] = "  "
    write(folder, rows)
    with open(folder / "metadata.csv", "a") as f:
        f.write("003.png,a text, with a comma\n")
    lines = {
        "a": '{"file_name": "x.png"}\nnonsense\n7\n',
        "b": '{"file_name": "../004.png", "text": true}\n{"file_name": "../005.png", "text": "half \\ud83d"}\n'
        '{"file_name": "../006.png", "text": null}\n{"file_name": "../007.png", "text": []}\n{"file_name": 8, "text": "8"}\n',
    }
    for name, line in lines.items():
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
    missing = found.pop(f"{MISSING} (14)")
    assert missing.startswith("'gone0.png' (metadata.csv, line 30)") and missing.rstrip(".").endswith(" and 4 more")
    assert found.pop("path that leaves the folder (1)") == "'../outside.png' (metadata.csv, line 26)"
    assert "text.png" in (unread := found.pop("picture that can't be read (2)")) and "cut.png" in unread
    assert found.pop("shorter side below 16 pixels, half the resolution (1)") == "tiny.png (100 x 15)."
    assert found.pop("empty caption (2)") == "006.png, 002.png"
    assert found.pop("caption that is no text (2)") == "004.png (it is: True), 007.png (it is: [])"
    assert found.pop("caption with half a character, as of an emoji cut in two (1)") == r"005.png ('half \ud83d')"
    assert found.pop("line without a file's name (2)") == "b/metadata.jsonl, line 5, metadata.csv, line 42"
    assert found.pop('line with more fields than columns (put "..." around a text with commas) (1)') == "metadata.csv, line 46"
    broken = 'line with a quote, ", that is never closed, or not doubled inside a text in quotes (1)'
    assert found.pop(broken) == "metadata.csv, line 43"  # a line break inside a field; what follows it is read as a line
    assert found.pop("no column text (1)") == "a/metadata.jsonl, line 1 (it has: file_name)"
    assert found.pop("line that is no JSON object (2)") == "a/metadata.jsonl, line 2, a/metadata.jsonl, line 3"
    assert found.pop("no column file_name (1)") == "c/metadata.csv, line 2 (it has: file, text)"
    assert "d/metadata.csv ('utf-8' codec can't decode byte 0xe9" in found.pop("table that can't be read (1)")
    assert not found
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


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


def test_too_few_or_all_alike(tmp_path):
    with pytest.raises(UserError, match=r"fewer than 20 pictures \(1\): 19 listed and found"):
        Pictures(folder_of(tmp_path / "in", 19), 32, tmp_path / "run", progress=False)
    folder = folder_of(tmp_path / "enough", 20)
    assert len(Pictures(folder, 32, tmp_path / "run", progress=False)) == 16
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
        (["baselines", "--data", "in"], "--data goes with all.*'baselines'"),
        (["all", "--resolution", "40"], "--resolution goes with --data"),
        (["all", "--data", "in", "--resolution", "36"], "--resolution must be a multiple of 8, for example 32, not 36"),
        (["all", "--data", "in", "--resolution", "8"], "'--resolution'.* 16"),
        (["all", "--data", "in", "--accumulate", "0"], "'--accumulate'.* 1"),
        (["all", "--data", "hub:nobody/nothing"], "Can't load the data set 'nobody/nothing' from the hub .*download it"),
    ],
)
def test_one_sentence(ldm, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    folder_of(tmp_path / "in", 1)
    status, _, said = ldm("train", *arguments, "--profile", "quick")
    (line,) = [line for line in said.splitlines() if line]
    assert status == 2 and re.search(sentence, line) and line.endswith(".")


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    import datasets

    made = [draw(i) for i in range(24)]
    texts = [[text, "a bar"] for _, text in made]
    table = datasets.Dataset.from_dict({"image": [p for p, _ in made], "text": texts}).cast_column("image", datasets.Image())
    asked = []

    def load(place, **options):
        asked.append((place, options))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Pictures("hub:a/b@v1", 32, tmp_path / "run", progress=False)
    assert asked == [("a/b", {"split": "train", "revision": "v1"})]
    assert sorted(found.captions + found.validation_captions) == sorted(t for _, t in made)
    assert all(len(texts) == 2 for texts in found.wordings)
    number = int(found.captions[0].split()[-1])
    assert np.array_equal(found.images[0], to_square(made[number][0], 32))
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
    found = captions_of(tmp_path / "emoji")
    assert sorted(texts[0] for texts in found.values()) == sorted(f"bar {i}, book paper" for i in range(22) if i != 3)
    credits = (tmp_path / "emoji" / "CREDITS").read_text()
    assert "CC-BY 4.0" in credits and "1.2.3" in credits
    done = subprocess.run([*command[:2], str(tmp_path), str(tmp_path / "other")], capture_output=True, text=True)
    assert done.returncode == 1 and "is not the unpacked package" in done.stderr


# --- the run's copy ---------------------------------------------------------------------------------------------------


def test_pictures_are_read_once(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "in")
    first = Pictures(folder, 32, tmp_path / "run", progress=False)
    copy = tmp_path / "run" / "data.safetensors"
    content, real = copy.read_bytes(), pictures.read_pictures
    monkeypatch.setattr(pictures, "read_pictures", lambda *_: 1 / 0)
    assert torch.equal(Pictures(folder, 32, tmp_path / "run", progress=False).images, first.images)
    monkeypatch.setattr(pictures, "read_pictures", real)
    for damage in (content[:1000], b""):
        copy.write_bytes(damage)
        assert torch.equal(Pictures(folder, 32, tmp_path / "run", progress=False).images, first.images)
        assert len(copy.read_bytes()) == len(content)


@pytest.mark.parametrize("change", ["picture", "caption", "one more", "resolution", "nothing"])
def test_other_data_is_seen(tmp_path, change):
    folder, run = folder_of(tmp_path / "in"), tmp_path / "run"
    before = Pictures(folder, 32, run, progress=False).fingerprint
    rows = [{"file_name": f"{i:03d}.png", "text": draw(i)[1]} for i in range(24)]
    if change == "picture":
        draw(99)[0].save(folder / "007.png")
    elif change == "caption":
        rows[7]["text"] = "something else"
        write(folder, rows)
    elif change == "one more":
        draw(99)[0].save(folder / "024.png")
        write(folder, [*rows, {"file_name": "024.png", "text": "one more"}])
    elif change == "nothing":  # a copy of the folder is the same data
        folder = folder_of(tmp_path / "copy")
    after = Pictures(folder, 40 if change == "resolution" else 32, run, progress=False).fingerprint
    assert (after == before) == (change == "nothing")


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


def command(folder: Path, run: Path, out: Path, side: int = 16) -> list[str]:
    few = ["--profile", "quick", "--scale", "0.0004", "--resolution", side, "--run", run, "--out", out]
    return list(map(str, ["train", "all", "--data", folder, *few]))


def begin(arguments: list[str], *launcher: str) -> subprocess.Popen:
    variables = {**environment(), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    module = ["-m", "ldm_tutorial.lab.cli"]
    return subprocess.Popen([sys.executable, *launcher, *module, *arguments], cwd=ROOT, env=variables, **pipes)


def run_ldm(*arguments) -> None:
    """A command in this process, which must succeed."""
    from ldm_tutorial.lab import cli

    assert cli.run([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of pictures, run, model) after `ldm train all --data`."""
    place = tmp_path_factory.mktemp("own")
    folder = folder_of(place / "pictures", 24)
    run_ldm(*command(folder, place / "run", place / "model"))
    return folder, place / "run", place / "model"


@pytest.mark.slow
def test_plain_diffusers_draws(trained, tmp_path):
    done = subprocess.run([sys.executable, "-c", PLAIN, str(trained[2])], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "(16, 16)", done.stderr


def test_the_model_says_what_it_is(trained, ldm, tmp_path):
    folder, _, model = trained
    about = read_about(model)
    assert (about.kind, about.scripts, about.resolution) == ("own pictures", ("Latin", "digits"), 16)
    assert about.example in [draw(i)[1] for i in range(24)] and about.data
    out = tmp_path / "bar.png"
    status, _, said = ldm("generate", "a red bar", "--model", model, "--steps", 2, "--out", out)
    assert status == 0 and "Curios has nothing called" not in said  # that is about Curios
    assert Image.open(out).size == (16, 16)
    status, _, said = ldm("generate", "кресло", "--model", model, "--steps", 2, "--out", out)
    assert status == 2 and f"taught to read (Latin and digits): try {about.example!r}" in said
    status, _, said = ldm("edit", out, "a blue bar", "--model", model, "--steps", 2, "--out", tmp_path / "b.png")
    assert status == 0 and "Curios has nothing called" not in said


def test_it_is_not_measured_as_if_it_were_curios(trained, ldm, tmp_path):
    folder, _, model = trained
    status, _, said = ldm("evaluate", "--model", model)
    assert status == 2 and "pictures of one's own: name them with --data" in said and "evaluation.html" in said
    status, _, said = ldm("evaluate", "--model", model, "--data", folder, "--engine", "onnx")  # it was not exported
    assert status == 2 and "can't be run by the engine" in said and "ldm export" in said
    status, _, said = ldm("evaluate", "--model", model, "--data", folder, "--sheet", tmp_path / "a.png")
    assert status == 2 and "show pairs of Curios" in said
    status, out, _ = ldm("evaluate", "--model", model, "--data", folder, "--json", tmp_path / "a.json")
    assert status == 0 and "reconstruction of pictures kept aside, PSNR" in out
    again, before = (json.loads(p.read_text()) for p in (tmp_path / "a.json", model / "evaluation.json"))
    for key in page.ROWS:
        assert again[key] is before[key] is None or again[key] == pytest.approx(before[key], rel=1e-3), key
    status, _, said = ldm("evaluate", "--model", model, "--data", folder_of(tmp_path / "others", 21))
    assert status == 2 and "was trained with other pictures or captions" in said


OTHERS = {
    "pictures": (100, lambda i: draw(i - 100)[1], "vae.pt"),
    "captions": (0, lambda i: f"caption {i}", "tokenizer"),
    "captions the other way round": (0, lambda i: draw(23 - i)[1], "clip.pt"),
}


def content(*folders: Path) -> dict[Path, bytes]:
    """All that is kept in folders, but the copy of the pictures that were read last."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if path.name != "data.safetensors"}


@pytest.mark.parametrize("other", OTHERS)
def test_other_pictures_in_the_same_folders(trained, ldm, tmp_path, other):
    """One sentence, and the first training and its model are as they were."""
    _, run, model = trained
    start, text, named = OTHERS[other]
    if other == "captions the other way round":  # those kept aside stay where they are: the tokenizer does not see them
        aside = {i: draw(i)[1] for i in range(24) if draw(i)[1] not in Pictures(trained[0], 16, run, progress=False).captions}
        learned = [i for i in range(24) if i not in aside]
        mirrored = dict(zip(learned, reversed(learned), strict=True))
        text = lambda i: aside.get(i) or draw(mirrored[i])[1]  # noqa: E731
    folder = folder_of(tmp_path / "other", 24, start=start, text=text)
    before = content(run, model)
    status, _, said = ldm(*command(folder, run, tmp_path / "model"))
    assert status == 2 and str(run / named) in said and "another folder" in said and said.count("ldm:") == 1
    status, _, said = ldm(*command(folder, tmp_path / "run", model))
    assert status == 2 and "holds a model of other pictures or captions" in said and "with --out" in said
    assert content(run, model) == before and not (tmp_path / "model").exists()
    assert not list((tmp_path / "run").glob("*.pt")), "it was said before anything was trained"
    assert ldm(*command(trained[0], run, model))[0] == 0  # the first goes on


@pytest.mark.parametrize("kind", ["curios", "unknown", "damaged"])
def test_models_of_other_kinds_are_not_replaced(trained, ldm, tmp_path, kind):
    folder, run, _ = trained
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    about = {"curios": json.dumps({"kind": "curios", "scripts": []}), "damaged": "{"}.get(kind)
    if about:
        (tmp_path / "model" / "course.json").write_text(about)
    status, _, said = ldm(*command(folder, run, tmp_path / "model"))
    what = "a model of Curios" if kind == "curios" else "a model of unknown origin"
    assert status == 2 and f"holds {what}, which would be lost: name another folder with --out, or delete it." in said
    assert (tmp_path / "model" / "model_index.json").read_text() == "{}"


HOLD = """
import sys
from filelock import FileLock

lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_trainings_at_once_in_one_folder(trained, ldm, tmp_path):
    folder, run, _ = trained
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, run / ".lock"], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        status, _, said = ldm(*command(folder, run, tmp_path / "model"))
        assert status == 2 and f"Another process is training in '{run}'" in said and said.count("ldm:") == 1
        other.kill()  # what it held is free again
    assert ldm(*command(folder, run, tmp_path / "model"))[0] == 0


def test_the_page_holds_the_numbers(trained):
    folder, run, model = trained
    found = json.loads((model / "evaluation.json").read_text())
    text = (model / "evaluation.html").read_text(encoding="utf-8")
    assert found["data"]["learned"] == 20 and found["data"]["aside"] == 4 and found["data"]["resolution"] == 16
    for line in page.table_lines(found):
        assert f"<td class=number>{line['value']}</td><td>{line['interval']}</td>" in text, line
    assert found["frechet_real"] is None and "needs 64 pictures kept aside" in text  # four pictures tell nothing
    assert found["top1_chance"]["value"] == 1 / 4 and found["psnr_aside"]["n"] == 4
    images = re.findall(r"<img ([^>]*)>", text)
    assert len(images) == 4 * 2 + 4 * 5 + 8 * 2
    assert all(re.match(r'alt="[^"]+" src="data:image/png;base64,', i) for i in images)
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and str(folder.parent) not in text
    data = Pictures(folder, 16, run, progress=False)
    assert all(html.escape(caption) in text for caption in data.validation_captions)


def test_the_reconstruction_is_measured_on_what_was_kept_aside(trained):
    from ldm_tutorial.checkpoints import load_models

    folder, run, model = trained
    images = Pictures(folder, 16, run, progress=False).validation_images
    models = load_models(model, "cpu")
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    error = ((models.decode(models.encode(x)).clamp(-1, 1) - x) / 2).square().flatten(1).mean(1)
    wanted = (-10 * error.log10()).mean().item()
    assert json.loads((model / "evaluation.json").read_text())["psnr_aside"]["value"] == pytest.approx(wanted, abs=0.05)


def test_what_stands_in_a_caption_stands_on_the_page_as_text():
    from jinja2 import Environment, PackageLoader

    template = Environment(loader=PackageLoader("ldm_tutorial", "lab"), autoescape=True).get_template("evaluation.html")
    data = {"source": "<b>", "learned": 1, "aside": 1, "resolution": 16}
    figures = [page.figure(torch.zeros(8, 8, 3, dtype=torch.uint8), "kept aside")]
    rows = {"reconstructions": [('"<script>alert(1)</script>"', figures)], "unseen": [], "learned": []}
    text = template.render(data=data, steps={"U-Net": 1}, lines=[], **rows)
    assert "<script" not in text and "<b>" not in text and 'alt="kept aside: &#34;&lt;script&gt;' in text


@pytest.mark.parametrize(
    ("text", "ask", "refused"),
    [(lambda i: f"красный квадрат номер {i}", "красный квадрат", "a red square"), (lambda i: str(i % 10), "7", "seven")],
    ids=["Cyrillic", "digits"],
)
def test_captions_of_other_scripts_can_be_asked_for(ldm, tmp_path, text, ask, refused):
    run_ldm(*command(folder_of(tmp_path / "in", text=text), tmp_path / "run", tmp_path / "model"))
    few = ["--model", tmp_path / "model", "--steps", 2, "--out", tmp_path / "a.png"]
    assert ldm("generate", ask, *few)[0] == 0
    status, _, said = ldm("generate", refused, *few)
    assert status == 2 and "has nothing that this model was taught to read" in said


def test_long_captions_are_named(ldm, tmp_path):
    words = " ".join(f"word{k} and thing{k}" for k in range(60))
    folder = folder_of(tmp_path / "in", text=lambda i: f"square {i} {words}" if i < 3 else f"square {i}")
    few = ["--profile", "quick", "--scale", "0.0004", "--resolution", 16, "--run", tmp_path / "run"]
    status, _, said = ldm("train", "vae", "--data", folder, *few)
    assert status == 0
    assert re.search(
        r"- caption of more than 77 tokens, whose end is not read \(3\): 'square \d word0 and.*\(\d+ tokens\)", said
    )


def digests(model: Path) -> dict[str, str]:
    return {
        p.relative_to(model).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in model.rglob("*") if p.is_file()
    }


@pytest.mark.slow
def test_killed_and_resumed_is_as_undisturbed(trained, ldm, tmp_path):
    folder, _, model = trained
    again = command(folder, tmp_path / "run", tmp_path / "model")
    victim = begin(again)
    end = time.monotonic() + 300
    while time.monotonic() < end and not (tmp_path / "run" / "clip.pt").exists():
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)  # somewhere after CLIP
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()
    status, _, said = ldm(*again)
    assert status == 0, said
    assert digests(tmp_path / "model") == digests(model)  # bit for bit, the page too


@pytest.mark.slow
def test_under_accelerate_launch(trained, tmp_path, monkeypatch):
    """The same command, two processes, each batch in two parts: the losses of one process in the same precision."""
    folder = trained[0]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as the launcher is told: CPUs may compute in bfloat16 otherwise
    alone = begin(command(folder, tmp_path / "alone", tmp_path / "other"))
    said = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, said
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = begin([*command(folder, tmp_path / "run", tmp_path / "model"), "--accumulate", "2"], *launcher)
    said = done.communicate(timeout=300)[0]
    assert done.returncode == 0, said
    assert said.count("wrote ") == 1
    for part in ("vae", "clip", "unet"):
        one, two = (torch.load(tmp_path / run / f"{part}.pt", weights_only=True)["losses"] for run in ("alone", "run"))
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=1e-5, rtol=1e-5)
    assert (tmp_path / "model" / "evaluation.html").exists()
