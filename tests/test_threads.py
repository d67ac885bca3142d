"""The one policy of threads: what a process gets where the user has set nothing, and that a user's own setting wins."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ldm_tutorial.storage import threads
from tests.run import ROOT, environment, find_notebooks

OWN = (*threads.WAITING, *threads.COUNTS)
CLEAN = {name: value for name, value in os.environ.items() if name not in OWN}


@pytest.fixture
def two_cores(monkeypatch):
    """Two cores, two threads of torch, nothing set by the user."""
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def python(code: str, **settings: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=CLEAN | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FIRST_CELL = "from ldm_tutorial.notebook.doctor import report; report(only_problems=True, findings=[]);"
LDM = """
import contextlib, io
from ldm_tutorial.lab.cli import run
with contextlib.redirect_stdout(io.StringIO()):
    run([{!r}, '--help'])
"""
ASK = "import os; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize("code", [FIRST_CELL, LDM.format("generate")], ids=["notebook", "ldm"])
def test_threads_sleep_in_notebooks_and_in_ldm(code):
    assert python(code + ASK) == "PASSIVE"
    assert python(code + ASK, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    assert python(code + ASK, GOMP_SPINCOUNT="10000") == "None"


EVERY = [*find_notebooks(), *sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))]


def test_there_are_eleven_of_each_kind():
    kinds = [path.parent.name for path in EVERY]
    assert [kinds.count(kind) for kind in ("notebooks", "exercises", "solutions")] == [11, 11, 11]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix())
def test_threads_sleep_in_every_notebook_however_jupyter_was_started(path):
    """Lessons, exercises and solutions: their first cell is the one that settles it, and loads no torch before it does."""
    first = next(cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code")
    lines = [line for line in "".join(first["source"]).split("\n") if line]
    assert lines[0] == "from ldm_tutorial.notebook.doctor import report" and len(lines) == 2
    assert lines[1].startswith("healthy = report(only_problems=True)")


def test_the_first_cell_is_in_time():
    assert python("import sys; from ldm_tutorial.notebook.doctor import report; print('torch' in sys.modules)") == "False"


def test_a_training_has_the_machine_to_itself():
    assert python(LDM.format("train") + ASK) == "None"


def test_nothing_is_set_by_an_import_and_no_torch_is_loaded():
    assert python("import sys, ldm_tutorial.storage.threads; print('torch' in sys.modules)\n" + ASK) == "False\nNone"


def test_the_sleeping_is_in_time_for_torch():
    """The OpenMP that torch loads afterwards says how its threads wait, where it can be asked (GNU's and LLVM's can)."""
    code = "from ldm_tutorial.storage.threads import share_the_machine; share_the_machine(); import torch; torch.ones(9).sum()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=CLEAN | {"OMP_DISPLAY_ENV": "true"}, cwd=ROOT, capture_output=True, text=True
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this OpenMP does not show its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr, done.stderr


def test_where_torch_is_there_already_a_core_is_left(two_cores):
    threads.share_the_machine()
    assert torch.get_num_threads() == 1 and "OMP_WAIT_POLICY" not in os.environ


def test_few_pictures_leave_a_core_and_many_take_all(two_cores, monkeypatch):
    with threads.few_pictures(1):
        assert torch.get_num_threads() == 2, "threads that spin are the user's own affair"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with threads.few_pictures(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads.few_pictures(16):
        assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), threads.few_pictures(1):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", threads.COUNTS)
def test_the_users_own_number_wins(two_cores, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    threads.share_the_machine()
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with threads.few_pictures(1):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, (2, "0")),
        ({"OMP_NUM_THREADS": "1"}, (1, "0")),
        ({"OMP_NUM_THREADS": "8,2"}, (8, "0")),
        ({"OMP_NUM_THREADS": "0"}, (2, "0")),
        ({"OMP_NUM_THREADS": "many"}, (2, "0")),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, (2, "0")),
        ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "1"}, (1, "1")),
    ],
)
def test_the_engine_follows_the_user(two_cores, monkeypatch, settings, expected):
    from ldm_tutorial.engine import Engine

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    sessions = Engine().sessions
    for session in sessions.values():
        given = session.get_session_options()
        spinning = given.get_session_config_entry("session.intra_op.allow_spinning")
        assert (given.intra_op_num_threads, spinning) == expected
    assert Engine(threads=3).sessions["unet"].get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("wanted, workers", [(None, 2), ("1", None), ("3", 3)])
def test_rendering_follows_the_user(two_cores, monkeypatch, wanted, workers):
    """As many processes as cores, or as the user's number; one is no pool."""
    from ldm_tutorial.curios import dataset

    asked = []

    def pool(count, *_):
        asked.append(count)
        raise OSError("a sandbox without semaphores")

    if wanted:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(dataset, "_places", lambda *_: [])
    monkeypatch.setattr(dataset, "_worker", lambda job: 1)
    dataset._render_missing([("train", k, k + 1, "cpu") for k in range(4)], progress=False)
    assert asked == ([workers] if workers else [])


def test_a_smaller_number_is_never_raised(two_cores, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with threads.few_pictures(1):
        assert torch.get_num_threads() == 1


def test_sampling_leaves_a_core_and_gives_it_back(two_cores, tiny, monkeypatch):
    from ldm_tutorial.sampling import sample

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    seen = []
    for count in (1, 3):
        sample(
            tiny[0], ["a mug"] * count, list(range(count)), steps=1, progress=False,
            on_step=lambda *_: seen.append(torch.get_num_threads()),
        )  # fmt: skip
    assert seen == [1, 2] and torch.get_num_threads() == 2


def test_make_and_the_tests_say_the_same():
    name, value = next(iter(threads.SLEEPING.items()))
    assert f"SLEEPING := {name}=$${{{name}:-{value}}}" in (ROOT / "Makefile").read_text()
    assert environment()[name] == value and environment()["OMP_NUM_THREADS"] == "1"


def test_rendering_in_this_process_has_one_thread_and_gives_the_others_back(two_cores, monkeypatch):
    from ldm_tutorial.curios import dataset, scene_at

    seen, real = [], dataset.render.render

    def render(*arguments):
        for found in real(*arguments):
            seen.append(torch.get_num_threads())
            yield found

    monkeypatch.setattr(dataset.render, "render", render)
    dataset.draw([scene_at("train", 0)[0]])
    assert seen == [1] and torch.get_num_threads() == 2
