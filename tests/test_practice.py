"""The exercises: made from one source, their checks tried on right and wrong answers, and what is remembered of them."""

import importlib
import json
import re
import subprocess
import sys
import time

import pytest
import torch

from ldm_tutorial.practice import check, exercise, progress
from ldm_tutorial.practice.catalogue import CATALOGUE, KINDS, entry, of_notebook
from ldm_tutorial.practice.exercise import TOLERANCE, Build, Choice, Find, Number, attempt
from tests import exercises
from tests.run import ROOT

NOTEBOOKS = sorted({e.notebook for e in CATALOGUE})
PLANTED = {name: importlib.import_module(f"tests.planted.n{name}") for name in NOTEBOOKS}
RIGHT = [(e.name, i) for e in CATALOGUE for i in range(len(PLANTED[e.notebook].RIGHT[e.name]))]
WRONG = [(e.name, words) for e in CATALOGUE for words in PLANTED[e.notebook].WRONG[e.name]]
WORKED_OUT = [e for e in CATALOGUE if isinstance(getattr(check, e.name), Build)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A record of solved exercises of its own for each test."""
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "_session", None)


def of(name):
    return getattr(check, name)


def planted(name, which):
    (found,) = [e for e in CATALOGUE if e.name == name]
    return getattr(PLANTED[found.notebook], which)[name]


def is_one_sentence(text):
    return "\n" not in text and text.endswith((".", "?")) and not text.endswith("..") and "Traceback" not in text


# The catalogue, the notebooks and the checks name the same exercises.


def test_every_exercise_has_a_check_and_an_entry():
    assert [of(e.name).number for e in CATALOGUE] == [e.number for e in CATALOGUE]
    assert sorted(check.__all__) == sorted(e.name for e in CATALOGUE)
    assert len({e.number for e in CATALOGUE}) == len(CATALOGUE)
    for e in CATALOGUE:
        assert e.kind in KINDS and e.difficulty in (1, 2, 3) and 2 <= e.minutes <= 60
        if e.kind in ("build", "mend"):
            assert e in WORKED_OUT
        assert (e.kind == "mend") == (isinstance(of(e.name), Build) and of(e.name).given is not None)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_source_says_what_the_catalogue_says(name):
    (path,) = exercises.find_sources([name])
    source = exercises.read(path)
    text = [cell.source for cell in source.cells if cell.cell_type == "markdown"]
    headings = [cell for cell in text if re.match(r"## Exercise [\d.]+:", cell)]
    assert len(of_notebook(name)) == 5
    for e, cell in zip(of_notebook(name), headings, strict=True):
        assert cell.startswith(f"{e.heading}\n\n{e.line}\n\n")
        assert 1 <= cell.count("<summary>Hint") <= 2 and f"../{path.name}" in cell
    graded = [c.metadata.nbgrader for c in source.cells if "nbgrader" in c.metadata]
    assert [g.grade_id for g in graded if g.solution] == [e.name for e in of_notebook(name)]
    assert [(g.grade_id, g.points) for g in graded if g.grade] == [(f"check_{e.name}", e.difficulty) for e in of_notebook(name)]
    assert sum(map(exercises.is_explanation, source.cells)) == len(of_notebook(name))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_source_points_at_sections_that_exist(name):
    (path,) = exercises.find_sources([name])
    source, taught = exercises.read(path), exercises.read(exercises.FOLDER / path.name)
    lines = [line for cell in taught.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    headings = {line.lstrip("#").strip() for line in lines if line.startswith("##")}
    named = [
        found for cell in source.cells for found in re.findall(r"^From \[notebook .*?\), \*(.*)\*$", cell.source, re.MULTILINE)
    ]
    assert len(named) == len(of_notebook(name)) and set(named) <= headings, set(named) - headings


# From one source.


def plain(notebook):
    """What the generator decides of a notebook: everything but outputs."""
    return [(c.cell_type, c.id, c.source, c.metadata) for c in notebook.cells]


def test_stubs_and_solutions_are_what_the_sources_make():
    sources = exercises.find_sources()
    names = [path.name for path in sources]
    assert [name[:2] for name in names] == NOTEBOOKS
    for folder in ("exercises", "solutions"):
        assert sorted(path.name for path in (exercises.FOLDER / folder).glob("*.ipynb")) == names
    for path in sources:
        made = exercises.make(exercises.read(path))
        for folder, notebook in zip(("exercises", "solutions"), made, strict=True):
            committed = exercises.read(exercises.FOLDER / folder / path.name)
            assert plain(committed) == plain(notebook), f"{folder}/{path.name} and its source differ: `make exercises`"


def test_marks_are_read_as_nbgrader_reads_them():
    source = "def f(x):\n    ### BEGIN SOLUTION\n    y = 2 * x\n    return y\n    ### END SOLUTION\n"
    assert exercises.without_solution(source) == "def f(x):\n    # YOUR CODE HERE"
    assert exercises.with_solution(source) == exercises.solution_of(source) == "def f(x):\n    y = 2 * x\n    return y"
    source = "x = None\n### BEGIN SOLUTION\nx = 3\n### END SOLUTION"
    assert exercises.without_solution(source) == "x = None\n# YOUR CODE HERE"
    assert exercises.solution_of(source) == "x = 3"
    source = "right = check.f(f)\n### BEGIN HIDDEN TESTS\nassert right\n### END HIDDEN TESTS"
    assert exercises.without_solution(source) == exercises.with_solution(source) == "right = check.f(f)"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stub_tells_no_solution_and_all_its_checks_wait(name, capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # settled: its first cell leaves this process's threads as they are
    (path,) = exercises.find_sources([name])
    stub = exercises.read(exercises.FOLDER / "exercises" / path.name)
    code = [cell for cell in stub.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in code)
    assert not any("SOLUTION" in cell.source or "HIDDEN" in cell.source for cell in stub.cells)
    space = {"__name__": "stub"}
    capsys.readouterr()
    for cell in code:
        exec(compile(cell.source, f"<{path.name}>", "exec"), space)
    *lines, last = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line != "picture"]  # what shows a picture before the learner begins
    assert [line.split(":")[0] for line in lines] == [f"Exercise {e.number} waits" for e in of_notebook(name)]
    assert f" 0 of {len(of_notebook(name)):2}" in last
    assert progress.solved() == {}


# The checks are checked.


@pytest.mark.parametrize("name, which", RIGHT)
def test_every_right_answer_is_accepted(name, which):
    verdict = of(name).judge(planted(name, "RIGHT")[which])
    assert verdict.right and is_one_sentence(verdict.sentence), verdict


@pytest.mark.parametrize("name, words", WRONG)
def test_a_wrong_answer_gets_its_own_sentence(name, words):
    verdict = of(name).judge(planted(name, "WRONG")[words])
    assert not verdict.right and not verdict.waits, verdict
    assert words in verdict.sentence and is_one_sentence(verdict.sentence), verdict


def test_there_are_enough_planted_answers():
    for e in CATALOGUE:
        right, wrong = planted(e.name, "RIGHT"), planted(e.name, "WRONG")
        assert len(right) >= (2 if e in WORKED_OUT else 1) and len(wrong) >= (3 if e in WORKED_OUT else 2), e.number
        sentences = {of(e.name).judge(answer).sentence for answer in wrong.values()}
        assert len(sentences) == len(wrong), "each wrong answer has a sentence of its own"


@pytest.mark.parametrize("e", WORKED_OUT, ids=lambda e: e.name)
def test_mistakes_are_told_apart_far_beyond_the_tolerance(e):
    """No named mistake is right, no two of them are the same, and rounding is far smaller than the smallest of them."""
    asked = of(e.name)
    assert asked.judge(asked.right).right
    assert not any(isinstance(attempt(asked.right, case)[0], exercise.Stopped) for case in asked.cases)
    assert len(asked.mistakes) >= 3
    seen = []
    for mistake in asked.mistakes:
        verdict = asked.judge(mistake.function)
        assert not verdict.right and mistake.looks in verdict.sentence, mistake.looks
        results = [attempt(mistake.function, case)[0] for case in asked.cases]
        for other in seen:
            assert not all(exercise.agree(a, b) for a, b in zip(results, other, strict=True)), mistake.looks
        seen.append(results)
        far = [distance(a, attempt(asked.right, case)[0]) for a, case in zip(results, asked.cases, strict=True)]
        assert max(far) > 30 * TOLERANCE, mistake.looks


def distance(a, b):
    """How far two results are apart, in parts of the largest number that is expected; infinite where that makes no sense."""
    ours, theirs = exercise.as_numbers(a), exercise.as_numbers(b)
    comparable = exercise.is_whole(a) == exercise.is_whole(b) or not exercise.is_picture(a, b)
    if ours is None or theirs is None or ours.shape != theirs.shape or not comparable:
        return float("inf") if not exercise.agree(a, b) else 0.0
    far = (ours - theirs).abs().max() / theirs.abs().max()
    return float("inf") if far.isnan() else far.item()


NONSENSE = [0, -7, "a", "", [], {}, object(), float("nan"), int, print, torch.zeros(3)]
NONSENSE += [lambda: 1, lambda *x: "text", lambda *x: 1 / 0, lambda *x: [None], lambda *x: x, lambda *x: {"a": 1}]
NONSENSE += [lambda *x: torch.zeros(2, 2, 2, 2, 2), lambda *x: float("inf"), 10**400, 10**5000, torch.eye(2).to_sparse()]


class Untold:
    """An object that can't be shown."""

    def __repr__(self):
        raise RuntimeError("no words")


def leaving(*x):
    raise SystemExit(1)


NONSENSE += [Untold(), leaving, lambda *x: Untold(), lambda *x: torch.eye(2).to_sparse(), lambda *x: 10**400]


@pytest.mark.parametrize("e", CATALOGUE, ids=lambda e: e.name)
def test_nonsense_gets_a_sentence_and_never_a_traceback(e):
    for answer in NONSENSE:
        verdict = of(e.name).judge(answer)
        assert not verdict.right and is_one_sentence(verdict.sentence), (answer, verdict)
    for nothing in (None, ..., *([lambda *x: None, empty] if e in WORKED_OUT else [])):
        verdict = of(e.name).judge(nothing)
        assert verdict.waits and verdict.sentence.startswith(f"Exercise {e.number} waits:")


def empty(*inputs):
    """A body of nothing but this."""


def test_a_missing_return_is_not_an_empty_stub():
    def add_noise(x, eps, t, alphas_cumprod):
        noisy = x + eps  # noqa: F841

    assert "end it with a line that begins with return" in check.add_noise.judge(add_noise).sentence


def test_an_error_is_told_with_its_line():
    def add_noise(x, eps, t, alphas_cumprod):
        share = alphas_cumprod[t]
        return share.view(2, 2) * x

    sentence = check.add_noise.judge(add_noise).sentence
    assert "in the line `return share.view(2, 2) * x` (RuntimeError: shape '[2, 2]' is invalid" in sentence


def test_an_error_of_what_is_found_or_made_is_told_with_its_line():
    def read_folder(folder):
        return open(folder).read()

    sentence = check.read_folder.judge(read_folder).sentence
    assert "read_folder stopped with an error in the line `return open(folder).read()` (" in sentence


def test_a_repair_without_effect_is_told():
    def noisy_picture(x, eps, a, encode, decode, factor):
        z_t = (a**0.5 * encode(x) + (1 - a) ** 0.5 * eps) * factor
        return decode(z_t / factor)

    verdict = check.noisy_picture.judge(noisy_picture)
    assert verdict.waits and "has no effect" in verdict.sentence


def test_what_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(exercise, "SECONDS", 0.2)
    monkeypatch.setattr(exercise, "WAITED", 200)  # on a busy machine too the work ends first

    def add_noise(x, eps, t, alphas_cumprod):
        while True:
            pass

    def my_material(p):
        while True:
            pass

    def sleeping(x, eps, t, alphas_cumprod):
        time.sleep(60)

    def stubborn(x, eps, t, alphas_cumprod):
        while True:
            try:
                sum(range(100))
            except Exception:
                continue

    ending = "of work and was stopped in the line `pass`: does every loop come to its end?"
    for answer, asked in ((add_noise, check.add_noise), (my_material, check.my_material)):
        sentence = asked.judge(answer).sentence
        assert f"{asked.name} had not ended after about 0.2 seconds {ending}" in sentence.replace("`while True:`", "`pass`")
    assert "after about 0.2 seconds of work" in check.add_noise.judge(stubborn).sentence
    monkeypatch.setattr(exercise, "WAITED", 4)
    assert "after about 0.8 seconds and was stopped in the line `time.sleep(60)`" in check.add_noise.judge(sleeping).sentence


def test_shapes_are_told_as_they_are():
    """One number in a tensor [1, 1, 1, 1] is not shown as a bare number, and the first case has the shape that is promised."""
    assert exercise.describe(torch.ones(1, 1)) == "[[1.0]]" and exercise.describe(torch.tensor(2.0)) == "2"
    for e in WORKED_OUT:
        for name, value in of(e.name).cases[0].items():
            if isinstance(value, torch.Tensor):
                assert value.ndim == of(e.name).cases[1][name].ndim or e.number in SHAPELESS, (e.number, name)


SHAPELESS = ("0.1", "2.1", "3.3", "4.5", "5.1", "9.1", "9.4")  # of any shape, their text says


def test_losses_with_their_gradients_are_read_in_silence(recwarn):
    losses = [torch.tensor(1.5, requires_grad=True) * 2, torch.tensor(0.5, requires_grad=True)]
    assert exercise.agree(losses, [3.0, 0.5]) and not recwarn.list


def test_the_four_kinds_of_question(capsys):
    number = Number("3.2", value=2.0, within=0.1, because="so it is", mistakes={4.0: "it was squared"})
    assert number(2.05) and capsys.readouterr().out == "Right, exercise 3.2 is solved: so it is.\n"
    assert number.judge("2").right and not number.judge("two").right
    assert number.judge(3).sentence == "Not yet: 3 is too high."
    assert number.judge(4.01).sentence == "Not yet: 4.01 is too high; it looks as if it was squared."
    choice = Choice("3.2", letter="B", reasons={"A": "it is not red", "B": "it is blue"})
    assert choice.judge(" b ").right and choice.judge("A").sentence == "Not yet: A is not it; it is not red."
    assert "one of the letters A, B" in choice.judge("C").sentence
    find = Find("3.2", fault=lambda answer: None if answer["x"] > 1 else "x is small", because="x is large")
    assert find.judge({"x": 2}).right and find.judge({"x": 0}).sentence == "Not yet: x is small."
    assert "KeyError" in find.judge({}).sentence


# What is remembered.


def test_progress_is_kept_and_shown(capsys, ldm):
    right = planted("add_noise", "RIGHT")[0]
    assert check.add_noise(right) and check.add_noise(right)
    check.forward_steps(planted("forward_steps", "WRONG")["without its root"])
    assert list(progress.solved()) == ["3.1"]
    assert list(json.loads(progress.place().read_text())) == ["3.1"]
    assert [path.name for path in progress.place().parent.iterdir()] == [progress.FILE], "nothing is left beside it"
    capsys.readouterr()
    progress.show("03")
    of_them = f" 1 of {len(of_notebook('03')):2}   next: 3.2 {entry('3.2').title}"
    assert capsys.readouterr().out.endswith(of_them + "\n")
    status, out, err = ldm("progress")
    assert status == 0 and err == "" and of_them in out and f" 1 of {len(CATALOGUE):2}" in out.splitlines()[-2]


def test_a_record_that_cannot_be_read_or_written_is_no_hindrance(tmp_path, monkeypatch):
    progress.place().parent.mkdir(parents=True)
    for damaged in ("", "[1, 2]", "{", "3"):
        progress.place().write_text(damaged)
        assert progress.solved() == {}
    assert check.noisy_variance.judge(0.6)
    progress.remember("3.2")
    assert list(progress.solved()) == ["3.2"]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path / "file" / "below"))
    assert check.noisy_variance(0.6) and progress.solved() == {}


def test_reading_the_solutions_is_not_solving(monkeypatch):
    progress.only_this_session()
    assert check.noisy_variance(0.6)
    assert list(progress.solved()) == ["3.2"] and not progress.place().exists()
    monkeypatch.setattr(progress, "_session", None)
    assert progress.solved() == {}


def test_progress_needs_no_torch():
    code = "import sys; from ldm_tutorial.practice import progress; progress.report(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
