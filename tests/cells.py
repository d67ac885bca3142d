"""The code cells of the notebooks, divided by kind: which kind a cell is, and whether it is folded.

    python -m tests.cells          counts the cells of each kind in each notebook
    python -m tests.cells --fold   folds and unfolds all cells by the one rule below (`make notebooks` runs it)

A cell is folded twice over: JupyterLab reads ``source_hidden``, the book reads the tag ``hide-input``.
"""

import argparse
import ast
import builtins
import json
import symtable
from collections.abc import Iterator
from pathlib import Path

from tests.run import find_notebooks

KINDS = {
    "lesson": "the explanation in code, always visible, asserts nothing",
    "figure": "draws what a lesson cell computed; folded where it is long",
    "check": "asserts what was just shown, and turns the knobs of controls; folded",
    "proof": "compares what was built by hand with the library's class; always visible",
    "setup": "imports and helpers of drawing; folded",
}
LONGEST_FIGURE = 8  # lines of a figure cell that stays unfolded
FOLDED = "hide-input"


def lines_of(cell: dict) -> int:
    """How many lines of code a cell has."""
    return len(source_of(cell).splitlines())


def kinds_of(cell: dict) -> list[str]:
    """The kinds that a cell's tags name; it should be one."""
    return [tag for tag in cell["metadata"].get("tags", []) if tag in KINDS]


def is_folded(cell: dict) -> bool:
    """Whether a reader sees a bar in place of the code, in JupyterLab and in the book alike.

    Raises:
        ValueError: where the two do not agree.
    """
    in_lab = bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))
    in_book = FOLDED in cell["metadata"].get("tags", [])
    if in_lab != in_book:
        raise ValueError("a cell is folded in JupyterLab or in the book, but not in both: run `python -m tests.cells --fold`")
    return in_lab


def should_fold(cell: dict) -> bool:
    """The rule: checks and set-up are folded, lessons and proofs never, figures where they are long."""
    kind = kinds_of(cell)[0]
    if kind == "figure":
        return lines_of(cell) > LONGEST_FIGURE
    return kind in ("check", "setup")


def fold(cell: dict) -> None:
    """Fold or unfold a code cell as the rule says."""
    folded = should_fold(cell)
    tags = [tag for tag in cell["metadata"]["tags"] if tag != FOLDED]
    cell["metadata"]["tags"] = [*tags, FOLDED] if folded else tags
    jupyter = cell["metadata"].pop("jupyter", {})
    jupyter.pop("source_hidden", None)
    if folded:
        jupyter["source_hidden"] = True
    if jupyter:
        cell["metadata"]["jupyter"] = jupyter


def read(path: Path) -> dict:
    """A notebook as it is stored."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    """The code cells of a stored notebook."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source_of(cell: dict) -> str:
    """A cell's code as one text, from a file as it is stored or as nbformat reads it."""
    return "".join(cell["source"])


