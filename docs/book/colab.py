"""The notebooks for Google Colab: as they are, behind a first cell that fetches the course and installs it.

``python docs/book/colab.py OUT`` writes them below the folder OUT. The workflow that publishes the book commits them to a
branch of their own, which the book's Colab buttons open. Colab has PyTorch already; the rest takes some minutes.
"""

import json
import sys
from pathlib import Path

from build import NOTEBOOKS, ROOT, SETTINGS

CLONE = "/content/ldm_tutorial"  # Colab's own folder is /content


def install_cell(repository: str, branch: str, folder: str, clone: str = CLONE) -> dict:
    """A code cell that clones the course, installs it with what its notebooks need, and goes to the notebook's folder.

    A session that has the clone already (another notebook was opened before) keeps it.
    """
    lines = [
        "# Google Colab only: fetch the course and install it. Some minutes, once a session.",
        f"![ -d {clone} ] || git clone --quiet --depth 1 --branch {branch} {repository} {clone}",
        f"%pip install --quiet '{clone}[notebooks,export]'",
        f"%cd {clone}/{folder}",
    ]
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "install-on-colab",
        "metadata": {"tags": ["setup"]},
        "outputs": [],
        "source": "\n".join(lines),
    }


def write_notebooks(out: Path, repository: str, branch: str) -> int:
    """Write all notebooks below ``out``, each with the first cell; returns how many.

    Raises:
        SystemExit: where no repository is set.
    """
    if not repository:
        raise SystemExit("docs/book/settings.toml names no repository: Colab would have nothing to fetch.")
    count = 0
    for pattern in NOTEBOOKS:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT)
            notebook = json.loads(path.read_text(encoding="utf-8"))
            notebook["cells"].insert(0, install_cell(repository, branch, place.parent.as_posix()))
            target = out / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            count += 1
    return count


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Say where to: python docs/book/colab.py OUT")
    number = write_notebooks(Path(sys.argv[1]), SETTINGS["repository"].rstrip("/"), SETTINGS["branch"])
    print(f"{number} notebooks for Colab in {sys.argv[1]}")
