"""What nbval cannot see: strict mode passes on a notebook without outputs, so each must be committed executed."""

import ast
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import cells, run
from tests.run import ROOT, environment, find_notebooks

MAX_BYTES = 1_500_000
MAX_LINES = 25
MAX_LINES_SETUP = 40  # folded: imports, one a line
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
        most = MAX_LINES_SETUP if "setup" in cell.metadata.get("tags", []) else MAX_LINES
        if lines > most:
            faults.append(f"code cell {number} has {lines} lines, more than {most}")
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


IDS = [path.relative_to(ROOT / "notebooks").as_posix() for path in find_notebooks()]


@pytest.mark.parametrize("path", find_notebooks(), ids=IDS)
def test_cells_are_divided_by_kind(path):
    faults = division_faults(cells.code_cells(cells.read(path)))
    assert not faults, "\n".join([path.name, *faults])


def division_faults(code: list[dict]) -> list[str]:
    """All that is wrong with how a notebook's code cells are divided and folded, a sentence each."""
    faults = []
    for number, cell in enumerate(code, start=1):
        kinds, source = cells.kinds_of(cell), cells.source_of(cell)
        if len(kinds) != 1:
            faults.append(f"code cell {number} is of {len(kinds)} kinds ({', '.join(kinds) or 'none'}), not of one")
            continue
        kind, tags = kinds[0], cell["metadata"]["tags"]
        if cells.is_folded(cell) != cells.should_fold(cell):
            faults.append(f"code cell {number}, a {kind} of {cells.lines_of(cell)} lines, is not folded as its kind says")
        if kind != "check" and any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source))):
            faults.append(f"code cell {number} is a {kind} and asserts: assertions stand in check cells")
        if kind not in ("check", "proof") and "assert_close(" in source:
            faults.append(f"code cell {number} is a {kind} and compares: that is for checks and proofs")
        if kind == "check" and not re.match(r"# Check: .+\.\n", source):
            faults.append(f"code cell {number} is a check whose first line does not say in a sentence what it checks")
        for name, belongs in {"claim": "check", "figure": "figure", "proof": "proof"}.items():
            if kind != belongs and any(tag.startswith(f"{name}-") for tag in tags):
                faults.append(f"code cell {number} is a {kind} and carries the tag of a {name}")
        if kind == "proof" and not any(tag.startswith("proof-") for tag in tags):
            faults.append(f"code cell {number} is a proof without a name")
    sources = [cells.source_of(cell) for cell in code]
    return [*faults, *cells.names_of_two_kinds(sources), *cells.shadowed_builtins(sources), *cells.taken_from_checks(code)]


def test_faults_of_the_division_are_found():
    def cell(source, *tags, folded=False):
        hidden = {"jupyter": {"source_hidden": True}} if folded else {}
        return {"cell_type": "code", "source": source, "metadata": {"tags": [*tags, *["hide-input"] * folded], **hidden}}

    check = "# Check: x is 1.\nassert x == 1"
    assert division_faults([cell("x = 1", "lesson"), cell(check, "check", folded=True)]) == []
    assert len(division_faults([cell("x = 1")])) == 1, "no kind"
    assert len(division_faults([cell("x = 1", "lesson", "setup")])) == 1, "two kinds"
    assert len(division_faults([cell("x = 1\nassert x", "lesson")])) == 1, "a lesson that asserts"
    assert len(division_faults([cell("x = 1", "lesson", folded=True)])) == 1, "a folded lesson"
    assert len(division_faults([cell("x = 1", "lesson"), cell(check, "check")])) == 1, "a check for all to see"
    assert len(division_faults([cell("x = 1\n" * 9, "figure")])) == 1, "a long figure for all to see"
    assert len(division_faults([cell("x = 1", "lesson", "claim-1.1")])) == 1, "a claim in a lesson"
    assert len(division_faults([cell("x = 1", "check", folded=True)])) == 1, "a check that does not say what it checks"
    assert len(division_faults([cell("x = 1", "lesson"), cell("x = [1]", "lesson")])) == 1, "one name for two kinds"
    assert len(division_faults([cell("def x():\n    return 1", "lesson"), cell("x = [1]", "lesson")])) == 1
    assert len(division_faults([cell("for id in 'ab':\n    print(id)", "lesson")])) == 1, "Python's own name"
    after = [cell("# Check: y is set.\ny = 1", "check", folded=True), cell("def f():\n    return y", "lesson")]
    assert len(division_faults(after)) == 1, "a lesson that needs a check"
    with pytest.raises(ValueError, match="not in both"):
        cells.is_folded({"metadata": {"tags": ["hide-input"]}})


def test_folding_is_one_rule_and_stays():
    cell = {"source": ["# Check: x.\n", "assert x"], "metadata": {"tags": ["check"], "jupyter": {"outputs_hidden": True}}}
    cells.fold(cell)
    cells.fold(cell)
    assert cell["metadata"] == {"tags": ["check", "hide-input"], "jupyter": {"outputs_hidden": True, "source_hidden": True}}
    cell["metadata"]["tags"][0] = "lesson"
    cells.fold(cell)
    assert cell["metadata"] == {"tags": ["lesson"], "jupyter": {"outputs_hidden": True}}


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
    monkeypatch.setattr(run, "run", lambda phase, *arguments: run.Result(phase, 0, 0.0))
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