SPACES_OF_THEIR_OWN = (
    ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run in the notebook's own space: what stands in functions, classes and comprehensions does not."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, SPACES_OF_THEIR_OWN):
            yield from statements(node)


def assigned(source: str) -> set[str]:
    """The names that a cell gives to something: by assignment, import, definition or as a loop's variable."""
    names = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def used(source: str) -> set[str]:
    """The names of the notebook's own space that a cell reads, in its functions too."""

    def reads(table: symtable.SymbolTable) -> Iterator[str]:
        at_top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (at_top or symbol.is_global()):
                yield symbol.get_name()
        for inner in table.get_children():
            yield from reads(inner)

    return set(reads(symtable.symtable(source, "<cell>", "exec")))


def taken_from_checks(cells: list[dict]) -> list[str]:
    """Where a notebook needs its checks: names that a cell reads and that a check cell gave last, a sentence each."""
    given_by_check: dict[str, bool] = {}
    faults = []
    for number, cell in enumerate(cells, start=1):
        source, is_check = source_of(cell), "check" in kinds_of(cell)
        names = assigned(source)
        for name in sorted(used(source) - names):
            if given_by_check.get(name) and not is_check:
                faults.append(f"code cell {number} reads {name!r}, which a check cell set")
        given_by_check.update(dict.fromkeys(names, is_check))
    return faults


KIND_OF_FORM = {
    ast.List: "a list", ast.ListComp: "a list", ast.Dict: "a dict", ast.DictComp: "a dict", ast.Set: "a set",
    ast.SetComp: "a set", ast.Tuple: "a tuple", ast.JoinedStr: "a text", ast.Lambda: "a function",
}  # fmt: skip
KIND_OF_CONSTANT = {str: "a text", int: "a number", float: "a number", bool: "a number", bytes: "bytes"}
KIND_OF_CALL = {
    "list": "a list", "sorted": "a list", "dict": "a dict", "set": "a set", "tuple": "a tuple", "str": "a text",
    "len": "a number",
}  # fmt: skip


def kind_of_value(value: ast.AST) -> str | None:
    """What an expression makes, as far as its form says; None where it does not."""
    if isinstance(value, ast.Constant):
        return KIND_OF_CONSTANT.get(type(value.value))
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return KIND_OF_CALL.get(value.func.id)
    return KIND_OF_FORM.get(type(value))


def bindings(source: str) -> Iterator[tuple[str, str]]:
    """(name, kind of thing) for each name that a cell binds to something whose kind can be seen from the code."""
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            yield node.name, "a function"
        elif isinstance(node, ast.ClassDef):
            yield node.name, "a class"
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from pairs_of(target, node.value)


def pairs_of(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, str]]:
    """The same for one assignment, which may bind several names."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, part in zip(target.elts, value.elts, strict=True):
            yield from pairs_of(one, part)
    elif isinstance(target, ast.Name) and (kind := kind_of_value(value)):
        yield target.id, kind


def names_of_two_kinds(sources: list[str]) -> list[str]:
    """Names that a notebook binds first to one kind of thing and then to another, a sentence each."""
    kinds: dict[str, str] = {}
    faults = []
    for number, source in enumerate(sources, start=1):
        for name, kind in bindings(source):
            first = kinds.setdefault(name, kind)
            if first != kind:
                faults.append(f"{name!r} is {first} at first, and {kind} in code cell {number}")
    return faults


def shadowed_builtins(sources: list[str]) -> list[str]:
    """Names of Python's own functions that a notebook gives to something else, a sentence each."""
    own = {name for name in dir(builtins) if name.islower() and not name.startswith("_")}
    faults = []
    for number, source in enumerate(sources, start=1):
        for node in ast.walk(ast.parse(source)):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
            name = stored or (isinstance(node, ast.arg) and node.arg) or (isinstance(node, ast.FunctionDef) and node.name)
            if name in own:
                faults.append(f"{name!r} is Python's own, and something else in code cell {number}")
    return faults


def fold_notebook(path: Path) -> None:
    """Fold all cells of one notebook; nothing else of the file changes."""
    notebook = read(path)
    for cell in code_cells(notebook):
        fold(cell)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def count(path: Path) -> str:
    """One line: how many cells of each kind, how many unfolded, and their lines."""
    cells = code_cells(read(path))
    numbers = {kind: sum(kind in kinds_of(cell) for cell in cells) for kind in KINDS}
    visible = [cell for cell in cells if not is_folded(cell)]
    kinds = "  ".join(f"{kind} {number:2}" for kind, number in numbers.items())
    return f"{path.stem:28} {kinds}   unfolded {len(visible):2} cells, {sum(map(lines_of, visible)):3} lines"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", action="store_true", help="fold all cells by the rule")
    parser.add_argument("notebooks", nargs="*", type=Path, help="some notebooks in place of all")
    options = parser.parse_args()
    for path in options.notebooks or find_notebooks():
        if options.fold:
            fold_notebook(path)
        print(count(path))


if __name__ == "__main__":
    main()
