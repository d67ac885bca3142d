"""What a person types: each bad input gets one sentence that names it, each unknown word its nearest known one."""

import os
from pathlib import Path

import pytest

from ldm_tutorial.curios import MATERIALS, OBJECTS, plain, scene_at
from ldm_tutorial.curios.captions import vocabulary
from ldm_tutorial.errors import UserError
from ldm_tutorial.prompts import (
    NEAR,
    check_count,
    check_guidance,
    check_out,
    check_prompt,
    check_seed,
    check_steps,
    note_unknown_words,
)

ARTICLE = "3D render an avocado style armchair diffusing into latent space"  # the article's own prompt
NAN, INF = float("nan"), float("inf")


def refusal(check, *values) -> str:
    """The one sentence with which a value is refused."""
    with pytest.raises(UserError) as error:
        check(*values)
    text = str(error.value)
    assert (text[0].isupper() or text[0] == "'") and text.endswith(".") and "\n" not in text and len(text) < 400, text
    return text


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, named",
    [
        ("", "empty"),
        ("   ", "empty"),
        ("\t\n \u2003", "empty"),
        (None, "NoneType"),
        (7, "int"),
        (3.5, "float"),
        (True, "bool"),
        (b"an armchair", "bytes"),
        (["an armchair"], "list"),
        ({"prompt": "a mug"}, "dict"),
        ("🥑🛋️", "🥑🛋️"),
        ("🥑" * 500, "🥑" * 40),
        ("...!?", "...!?"),
        ("12345", "12345"),
        ("アボカド", "アボカド"),
        ("кресло", "кресло"),
        ("\x00\x01", "\\x00"),
        ("mug\n" * 5000, "too long"),
        ("mug " * 100, "102 tokens"),
        ("x" * 1_000_000, "too long"),
        ("a" + " " * 20_000 + "b", "too long"),
    ],
)
def test_bad_prompts(tokenizer, prompt, named):
    assert named in refusal(check_prompt, prompt)
    text = refusal(check_prompt, prompt, tokenizer)
    assert named in text
    assert "armchair made of avocado" in text or "shorten" in text  # what to do instead


def test_a_long_prompt_says_how_long(tokenizer):
    limit = "mug " * 75  # 77 with the two marks
    assert check_prompt(limit, tokenizer) == limit.strip()
    text = refusal(check_prompt, limit + "mug", tokenizer)
    assert "78 tokens" in text and "77" in text
    # Few words, many tokens: only the tokenizer can tell.
    spelled = "qxz" * 60
    assert check_prompt(spelled) == spelled
    assert "too long" in refusal(check_prompt, spelled, tokenizer)


@pytest.mark.parametrize(
    "prompt, clean",
    [
        ("a mug", "a mug"),
        ("  a mug\n", "a mug"),
        ("A GOLDEN MUG!!!", "A GOLDEN MUG!!!"),
        ("a mug 🥑", "a mug 🥑"),
        ("café", "café"),
        ("x", "x"),
        (ARTICLE, ARTICLE),
    ],
)
def test_good_prompts(tokenizer, prompt, clean):
    assert check_prompt(prompt) == check_prompt(prompt, tokenizer) == clean


# --- numbers ----------------------------------------------------------------------------------------------------------


NOT_A_NUMBER = ["abc", "", "  ", "7 8", "0x10", "1e3x", None, True, False, [3], b"3", NAN, "nan", INF, "-inf", "9" * 5000]


@pytest.mark.parametrize(
    "check, name, bad, good",
    [
        (check_seed, "seed", [-1, "-1", 1.5, "1.5", 2**63, 2**64, str(2**64)], {0: 0, " 42 ": 42, 2**63 - 1: 2**63 - 1}),
        (check_steps, "steps", [0, -3, "0", 1001, "1001", 2.5, "x"], {1: 1, "20": 20, 1000: 1000}),
        (check_count, "count", [0, -1, 257, "257", 1.5, "many"], {1: 1, "9": 9, 256: 256}),
        (check_guidance, "guidance", [-1, "-0.1", 50.1, 1e9, "x"], {0: 0, 1: 1, "3": 3, "7.5": 7.5, 50: 50}),
    ],
)  # fmt: skip
def test_numbers(check, name, bad, good):
    for value in [*bad, *NOT_A_NUMBER]:
        text = refusal(check, value)
        assert name in text and repr(str(value)[:40]) in text, text
        assert "give a" in text and "from" in text  # what will do instead
    for value, expected in good.items():
        found = check(value)
        assert found == expected and type(found) is (float if check is check_guidance else int)


# --- where the picture goes -------------------------------------------------------------------------------------------


