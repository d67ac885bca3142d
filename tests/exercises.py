"""Exercises and solutions, made from one source: `make exercises`.

    python -m tests.exercises             writes stubs and solutions of all sources, and executes solutions that have changed
    python -m tests.exercises 03 05       of some
    python -m tests.exercises --again     executes them also where no code has changed

A source is notebooks/exercises/source/NN_name.ipynb, with nbgrader's marks: what stands between ``### BEGIN SOLUTION`` and
``### END SOLUTION`` is kept for the solutions, what stands between ``### BEGIN HIDDEN TESTS`` and ``### END HIDDEN TESTS`` for
the grader alone. So nbgrader reads the same source. Its own preprocessors are not used here because its installation puts menus
of its own into every learner's JupyterLab; the dozen lines that they take are below.

A Markdown cell with the tag ``explanation`` follows the check of an exercise. In the exercises it becomes a folded solution.
"""

import argparse
import copy
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tests import cells
from tests.run import ROOT

FOLDER = ROOT / "notebooks"
SOURCES = FOLDER / "exercises" / "source"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
REGION = re.compile(rf"^( *){BEGIN}\n(.*?)^ *{END}\n?", re.MULTILINE | re.DOTALL)
YOURS = "# YOUR CODE HERE"
ONLY_READING = "progress.only_this_session()  # reading the solutions is not solving: nothing is remembered"


def find_sources(names: list[str] | None = None) -> list[Path]:
    """The sources, or those whose numbers are named."""
    return [path for path in sorted(SOURCES.glob("*.ipynb")) if not names or path.name[:2] in names]


def read(path: Path) -> NotebookNode:
    """A notebook."""
    return nbformat.read(path, as_version=4)


def without_solution(source: str) -> str:
    """A cell of the source as a learner gets it, as nbgrader would make it."""
    return HIDDEN.sub("", REGION.sub(lambda found: f"{found[1]}{YOURS}\n", source)).rstrip("\n")


def with_solution(source: str) -> str:
    """A cell of the source as the solutions show it: without the marks."""
    return HIDDEN.sub("", REGION.sub(lambda found: found[2], source)).rstrip("\n")


def solution_of(source: str) -> str:
    """The solution alone: a part that replaces all that stands above it, or else the whole cell."""
    found = REGION.search(source)
    return textwrap.dedent(found[2]).rstrip("\n") if found and not found[1] else with_solution(source)


def is_explanation(cell: NotebookNode) -> bool:
    """Whether a cell explains the solution."""
    return "explanation" in cell.metadata.get("tags", [])


def make(source: NotebookNode) -> tuple[NotebookNode, NotebookNode]:
    """The exercises and the solutions, not executed."""
    stub, solutions = copy.deepcopy(source), copy.deepcopy(source)
    answer = ""
    for ours, theirs in zip(stub.cells, solutions.cells, strict=True):
        if ours.cell_type == "code":
            if REGION.search(ours.source):
                answer = solution_of(ours.source)
            ours.source, theirs.source = without_solution(ours.source), with_solution(theirs.source)
        elif is_explanation(ours):
            ours.source = (
                f"<details><summary>Solution</summary>\n\n```python\n{answer}\n```\n\n{ours.source.strip()}\n</details>"
            )
        for cell in (ours, theirs):
            cell.metadata.pop("nbgrader", None)
            if cell.cell_type == "code":
                cell.execution_count, cell.outputs = None, []
                cells.fold(cell)
    solutions.cells[0].source = solutions.cells[0].source.replace("Exercises:", "Solutions:", 1)
    imports = next(cell for cell in solutions.cells if cell.cell_type == "code" and "import check, progress" in cell.source)
    imports.source += "\n\n" + ONLY_READING
    return stub, solutions


def text_of(notebook: NotebookNode) -> str:
    """A notebook as it is stored."""
    return nbformat.writes(notebook) + "\n"


def execute(path: Path) -> None:
    """Execute a notebook in place, as `make notebooks` does."""
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "--log-level=ERROR"]
    command += ["--ExecutePreprocessor.timeout=120", "--ExecutePreprocessor.record_timing=False"]
    command += ["--ExecutePreprocessor.store_widget_state=False", str(path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "LDM_TUTORIAL_STATIC": "1"}, check=True)
    path.write_text(text_of(read(path)), encoding="utf-8")


def with_outputs(made: NotebookNode, before: NotebookNode) -> bool:
    """Take the outputs of a notebook that was executed, where each code cell is what it was; returns whether that was so."""
    code, old = ([cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (made, before))
    if [cell.source for cell in code] != [cell.source for cell in old] or any(cell.execution_count is None for cell in old):
        return False
    for cell, executed in zip(code, old, strict=True):
        cell.execution_count, cell.outputs = executed.execution_count, executed.outputs
    made.metadata = before.metadata
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="execute all solutions")
    parser.add_argument("names", nargs="*", help="some notebooks by number, 03, in place of all")
    options = parser.parse_args()
    for path in find_sources(options.names):
        stub, solutions = make(read(path))
        places = [FOLDER / "exercises" / path.name, FOLDER / "solutions" / path.name]
        kept = not options.again and places[1].exists() and with_outputs(solutions, read(places[1]))
        for place, notebook in zip(places, (stub, solutions), strict=True):
            place.parent.mkdir(exist_ok=True)
            place.write_text(text_of(notebook), encoding="utf-8")
        if not kept:
            execute(places[1])
        print(f"{path.stem}: {'as it was executed before' if kept else 'executed'}", flush=True)


if __name__ == "__main__":
    main()
