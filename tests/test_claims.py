"""Every claim, figure and proof has its executed cell; and each proof fails when the hand-built piece is altered."""

import ast
import re
import tomllib
from collections import defaultdict
from functools import cache

import nbformat
import pytest

from tests.run import ROOT, find_notebooks

WANTED = tomllib.loads((ROOT / "tests" / "claims.toml").read_text(encoding="utf-8"))
NOTEBOOKS = {path.stem: path for path in find_notebooks()}


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


@pytest.mark.parametrize("claim", WANTED["claims"])
def test_claim_is_computed_and_asserted(claim):
    notebook, sentence = WANTED["claims"][claim]
    assert sentence.endswith(".")
    for cell in cells_with(f"claim-{claim}", notebook):
        asserts = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
        assert asserts, f"a cell of claim {claim} asserts nothing"
        assert any(isinstance(n, ast.Name) for a in asserts for n in ast.walk(a.test)), f"claim {claim} asserts a constant"
        assert sum(tag.startswith("claim-") for tag in cell.metadata.tags) <= 2
        assert cell.execution_count


@pytest.mark.parametrize("figure", WANTED["figures"])
def test_figure_is_an_image(figure):
    found = cells_with(f"figure-{figure}", WANTED["figures"][figure])
    kinds = {kind for cell in found for output in cell.outputs for kind in output.get("data", {})}
    assert "image/png" in kinds, f"figure {figure} shows no image"


def test_no_tag_is_unknown():
    known = {f"{kind[:-1]}-{name}" for kind, names in WANTED.items() for name in names}
    every = {tag for tag in tagged() if re.match(r"(claim|figure|proof)-", tag)}
    assert {t for t in every if not t.startswith("proof-")} <= known


def is_definition(source: str) -> bool:
    """Only imports, functions, classes and plain constants."""

    def plain(node) -> bool:
        if isinstance(node, ast.Assign):
            return not any(isinstance(n, ast.Call) for n in ast.walk(node.value))
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))

    return all(plain(node) for node in ast.parse(source).body)


def functions(source: str) -> dict[str, ast.AST]:
    return {n.name: n for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def needed(proof: str, definitions: list[str]) -> set[str]:
    """The functions and classes that a proof uses, directly or through others."""
    every = {name: node for d in definitions for name, node in functions(d).items()}
    names = lambda tree: {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & every.keys()  # noqa: E731
    found, waiting = set(), names(ast.parse(proof))
    while waiting - found:
        new = waiting - found
        found |= new
        waiting |= set().union(*(names(every[name]) for name in new))
    return found


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Add}


def nodes(source: str, tree: ast.AST | None = None):
    """(node, name of the function or class around it) for everything in a cell."""
    for top in (tree or ast.parse(source)).body:
        yield from ((node, getattr(top, "name", "")) for node in ast.walk(top))


def mutants(source: str, used: set[str]):
    """The source with, in a function that is used, one arithmetic operator exchanged or one number nudged, each in turn."""
    for k, (node, name) in enumerate(nodes(source)):
        arithmetic = isinstance(node, ast.BinOp) and type(node.op) in SWAPS
        if name in used and (arithmetic or (isinstance(node, ast.Constant) and isinstance(node.value, float))):
            tree = ast.parse(source)
            twin = list(nodes(source, tree))[k][0]
            if arithmetic:
                twin.op = SWAPS[type(twin.op)]()
            else:
                twin.value *= 1.01
            yield ast.unparse(tree)


def run(definitions: list[str], proof: str) -> None:
    space: dict = {"__name__": "__main__"}
    for source in (*definitions, proof):
        exec(compile(source, "<cell>", "exec"), space)  # noqa: S102


PROOFS = sorted({(tag, notebook) for tag, cells in tagged().items() if tag.startswith("proof-") for notebook, _ in cells})


def test_every_proof_is_there():
    assert {f"proof-{name}" for name in WANTED["proofs"]} <= {tag for tag, _ in PROOFS}


@pytest.mark.parametrize("tag, notebook", PROOFS)
def test_proof_holds_and_can_fail(tag, notebook, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT / "notebooks")
    definitions = [c.source for c in code_cells(notebook) if is_definition(c.source)]
    for cell in cells_with(tag, notebook):
        last = ast.parse(cell.source).body[-1]
        assert ast.unparse(last).startswith("torch.testing.assert_close("), f"{tag} does not end in torch.testing.assert_close"
        run(definitions, cell.source)
        use = needed(cell.source, definitions)
        assert use, f"{tag} proves nothing that the notebook defines"
        tried = [(i, altered) for i, source in enumerate(definitions) for altered in mutants(source, use)][:8]
        caught = 0
        for i, altered in tried:
            try:
                run([*definitions[:i], altered, *definitions[i + 1 :]], cell.source)
            except Exception:  # noqa: BLE001  a wrong result or a wrong shape: both are noticed
                caught += 1
        assert tried and caught, f"{tag}: none of {len(tried)} alterations was noticed"
