"""Claims, figures, proofs: each has its executed cell, each claim fails on its control, each proof notices what is spoilt."""

import ast
import os
import re
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ldm_tutorial.notebook.claims import FIELDS
from tests.cells import assigned, kinds_of
from tests.run import CELL_TIMEOUT, ROOT, environment, find_notebooks

WANTED = tomllib.loads((ROOT / "tests" / "claims.toml").read_text(encoding="utf-8"))
CLAIMS = WANTED["claims"]
NOTEBOOKS = {path.stem: path for path in find_notebooks() if path.parent.name == "notebooks"}  # not the solutions
QUICK = ["1.1", "1.2", "1.3", "3.1"]  # claims that are computed in the first seconds of their notebook


@cache
def code_cells(notebook: str) -> list:
    return [c for c in nbformat.read(NOTEBOOKS[notebook], as_version=4).cells if c.cell_type == "code"]


@cache
def tagged() -> dict[str, list[tuple[str, object]]]:
    """tag -> (notebook, cell) of every cell that carries it."""
    found = defaultdict(list)
    for notebook in NOTEBOOKS:
        for cell in code_cells(notebook):
            for tag in cell.metadata.get("tags", []):
                found[tag].append((notebook, cell))
    return found


def cells_with(tag: str, notebook: str) -> list:
    found = [cell for where, cell in tagged()[tag] if where == notebook]
    assert found, f"{notebook} has no cell tagged {tag}"
    return found


# --- each has its cell ------------------------------------------------------------------------------------------------


def recorded(cell, claim: str) -> dict:
    """What a check cell has put into its output's metadata about a claim."""
    found = [dict(o.metadata) for o in cell.outputs if o.output_type == "display_data" and o.metadata.get("claim") == claim]
    assert len(found) == 1, f"the check cell of claim {claim} records it {len(found)} times"
    return found[0]


@pytest.mark.parametrize("claim", CLAIMS)
def test_claim_has_one_executed_check_that_asserts_and_records(claim):
    wanted = CLAIMS[claim]
    assert wanted["sentence"].endswith(".") and wanted["measure"] and wanted["direction"] in ("above", "below")
    assert wanted["verdict"] in ("shown", "open") or wanted["verdict"].startswith(("shown in part: ", "does not hold here: "))
    (cell,) = cells_with(f"claim-{claim}", wanted["notebook"])
    assert len(tagged()[f"claim-{claim}"]) == 1, f"claim {claim} is tagged in several notebooks"
    assert kinds_of(cell) == ["check"] and cell.execution_count
    assert sum(tag.startswith("claim-") for tag in cell.metadata.tags) <= 2
    asserts = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
    assert any(isinstance(n, ast.Name) for a in asserts for n in ast.walk(a.test)), (
        f"claim {claim} asserts a constant, or nothing"
    )

    record = recorded(cell, claim)
    assert set(record) == set(FIELDS)
    value, control = record["value"], record["control"]
    if record["low"] is not None:
        assert record["low"] <= value <= record["high"]
    if control is not None:
        right_side = value > control if wanted["direction"] == "above" else value < control
        assert right_side, f"claim {claim} wants {value} {wanted['direction']} its control, {control}"
    assert (control is None) == (wanted["control"] == "") == (wanted["verdict"] == "open"), "a verdict needs a control"


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if CLAIMS[claim]["control"]])
def test_control_replaces_a_name_that_the_check_does_not_set(claim):
    name, _ = control_of(claim)
    (cell,) = cells_with(f"claim-{claim}", CLAIMS[claim]["notebook"])
    assert name not in assigned(cell.source), f"the check of claim {claim} sets {name} itself: its control would not count"


def control_of(claim: str) -> tuple[str, str]:
    """(name that was measured, name of the control) of a statement ``measured = control``."""
    (statement,) = ast.parse(CLAIMS[claim]["control"]).body
    assert isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name), f"claim {claim}: not a name = a name"
    return statement.targets[0].id, statement.value.id


@pytest.mark.parametrize("figure", WANTED["figures"])
def test_figure_is_an_image(figure):
    found = cells_with(f"figure-{figure}", WANTED["figures"][figure])
    kinds = {kind for cell in found for output in cell.outputs for kind in output.get("data", {})}
    assert "image/png" in kinds, f"figure {figure} shows no image"


def test_no_tag_is_unknown():
    known = {f"{kind[:-1]}-{name}" for kind, names in WANTED.items() for name in names}
    assert {tag for tag in tagged() if re.match(r"(claim|figure|proof)-", tag)} <= known


