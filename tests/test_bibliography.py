"""One bibliography for the course: what a notebook cites by author and year, or by its arXiv number, stands in it."""

import json
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/exercises/source/*.ipynb")])
NAME = r"[A-Z][\w\-]+"
CITED = re.compile(rf"({NAME})(?:,? et al\.|(?:, {NAME})* and {NAME}),? \(?((?:19|20)\d\d[ab]?)")
ARXIV = re.compile(r"arXiv[ :]*(\d{4}\.\d{4,5})")


def works() -> list[tuple[str, str, str]]:
    """First author's surname, year and arXiv number ("" where there is none) of each work in the bibliography."""
    found = []
    for line in (ROOT / "docs" / "bibliography.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[1][:4].isdigit():
            surname = cells[0].split(",")[0].removesuffix(" et al.").split()[-1]
            found.append((surname, cells[1], cells[3]))
    return found


def cited(text: str) -> list[tuple[str, str]]:
    return [match.groups() for match in CITED.finditer(text)]


def unlisted(text: str) -> list[str]:
    """What a text cites that the bibliography lacks. One year with a letter may be cited without it."""
    known = set()
    for surname, year, _ in works():
        known |= {(surname, year), (surname, year[:4])}
    numbers = {number for _, _, number in works()}
    wrong = [f"{surname} {year}" for surname, year in cited(text) if (surname, year) not in known]
    return wrong + [number for number in ARXIV.findall(text) if number not in numbers]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_cited_work_is_listed(page):
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert unlisted("\n\n".join("".join(cell["source"]) for cell in cells)) == []


def test_the_pages_cite_works_at_all():
    found = {pair for page in PAGES for pair in cited(page.read_text(encoding="utf-8"))}
    assert len(found) > 40 and ("Rombach", "2022") in found and ("Kynkäänniemi", "2024") in found


def test_a_wrong_year_and_an_unknown_work_are_found():
    text = "Alain and Bengio 2016, Nobody et al. (2020), Rombach et al. 2022, eq. 3; Ho, Jain and Abbeel 2020; arXiv 9999.00001"
    assert unlisted(text) == ["Alain 2016", "Nobody 2020", "9999.00001"]


def test_the_bibliography_is_in_order_and_names_each_work_once():
    numbers = [number for _, _, number in works() if number]
    assert len(numbers) == len(set(numbers)) > 50
    order = []
    for surname, year, _ in works():
        letters = unicodedata.normalize("NFKD", surname).encode("ascii", "ignore").decode().lower()
        order.append((letters, year))
    assert order == sorted(order)