def test_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "a.png"
    assert check_out(path) == path and path.parent.is_dir() and not path.exists()
    assert check_out(str(path)) == path
    assert check_out(tmp_path / "UPPER.PNG").name == "UPPER.PNG"
    path.write_bytes(b"a picture of before")
    assert check_out(path) == path and path.read_bytes() == b"a picture of before"


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_out("a.png") == Path("a.png")
    assert check_out("sub/a.png") == Path("sub/a.png") and (tmp_path / "sub").is_dir()
    for folder in (".", "sub", "..", "/"):
        assert repr(folder) in refusal(check_out, folder) and "picture.png" in refusal(check_out, folder)


@pytest.mark.parametrize("name, instead", [("a.jpg", "a.png"), ("a", "a.png"), ("a.tar.gz", "a.tar.png"), ("a.png.", ".png")])
def test_other_formats(tmp_path, name, instead):
    text = refusal(check_out, tmp_path / name)
    assert repr(name) in text and instead in text
    assert not list(tmp_path.iterdir())


def test_a_file_on_the_way(tmp_path):
    (tmp_path / "file").write_text("here")
    assert "file" in refusal(check_out, tmp_path / "file" / "a.png")
    assert "file" in refusal(check_out, tmp_path / "file" / "deeper" / "a.png")
    assert (tmp_path / "file").read_text() == "here"


def test_no_right_to_write(tmp_path, monkeypatch):
    # The administrator may write anywhere, so the system's answer is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert repr(str(tmp_path / "a.png")) in refusal(check_out, tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir())
    assert "a.png" in refusal(check_out, tmp_path / "a.png")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "Permission denied" in refusal(check_out, tmp_path / "no" / "a.png")


@pytest.mark.parametrize("name", ["nul\0byte.png", "x" * 300 + ".png"])
def test_names_that_no_file_can_have(tmp_path, name):
    assert name[:3] in refusal(check_out, tmp_path / name)


# --- unknown words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, word, near",
    [
        ("a throne made of gold", "throne", "armchair"),
        ("an avacado armchair", "avacado", "avocado"),
        ("a golden armchiar", "armchiar", "armchair"),
        ("a goblet made of wood", "goblet", "mug"),
        ("a silver mug", "silver", "golden"),
        ("a taxi made of cheese", "taxi", "car"),
        ("a wooden umberella", "umberella", "umbrella"),
        ("A THRONE MADE OF AVOCADO!", "throne", "armchair"),
        ("thrones made of gold", "thrones", "armchair"),
    ],
)
def test_the_nearest_known_word_is_named(prompt, word, near):
    note = note_unknown_words(prompt)
    assert f"{word!r} (nearest: {near!r})" in note
    assert note.endswith(".") and "\n" not in note


def test_words_without_a_neighbour_are_named_too():
    note = note_unknown_words("a quixotic mug")
    assert "'quixotic'" in note and "'quixotic' (nearest" not in note
    note = note_unknown_words("blork the frumious wugs of zzz")  # no object: all of them are offered
    assert all(name in note for name in (*OBJECTS, *MATERIALS)) and "'blork'" in note
    assert "and more" in note_unknown_words("aaaa bbbb cccc dddd eeee ffff gggg hhhh mug")
    assert len(note_unknown_words("zzqx " * 70 + " ".join(f"zq{chr(97 + i)}" for i in range(26)))) < 1000


def test_no_object_is_said():
    note = note_unknown_words("made of gold on pink")
    assert "armchair" in note and "It draws one of" in note


@pytest.mark.parametrize(
    "prompt",
    [
        "a mug",
        "an armchair made of avocado on a pink background",
        "3D render of an avocado style armchair",
        "A Zebra-Striped Mug, please!",
        "draw me some golden ducks",
        "a golden bat with wings",
        "the house is made of bricks",
        "a sofa made of avocado",
        "a checkered desk on a gray background",
        "sofas made of timber, please",
        "Could you draw me a spaceship that looks like molten lava, in front of a violet wall?",
    ],
)
def test_clean_prompts_get_no_note(prompt):
    assert note_unknown_words(prompt) is None


def test_captions_of_the_world_get_no_note():
    for object in OBJECTS:
        for material in MATERIALS:
            assert note_unknown_words(plain(object, material, "pink")) is None
    notes = [note_unknown_words(scene_at("train", i)[1]) for i in range(300)]
    # A few captions end in words about something else, on purpose: those are noted, and nothing more is said.
    assert 0.01 < sum(note is not None for note in notes) / 300 < 0.2
    assert not any("It draws one of" in note for note in notes if note)


def test_every_hint_is_a_word_that_the_model_knows():
    for word, near in NEAR.items():
        assert set(near.replace("-", " ").split()) <= vocabulary(), (word, near)
