"""Write claims.md, what held and what did not, from the executed notebooks: `python docs/make_claims.py`."""

import json
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "claims.md"
HEAD = """# What held and what did not

Every claim of the course with the number that its notebook measured, how many things were measured, the 95% interval where
there is one, and the number that the same function gives on the control, where the claim must fail. *Open* means: measured,
but no control stands beside it yet that could have failed. This page is made by `docs/make_claims.py` from the notebooks as
they were executed; the tests hold it up to date, and run every check again on its control.

"""


def records() -> dict[str, dict]:
    """What the check cells of all notebooks have recorded, by claim."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if "claim" in output.get("metadata", {}):
                    found[output["metadata"]["claim"]] = output["metadata"]
    return found


def number(value: float | None) -> str:
    """A number as it stands in the table; a dash where there is none."""
    return "–" if value is None else f"{value:,}"


def row(claim: str, wanted: dict, record: dict) -> str:
    """One line of the table."""
    interval = "–" if record["low"] is None else f"{number(record['low'])} to {number(record['high'])}"
    notebook = f"[{wanted['notebook'][:2]}](../notebooks/{wanted['notebook']}.ipynb)"
    figures = [number(record["value"]), number(record["n"]), interval, number(record["control"])]
    return " | ".join([f"| {claim}", notebook, wanted["sentence"], wanted["measure"], *figures, f"{wanted['verdict']} |"])


def page() -> str:
    """The whole page."""
    claims = tomllib.loads((ROOT / "tests" / "claims.toml").read_text(encoding="utf-8"))["claims"]
    found = records()
    shown = sum(wanted["verdict"] == "shown" for wanted in claims.values())
    open_still = sum(wanted["verdict"] == "open" for wanted in claims.values())
    rest = len(claims) - shown - open_still
    total = f"{len(claims)} claims: {shown} shown, {rest} shown in part or not holding here, {open_still} open.\n\n"
    titles = ["claim", "in", "sentence", "what was measured", "number", "n", "95% interval", "control", "verdict"]
    table = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    table += [row(claim, wanted, found[claim]) for claim, wanted in claims.items()]
    return HEAD + total + "\n".join(table) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
