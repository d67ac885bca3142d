"""What nbval cannot see: strict mode passes on a notebook without outputs, so each must be committed executed."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import run
from tests.run import ROOT, environment, find_notebooks

MAX_BYTES = 1_500_000
MAX_LINES = 25
MACHINE_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|Users|tmp|private|var|mnt|work|opt|usr)/|\b[A-Z]:\\\\?Users")


def test_there_are_notebooks():
    assert find_notebooks(), "notebooks/ holds no notebook"


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix())
def test_committed_executed_and_clean(path):
    faults = notebook_faults(path)
    assert not faults, "\n".join([path.name, *faults])


def notebook_faults(path) -> list[str]:
    """All that is wrong with one committed notebook, a sentence each."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = [] if code else ["it has no code cell"]

    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        faults.append(f"execution counts are {counts}, not 1 to {len(code)}: run `make notebooks`")
    if path.stat().st_size > MAX_BYTES:
        faults.append(f"it has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("its kernel is not python3")
    for widget in notebook.metadata.get("widgets", {}).values():
        if "state" not in widget:
            faults.append("its widget metadata lacks the state: GitHub will not show it")

    for number, cell in enumerate(code, start=1):
        lines = len(cell.source.strip().splitlines())
        if not lines:
            faults.append(f"code cell {number} is empty")
        if lines > MAX_LINES:
            faults.append(f"code cell {number} has {lines} lines, more than {MAX_LINES}")
        if "nbval-skip" in cell.metadata.get("tags", []) or "NBVAL_" in cell.source:
            faults.append(f"code cell {number} is skipped, or steers nbval by a comment instead of a tag")
        if cell.source.rstrip().endswith(";"):
            faults.append(f"code cell {number} ends in a semicolon: nbval sees the hidden output")
        if any(output.output_type == "error" for output in cell.outputs) and not may_raise(cell):
            faults.append(f"code cell {number} shows an error")
    for number, cell in enumerate(notebook.cells, start=1):
        for text in [cell.source, *text_of(cell.get("outputs", []))]:
            if found := MACHINE_PATH.search(text):
                faults.append(f"cell {number} names a path of one machine: ...{text[found.start() :][:60]!r}")
    return faults


def may_raise(cell) -> bool:
    return bool({"raises-exception", "nbval-raises-exception"} & set(cell.metadata.get("tags", [])))


def text_of(outputs):
    """All text in a cell's outputs, pictures left out."""
    for output in outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join(output.traceback)
        else:
            yield from (str(value) for kind, value in output.data.items() if not kind.startswith("image/"))


def write_notebook(path, *cells):
    """A notebook of (source, printed text) cells, as if executed."""
    notebook = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}})
    for count, (source, text) in enumerate(cells, start=1):
        outputs = [new_output("stream", name="stdout", text=text)] if text else []
        notebook.cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
    nbformat.write(notebook, path)


def run_notebooks(folder, *options):
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    command = [sys.executable, "-m", "pytest", "--rootdir", ".", "--nbval", "--nbval-current-env", *options]
    notebooks = sorted(path.name for path in folder.glob("*.ipynb"))
    return subprocess.run([*command, *notebooks], cwd=folder, env=environment(), capture_output=True, text=True)


def test_one_line_for_each_notebook_and_the_usual_last_line(tmp_path):
    write_notebook(tmp_path / "a.ipynb", ("x = 1", ""), ("print(x)", "1\n"))
    write_notebook(tmp_path / "b.ipynb", ("import sys\nprint('a warning', file=sys.stderr)\nprint(2)", "2\n"))
    done = run_notebooks(tmp_path, "-n", "2", "--dist", "loadscope")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^a\.ipynb +[\d.]+ s  2 of 2 cells  passed$", done.stdout, re.MULTILINE)
    assert re.search(r"^b\.ipynb +[\d.]+ s  1 of 1 cells  passed$", done.stdout, re.MULTILINE)
    assert re.search(r"^=+ 3 passed in .* =+$", done.stdout, re.MULTILINE)


def test_nothing_slips_through_after_a_timeout(tmp_path):
    nap = "import time\nprint(1)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    write_notebook(tmp_path / "slow.ipynb", (nap, "1\n"), ("print(2)", "2\n"))
    write_notebook(tmp_path / "wrong.ipynb", ("print(2)", "3\n"))
    done = run_notebooks(tmp_path, "--nbval-cell-timeout", "2")
    assert done.returncode == 1
    assert "3 failed" in done.stdout and "xfailed" not in done.stdout and "passed in" not in done.stdout
    assert re.search(r"^slow\.ipynb .* 0 of 2 cells  FAILED$", done.stdout, re.MULTILINE)


def test_a_run_without_notebooks_fails(monkeypatch, capsys):
    monkeypatch.setattr(run, "find_notebooks", list)
    monkeypatch.setattr(run, "run", lambda phase, *arguments: (phase, True, 0.0))
    monkeypatch.setattr(sys, "argv", ["tests.run"])
    assert run.main() == 1
    assert "notebooks            FAILED" in capsys.readouterr().out


def test_faults_of_a_committed_notebook_are_found(tmp_path):
    path = tmp_path / "n.ipynb"
    write_notebook(path, ("x = 1", ""), ("print(x)", "1\n"))
    assert notebook_faults(path) == []
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].execution_count = None
    notebook.cells[1].outputs[0].text = "/home" + "/someone/picture.png"
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"version_major": 2}}
    notebook.cells[1].source = "\n".join(["x = 1"] * (MAX_LINES + 1)) + ";"
    nbformat.write(notebook, path)
    assert len(notebook_faults(path)) == 5
