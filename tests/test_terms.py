"""Each term of tests/terms.toml is introduced where the list says: in that cell, and in bold."""

import re
import tomllib

import nbformat
import pytest

from tests.run import ROOT

TERMS = tomllib.loads((ROOT / "tests" / "terms.toml").read_text(encoding="utf-8"))
ROWS = [(notebook, term, start) for notebook, terms in TERMS.items() for term, start in terms.items()]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("notebook, term, start", ROWS)
def test_term_is_introduced_where_the_list_says(notebook, term, start):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    found = [c for c in cells if c.cell_type == "markdown" and plain(c.source).startswith(plain(start))]
    assert len(found) == 1, f"{len(found)} cells of {notebook} begin with {start!r}"
    bold = [plain(words).lower() for words in re.findall(r"\*\*(.+?)\*\*", found[0].source, re.DOTALL)]
    assert any(term.lower() in words for words in bold), f"{term!r} is not in bold in that cell, which has {bold}"