def test_the_page_of_claims_is_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_claims import PAGE, page
    finally:
        sys.path.pop(0)
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python docs/make_claims.py`"


# --- each claim fails on its control ----------------------------------------------------------------------------------


class Session:
    """A notebook in a kernel of its own."""

    def __init__(self, path: Path):
        from nbclient import NotebookClient

        self.notebook = nbformat.read(path, as_version=4)
        self.own = list(enumerate(self.notebook.cells))
        self.notebook.cells.append(new_code_cell())  # the place of what is asked besides
        self.client = NotebookClient(
            self.notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
        )

    def __enter__(self):
        folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.kernel = self.client.setup_kernel(env={**environment(), "PYTHONPATH": os.pathsep.join(filter(None, folders))})
        self.kernel.__enter__()
        self.ask("import tests.in_kernel as __watcher\nNone")
        return self

    def __exit__(self, *error):
        self.kernel.__exit__(*error)

    def cells(self, last: str | None = None):
        """Run the code cells in their order and hand out each, up to the one that carries the tag ``last``."""
        for index, cell in self.own:
            if cell.cell_type == "code":
                self.client.execute_cell(cell, index)
                yield cell
                if last in cell.metadata.get("tags", []):
                    return

    def ask(self, source: str):
        """The value of the last line of some code, run in the kernel."""
        *lines, last = source.strip().split("\n")
        cell = new_code_cell("\n".join([*lines, f"print('answer:', repr({last}))"]))
        self.client.execute_cell(cell, len(self.own))
        text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        return ast.literal_eval(text.partition("answer: ")[2])

    def retry(self, cell, statement: str) -> str:
        """How a check cell fares on its control: "" where its own assertion fails, as it must."""
        return self.ask(f"__watcher.retry({statement!r}, {cell.source!r})")


def claims_in(cell) -> list[str]:
    """The claims that a cell's tags name."""
    return [tag.removeprefix("claim-") for tag in cell.metadata.get("tags", []) if tag.startswith("claim-")]


def faults_of_controls(path: Path, statements: dict[str, str], last: str | None = None) -> list[str]:
    """Run a notebook, and each check cell a second time on its claim's control: what is wrong, a sentence each."""
    faults = []
    with Session(path) as session:
        for cell in session.cells(last):
            for claim in claims_in(cell):
                if claim in statements and (how := session.retry(cell, statements[claim])):
                    faults.append(f"claim {claim}: {how}")
    return faults


@pytest.mark.parametrize("notebook", sorted({CLAIMS[claim]["notebook"] for claim in QUICK}))
def test_quick_claims_fail_on_their_controls(notebook):
    mine = [claim for claim in QUICK if CLAIMS[claim]["notebook"] == notebook]
    statements = {claim: CLAIMS[claim]["control"] for claim in mine}
    assert faults_of_controls(NOTEBOOKS[notebook], statements, last=f"claim-{mine[-1]}") == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_claims_fail_on_their_controls_and_names_keep_their_kind(notebook):
    statements = {c: CLAIMS[c]["control"] for c in CLAIMS if CLAIMS[c]["notebook"] == notebook and CLAIMS[c]["control"]}
    faults, kinds, tried = [], {}, set()
    with Session(NOTEBOOKS[notebook]) as session:
        for number, cell in enumerate(session.cells(), start=1):
            for name, kind in session.ask("__watcher.kinds()").items():
                first = kinds.setdefault(name, kind)
                if first != kind and "NoneType" not in (first, kind):
                    faults.append(f"{name!r} is a {first} at first, and a {kind} after code cell {number}")
                    kinds[name] = kind
            for claim in set(claims_in(cell)) & set(statements):
                tried.add(claim)
                if how := session.retry(cell, statements[claim]):
                    faults.append(f"claim {claim}: {how}")
    assert tried == set(statements)
    assert not faults, "\n".join([notebook, *faults])


def test_a_claim_that_survives_its_control_is_found(tmp_path):
    checks = {
        "1": "assert right > 5",
        "2": "assert right > 0",
        "3": "share = 1 / (right - 1)\nassert right > 5",
    }
    cells = [new_code_cell("right, wrong = 9, 1")]
    cells += [new_code_cell(check, metadata={"tags": ["check", f"claim-{claim}"]}) for claim, check in checks.items()]
    metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), tmp_path / "n.ipynb")
    survived, failed = faults_of_controls(tmp_path / "n.ipynb", dict.fromkeys(checks, "right = wrong"))
    assert survived == "claim 2: it survives its control"
    assert failed.startswith("claim 3: it fails by ZeroDivisionError")


# --- each proof notices what is spoilt --------------------------------------------------------------------------------


def is_definition(source: str) -> bool:
    """Only imports, functions, classes and plain constants."""

    def plain(node) -> bool:
        if isinstance(node, ast.Assign):
            return not any(isinstance(n, ast.Call) for n in ast.walk(node.value))
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))

    return all(plain(node) for node in ast.parse(source).body)


def run(definitions: list[str], proof: str) -> None:
    """Run a proof after the cells that define what it needs, and nothing else of its notebook."""
    space: dict = {"__name__": "__main__"}
    for source in (*definitions, proof):
        exec(compile(source, "<cell>", "exec"), space)  # noqa: S102


def spoilt(definitions: list[str], old: str, new: str) -> list[str]:
    """The definitions with one line of what was built by hand altered."""
    where = [i for i, source in enumerate(definitions) if old in source]
    assert len(where) == 1 and definitions[where[0]].count(old) == 1, (
        f"{old!r} does not stand once in the notebook's definitions"
    )
    return [source.replace(old, new) if i == where[0] else source for i, source in enumerate(definitions)]


@pytest.mark.parametrize("name", WANTED["proofs"])
def test_proof_holds_and_notices_what_is_spoilt(name, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT / "notebooks")
    wanted = WANTED["proofs"][name]
    (cell,) = cells_with(f"proof-{name}", wanted["notebook"])
    last = ast.parse(cell.source).body[-1]
    assert ast.unparse(last).startswith("torch.testing.assert_close("), f"{name} does not end in torch.testing.assert_close"
    definitions = [c.source for c in code_cells(wanted["notebook"]) if is_definition(c.source)]
    run(definitions, cell.source)
    told = r"\d numbers? compared; the largest difference is below|\b(\d+) of \1 ids are equal"
    assert re.search(told, capsys.readouterr().out)
    assert len(wanted["mutants"]) >= 2
    for old, new in wanted["mutants"]:
        with pytest.raises(AssertionError):
            run(spoilt(definitions, old, new), cell.source)
