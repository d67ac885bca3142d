"""What a person types is checked before anything heavy is loaded, by what a model says of itself; unknown words get a note."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_tutorial.curios import MATERIALS, OBJECTS, plain, scene_at
from ldm_tutorial.curios.vocabulary import NEAR, note_unknown_words, vocabulary
from ldm_tutorial.errors import UserError
from ldm_tutorial.files import WEIGHTS, check_place, check_utf8, disk_errors, disk_reason, verify_checksums
from ldm_tutorial.lab.commands import check_file
from ldm_tutorial.notebook.playground import check_seed
from ldm_tutorial.storage.about import CURIOS, About, read_about, scripts
from ldm_tutorial.text import check_prompt
from tests.run import ROOT

ARTICLE = "3D render an avocado style armchair diffusing into latent space"  # the article's own prompt


def refusal(check, *values, **named) -> str:
    """The one sentence with which a value is refused."""
    with pytest.raises(UserError) as error:
        check(*values, **named)
    text = str(error.value)
    assert (text[0].isupper() or text[0] == "'") and text.endswith(".") and "\n" not in text and len(text) < 400, text
    return text


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, named",
    [
        ("", "empty"),
        ("\t\n \u2003", "empty"),
        (None, "NoneType"),
        (7, "int"),
        (b"an armchair", "bytes"),
        (["an armchair"], "list"),
        ("🥑🛋️", "🥑🛋️"),
        ("...!?", "...!?"),
        ("12345", "12345"),
        ("кресло", "кресло"),
        ("\x00\x01", "\\x00"),
        ("mug\n" * 5000, "too long"),
        ("mug " * 100, "102 tokens"),
        ("a" + " " * 20_000 + "b", "too long"),
    ],
)
def test_bad_prompts(tokenizer, prompt, named):
    for text in (refusal(check_prompt, prompt), refusal(check_prompt, prompt, tokenizer)):
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
    assert "The negative prompt is too long" in refusal(check_prompt, spelled, tokenizer, what="negative prompt")


@pytest.mark.parametrize("prompt", ["a mug", "  a mug\n", "A GOLDEN MUG!!!", "a mug 🥑", "café", "x", ARTICLE, "a mug\udcff"])
def test_good_prompts(tokenizer, prompt):
    clean = prompt.replace("\udcff", "").strip()  # half a character, as a terminal passes bytes that are no text
    assert check_prompt(prompt) == check_prompt(prompt, tokenizer) == clean


def test_a_model_is_prompted_in_the_scripts_of_its_captions():
    cyrillic = About("own pictures", scripts(["красный квадрат", "синий круг 7"]), "красный квадрат")
    assert cyrillic.scripts == ("Cyrillic", "digits")
    assert check_prompt("квадрат", about=cyrillic) == "квадрат" and check_prompt("7", about=cyrillic) == "7"
    text = refusal(check_prompt, "a square", about=cyrillic)
    assert "Cyrillic and digits" in text and "'красный квадрат'" in text
    assert check_prompt("アボカド", about=About()) == "アボカド"  # a checkpoint of another origin: nothing is known
    assert scripts(["Ärger", "東京の", "🥑", "हिन्दी", "..."]) == ("Cjk", "Devanagari", "Hiragana", "Latin", "symbols")


def test_a_model_says_what_it_is(tmp_path):
    assert read_about(WEIGHTS) == CURIOS and not verify_checksums(WEIGHTS, "course.json")
    about = About("own pictures", ("Latin",), "a bar", 48, "0123")
    about.write(tmp_path)
    assert read_about(tmp_path) == about and json.loads((tmp_path / "course.json").read_text())["kind"] == "own pictures"
    assert read_about(tmp_path / "no" / "folder").kind == read_about("stabilityai/sd-turbo").kind == "unknown"
    for content in ("", "[]", "{}", '{"kind": "curios", "scripts": [], "more": 1}', '{"scripts": 7}'):
        (tmp_path / "course.json").write_text(content)
        assert "course.json" in refusal(read_about, tmp_path)


@pytest.mark.parametrize("bad", [-1, "-1", 1.5, "1.5", 2**63, str(2**64), "abc", "", None, True, float("nan"), "9" * 5000])
def test_bad_seeds(bad):
    assert "seed" in refusal(check_seed, bad)


def test_good_seeds():
    assert [check_seed(seed) for seed in (0, " 42 ", "+7", 2**63 - 1)] == [0, 42, 7, 2**63 - 1]


def test_what_can_not_be_seen_is_not_read(tokenizer):
    """Marks that come along in copied texts would split words, and change the picture."""
    for prompt in ("\ufeffa golden mug", "a gold\u00aden mug", "a golden\u200b mug", "a golden\u2060 mug\u200b"):
        assert check_prompt(prompt, tokenizer) == "a golden mug"
    for prompt in ("a\ngolden\n\nmug", "a golden\u00a0mug", "a\u2028golden\tmug"):  # these the tokenizer takes for spaces
        assert tokenizer(check_prompt(prompt, tokenizer)).input_ids == tokenizer("a golden mug").input_ids
    assert check_prompt("می\u200cخواهم", about=About("own pictures", ("Arabic",))) == "می\u200cخواهم"  # spelled so


# --- where a file goes ------------------------------------------------------------------------------------------------


def test_checks_make_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "new/folder/a.png", "UPPER.PNG", str(tmp_path / "b" / "a.png")):
        check_file(Path(name))
    assert not list(tmp_path.iterdir())
    (tmp_path / "sub").mkdir()
    for folder in (".", "sub", "..", "/"):
        text = refusal(check_file, Path(folder))
        assert repr(folder) in text and "picture.png" in text


@pytest.mark.parametrize("name, instead", [("a.jpg", "a.png"), ("a", "a.png"), ("a.tar.gz", "a.tar.png"), ("a.png.", ".png")])
def test_other_formats(tmp_path, name, instead):
    text = refusal(check_file, tmp_path / name)
    assert repr(name) in text and instead in text


@pytest.mark.parametrize("name", ["file/a.png", "file/deeper/a.png", "nul\0byte.png", "x" * 300 + ".png"])
def test_places_that_can_not_be(tmp_path, name):
    (tmp_path / "file").write_text("here")
    assert "choose another place" in refusal(check_place, tmp_path / name)


def test_names_that_libraries_can_not_open(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    (folder / "model").mkdir(parents=True)
    CURIOS.write(folder / "model")
    assert "not UTF-8" in refusal(read_about, folder / "model")
    (tmp_path / "link").symlink_to(folder)
    assert read_about(tmp_path / "link" / "model") == CURIOS
    (tmp_path / "größe 1 2").mkdir()
    check_utf8(tmp_path / "größe 1 2")


def test_no_right_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the administrator may write anywhere
    assert "a.png" in refusal(check_place, tmp_path / "no" / "a.png")


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed: file too large"),
            "file too large",
        ),
        (Exception("Error while serializing: I/O error: Read-only file system (os error 30)"), "Read-only file system"),
        (ValueError("a fault of ours"), None),
        (UserError("Can't write (no space left on device)."), None),  # has been said
    ],
)
def test_what_a_disk_says(error, reason):
    assert disk_reason(error) == reason
    with pytest.raises(UserError if reason else type(error)) as raised, disk_errors("/some/folder", "name another one"):
        raise error
    if reason:
        assert str(raised.value).startswith(f"Can't write to '/some/folder' ({reason}): ") and "name another one" in str(
            raised.value
        )


@pytest.mark.parametrize("module", ["errors", "files", "settings", "text", "curios.vocabulary", "lab.cli", "lab.commands"])
def test_these_need_no_torch(module):
    code = f"import sys, ldm_tutorial.{module}; heavy = {{'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'}}"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(len(heavy & set(sys.modules)))"], cwd=ROOT)
    assert done.returncode == 0


# --- unknown words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, word, near",
    [
        ("a throne made of gold", "throne", "armchair"),
        ("an avacado armchair", "avacado", "avocado"),
        ("a silver mug", "silver", "golden"),
        ("a taxi made of cheese", "taxi", "car"),
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
    assert "The model draws one of" in note_unknown_words("made of gold on pink")
    assert note_unknown_words("three ducks made of cheese") == "Curios has nothing called 'three'.", "'the' is no hint"


@pytest.mark.parametrize(
    "prompt",
    [
        "a mug",
        "3D render of an avocado style armchair",
        "A Zebra-Striped Mug, please!",
        "draw me some golden ducks",
        "a sofa made of avocado",
        "a checkered desk on a gray background",
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
    noted = [note for note in notes if note]
    assert all(note.startswith("Curios has nothing called") and "The model draws one of" not in note for note in noted)


def test_every_hint_is_a_word_that_the_model_knows():
    for word, near in NEAR.items():
        assert set(near.replace("-", " ").split()) <= vocabulary(), (word, near)
