"""`make site`: stage notebooks and pages, then let Sphinx make the book. Needs no network.

Everything is staged under docs/_build/source: the committed, executed notebooks as they are, the pages with their relative
links made to fit. A link to a file that is no page of the book goes to the repository, where one is set, else it becomes
plain text.
"""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import frames
import live
from PIL import Image

BOOK = Path(__file__).parent
ROOT = BOOK.parent.parent
BUILD = ROOT / "docs" / "_build"
SOURCE = BUILD / "source"
HTML = BUILD / "html"
SETTINGS = tomllib.loads((BOOK / "settings.toml").read_text(encoding="utf-8"))

# where a page comes from -> where it lies in the book
PAGES = {
    "docs/book/index.md": "index.md",
    "docs/book/live.md": "live.md",
    "docs/claims.md": "claims.md",
    "docs/losses.md": "losses.md",
    "docs/own_data.md": "own_data.md",
    "docs/scale.md": "scale.md",
    "docs/architecture.md": "architecture.md",
    "docs/bibliography.md": "bibliography.md",
    "docs/exercises.md": "exercises.md",
    "notebooks/README.md": "teachers.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/training.md": "training.md",
    "ldm_tutorial/weights/README.md": "model_card.md",
    "ldm_tutorial/weights/DATA_CARD.md": "data_card.md",
}
NOTEBOOKS = ("notebooks/*.ipynb", "notebooks/exercises/*.ipynb", "notebooks/solutions/*.ipynb")
PICTURES = re.compile(r"\.(png|jpe?g|svg|webp)$", re.IGNORECASE)
PICTURE_TAG = re.compile(r'<img alt="[^"]*" src="(?P<source>[^"]*_images/[0-9a-f]{64}\.png)" />')
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def find_pages() -> dict[str, str]:
    """All pages that exist, {path in the project: path in the book}."""
    pages = {source: target for source, target in PAGES.items() if (ROOT / source).exists()}
    for pattern in NOTEBOOKS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            pages[name] = name
    return pages


def fit_links(text: str, source: str, target: str, pages: dict[str, str]) -> str:
    """The text of a page with each relative link made to fit its place in the book; pictures are staged beside it."""

    def fit(found: re.Match) -> str:
        mark, label, link = found.groups()
        if re.match(r"[a-z]+:|#|attachment", link):
            return found.group()
        place, _, anchor = link.partition("#")
        path = (ROOT / source).parent.joinpath(place).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            raise SystemExit(f"{source} links to {link}, which is not there: mend the link.")
        name = path.relative_to(ROOT).as_posix()
        depth = target.count("/")
        up = "../" * depth
        if name in pages:
            return f"{mark}[{label}]({up}{pages[name]}{'#' + anchor.lower() if anchor else ''})"
        if PICTURES.search(name):
            (SOURCE / "pictures").mkdir(exist_ok=True)
            shutil.copy(path, SOURCE / "pictures" / path.name)
            return f"{mark}[{label}]({up}pictures/{path.name})"
        if SETTINGS["repository"]:
            kind = "tree" if path.is_dir() else "blob"
            return f"[{label}]({SETTINGS['repository']}/{kind}/{SETTINGS['branch']}/{name})"
        return label

    return LINK.sub(fit, text)


def alt_texts(notebook: dict) -> dict[str, str]:
    """{name of the picture's file in the book: its alternative text} for all pictures that cells of a notebook put out.

    Sphinx's extension names a picture by the SHA-256 of its bytes, and drops the text.
    """
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            picture = "".join(output.get("data", {}).get("image/png", ""))
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if picture and alt:
                name = hashlib.sha256(base64.b64decode(picture)).hexdigest()
                found[f"{name}.png"] = alt
    return found


def complete_pictures(alts: dict[str, str]) -> None:
    """Give the pictures of the notebooks' pages their alternative texts and sizes, and let a browser fetch them when they
    come into view; the first of a page is fetched at once."""
    lazy = ' loading="lazy"'

    def complete(found: re.Match) -> str:
        name = Path(found.group("source")).name
        if name not in alts:
            return found.group()
        with Image.open(HTML / "_images" / name) as picture:
            width, height = picture.size
        alt = html.escape(alts[name], quote=True)
        return f'<img alt="{alt}" src="{found.group("source")}" width="{width}" height="{height}"{lazy} />'

    for page in sorted((HTML / "notebooks").rglob("*.html")):
        text = PICTURE_TAG.sub(complete, page.read_text(encoding="utf-8"))
        page.write_text(text.replace(lazy, "", 1), encoding="utf-8")


def stage() -> tuple[int, Counter, dict[str, str]]:
    """Write all pages to docs/_build/source; returns how many, the counts of the notebooks' controls, and the alternative
    texts of their pictures."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    shutil.copytree(BOOK / "static", SOURCE / "_static")
    for name in ("conf.py", "settings.toml"):
        shutil.copy(BOOK / name, SOURCE / name)
    pages = find_pages()
    controls: Counter = Counter()
    alts: dict[str, str] = {}
    for source, target in pages.items():
        place = SOURCE / target
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text(encoding="utf-8")
        if not source.endswith(".ipynb"):
            place.write_text(mermaid_as_text(fit_links(text, source, target, pages)), encoding="utf-8")
            continue
        notebook = json.loads(text)
        alts |= alt_texts(notebook)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = fit_links("".join(cell["source"]), source, target, pages)
        up = "../" * target.count("/")
        controls.update(frames.put_frames(notebook, place.name[:2], up, SOURCE / "_static" / "frames"))
        if place.parent.name == "notebooks":
            live.put_figure(notebook, place.stem, up)
        place.write_text(json.dumps(notebook), encoding="utf-8")
    sources = {target.rsplit(".", 1)[0]: source for source, target in pages.items()}
    (SOURCE / "sources.json").write_text(json.dumps(sources), encoding="utf-8")
    return len(pages), controls, alts


def about_controls(counts: Counter) -> str:
    """How many of the notebooks' controls can be turned in the book."""
    said = f"{counts['alive']} of {counts['controls']} can be turned in the page ({counts['listable']} have sliders or menus)"
    if counts["missing"]:
        said += f", {counts['missing']} were never drawn: `make frames` does it"
    if counts["old"]:
        said += f", {counts['old']} were drawn from other code than the notebook's: `make frames` draws them anew"
    size = sum(path.stat().st_size for path in (HTML / "_static" / "frames").glob("*.webp"))
    return f"{said}. Their pictures: {size / 1e6:.1f} MB."


def mermaid_as_text(text: str) -> str:
    """Diagrams that the repository's site draws are shown here as what they say: the book loads no script for them."""
    return text.replace("```mermaid", "```text")


def main() -> int:
    """Stage and build; warnings are errors."""
    start = time.monotonic()
    count, controls, alts = stage()
    shutil.rmtree(HTML, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", BUILD / "doctrees", SOURCE, HTML]
    code = subprocess.call(list(map(str, command)))
    if code == 0:
        complete_pictures(alts)
        size = live.put_model(HTML / "_static" / "live")
        what = f"{size / 1e6:.1f} MB until its first picture" if size else "left out, `make book-runtime` fetches what it needs"
        print(f"The model in the page: {what}.")
        print(f"The notebooks' controls: {about_controls(controls)}")
        print(f"The book: {count} pages in {HTML.relative_to(ROOT)}, made in {time.monotonic() - start:.0f} s.")
    return code


if __name__ == "__main__":
    sys.exit(main())
