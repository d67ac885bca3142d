"""Controls that live without a kernel: what a notebook's control draws, stored state by state for the book.

``make frames`` executes each notebook that has controls, in a kernel of its own, and stores the pictures of each control's
states in the cache, outside the work tree. It can be stopped: what is there is not drawn again, until the notebook's code has
changed. ``make site`` then puts sliders and menus (static/frames.js) in place of the static pictures of those controls, as
many as are there.
"""

import hashlib
import html
import io
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from ldm_tutorial.files import cache_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MOST = 132  # states of one control: with more knobs or positions than that, some are left out
POSITIONS = 12  # of a slider that has more than can be stored
FEWEST = 4  # positions that still make a slider
LISTING = "frames.json"


# --- which states ----------------------------------------------------------------------------------------------------------


@dataclass
class Knob:
    """One slider or menu: the values that are stored, as the control takes them (``values``) and as one reads them."""

    name: str
    label: str
    kind: str  # "range" or "menu"
    values: list
    texts: list[str]
    start: int  # the index of the value that the control begins with
    of: int = 0  # how many values the notebook's own knob has

    def __post_init__(self):
        self.of = self.of or len(self.values)

    def thinned(self, most: int) -> "Knob":
        """The same slider with at most so many positions: its ends, its first setting, and what lies evenly between."""
        count = len(self.values)
        if self.kind == "menu" or count <= most:
            return self
        kept = {round(i * (count - 1) / (most - 1)) for i in range(most)}
        if self.start not in kept:
            inner = sorted(kept - {0, count - 1}) or [count - 1]
            kept.remove(min(inner, key=lambda i: abs(i - self.start)))
            kept.add(self.start)
        order = sorted(kept)
        values, texts = [self.values[i] for i in order], [self.texts[i] for i in order]
        return Knob(self.name, self.label, self.kind, values, texts, order.index(self.start), self.of)


@dataclass
class Plan:
    """The knobs of a control, and the states to store: indices of their values."""

    knobs: list[Knob]
    states: list[tuple[int, ...]]
    fixed: dict[str, str] = field(default_factory=dict)  # what can't be listed: label and what it is set to


def plan_states(knobs: list[Knob], most: int = MOST) -> Plan:
    """Which states of these knobs to store, ``most`` at most.

    All combinations, where they are few enough, with sliders of up to POSITIONS positions where they have more; else one
    slider at a time is moved from its first setting, in every combination of the menus; else one knob of any kind.
    """
    product_of_all = math.prod(len(knob.values) for knob in knobs)
    if product_of_all <= most:
        return Plan(knobs, list(product(*(range(len(knob.values)) for knob in knobs))))
    for positions in range(POSITIONS, FEWEST - 1, -1):
        thin = [knob.thinned(positions) for knob in knobs]
        if math.prod(len(knob.values) for knob in thin) <= most:
            return Plan(thin, list(product(*(range(len(knob.values)) for knob in thin))))
    menus = [i for i, knob in enumerate(knobs) if knob.kind == "menu"]
    for together in (menus, []):
        for positions in range(POSITIONS, FEWEST - 1, -1):
            thin = [knob.thinned(positions) for knob in knobs]
            states = one_at_a_time(thin, together)
            if len(states) <= most:
                return Plan(thin, states)
    raise ValueError(f"the control has too many menus and sliders for {most} pictures")


def one_at_a_time(knobs: list[Knob], together: list[int]) -> list[tuple[int, ...]]:
    """States in which at most one knob is off its start, in every combination of the knobs numbered ``together``."""
    states = {}
    for moved in [None, *(i for i in range(len(knobs)) if i not in together)]:
        choices = []
        for i, knob in enumerate(knobs):
            free = i in together or i == moved
            choices.append(range(len(knob.values)) if free else [knob.start])
        states |= dict.fromkeys(product(*choices))
    return list(states)


# --- in the notebook's kernel ----------------------------------------------------------------------------------------------


def read_knob(name: str, widget) -> Knob | None:
    """A widget as a knob; None where its values can't be listed (text, files, ticks)."""
    import ipywidgets as w

    label = widget.description or name
    if isinstance(widget, w.Combobox) and widget.value in widget.options:
        options = list(widget.options)
        return Knob(name, label, "menu", options, options, options.index(widget.value))
    if hasattr(widget, "_options_full") and getattr(widget, "index", None) is not None:
        texts, values = map(list, zip(*widget._options_full, strict=True))
        kind = "range" if isinstance(widget, w.SelectionSlider) else "menu"
        return Knob(name, label, kind, values, texts, widget.index)
    if isinstance(widget, w.Text) or not hasattr(widget, "min"):
        return None
    count = round((widget.max - widget.min) / widget.step)
    values = [widget.min + i * widget.step for i in range(count + 1)]
    if isinstance(widget, w.FloatLogSlider):
        values = [widget.base**power for power in values]
    values = [value if isinstance(widget, w.IntSlider) else float(f"{value:.6g}") for value in values]
    start = min(range(len(values)), key=lambda i: abs(values[i] - widget.value))
    values[start] = widget.value
    return Knob(name, label, "range", values, [f"{value:.3g}" if value < 1000 else str(value) for value in values], start)


def as_webp(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """A PNG as a lossless WebP of at most 256 colours, and its width and height."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.getcolors(256) is None:
        image = image.quantize(256, kmeans=1, dither=Image.Dither.NONE).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=True, quality=80, method=4)
    return buffer.getvalue(), image.size


def store(control, folder: str, code: str) -> None:
    """Draw all states that are planned for a ``Control``, into a folder; ``code`` is the hash of the code that made it."""
    start = time.monotonic()
    fresh = Path(folder + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    read = {name: read_knob(name, widget) for name, widget in control.knobs.items()}
    knobs = [knob for knob in read.values() if knob and len(knob.values) > 1]
    plan = plan_states(knobs)
    for name, knob in read.items():
        widget = control.knobs[name]
        if knob is None and hasattr(widget, "description") and widget.description:
            plan.fixed[widget.description] = widget.value if isinstance(widget.value, str) else ""
    twin = find_twin(control, plan, Path(folder)) if knobs else None
    if twin:
        shutil.rmtree(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(twin, folder)
        listing = json.loads((Path(folder) / LISTING).read_text(encoding="utf-8"))
        (Path(folder) / LISTING).write_text(json.dumps(listing | {"code": code}), encoding="utf-8")
        return
    states, size = draw_states(control, plan, fresh) if knobs else ({}, None)
    alive, states = leave_out_undrawn(plan, states)
    listing = {
        "code": code,
        "kind": type(control).__name__,
        "size": size,
        "fixed": plan.fixed,
        "listable": bool(knobs),
        "knobs": [describe(knob) for knob in alive],
        "states": {",".join(map(str, state)): shown for state, shown in states.items()} if alive else {},
        "seconds": round(time.monotonic() - start, 1),
    }
    (fresh / LISTING).write_text(json.dumps(listing), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def draw_states(control, plan: Plan, folder: Path) -> tuple[dict[tuple, list[str]], tuple[int, int] | None]:
    """Draw the planned states into a folder: {state: [file, text]}, and the pictures' width and height. A state for which the
    control says why it can't draw it is left out."""
    states, size = {}, None
    for state in plan.states:
        settings = {knob.name: knob.values[i] for knob, i in zip(plan.knobs, state, strict=True)}
        if hasattr(control, "made"):  # a playground shows what was made before, too
            control.made.clear()
        control.drawn = None
        control.put(**settings)
        if control.drawn is None:
            continue
        content, size = as_webp(control.image.value)
        name = hashlib.sha256(content).hexdigest()[:16] + ".webp"
        (folder / name).write_bytes(content)
        states[state] = [name, control.message]
    return states, size


def leave_out_undrawn(plan: Plan, states: dict[tuple, list[str]]) -> tuple[list[Knob], dict[tuple, list[str]]]:
    """The knobs without the values that could never be drawn, and the states in their numbers. A knob of which fewer than two
    values are left becomes one of ``plan.fixed``."""
    alive, places, columns = [], [], []  # the knobs that are left, their old places, and {old number of a value: new one}
    for k, knob in enumerate(plan.knobs):
        drawn = sorted({state[k] for state in states})
        if len(drawn) < 2:
            plan.fixed[knob.label] = knob.texts[knob.start]
            continue
        texts, values = [knob.texts[i] for i in drawn], [knob.values[i] for i in drawn]
        alive.append(Knob(knob.name, knob.label, knob.kind, values, texts, drawn.index(knob.start), knob.of))
        columns.append({old: new for new, old in enumerate(drawn)})
        places.append(k)
    renumbered = {}
    for state, shown in states.items():
        kept = tuple(column[state[k]] for column, k in zip(columns, places, strict=True))
        renumbered[kept] = shown
    return alive, renumbered


def find_twin(control, plan: Plan, own: Path) -> Path | None:
    """The folder of a control of another notebook that is the same: its kind, its knobs and its first picture are equal."""
    first = hashlib.sha256(as_webp(control.image.value)[0]).hexdigest()[:16] + ".webp"
    for path in frames_folder().glob(f"*/*/{LISTING}"):
        listing = json.loads(path.read_text(encoding="utf-8"))
        start = ",".join(str(knob["start"]) for knob in listing["knobs"])
        same = listing["kind"] == type(control).__name__ and listing["knobs"] == [describe(knob) for knob in plan.knobs]
        if same and path.parent != own and listing["states"][start][0] == first:
            return path.parent
    return None


def describe(knob: Knob) -> dict:
    """A knob for the listing."""
    about = {"name": knob.name, "label": knob.label, "kind": knob.kind}
    return about | {"texts": knob.texts, "start": knob.start, "of": knob.of}


# --- executing the notebooks -----------------------------------------------------------------------------------------------


def frames_folder() -> Path:
    """Where the frames are kept, outside the work tree."""
    return cache_folder() / "frames"


def is_control(cell: dict) -> bool:
    """Whether a cell of an executed notebook shows a control."""
    for output in cell.get("outputs", []):
        plain = "".join(output.get("data", {}).get("text/plain", ""))
        if plain.startswith(("Control: ", "Playground: ")):
            return True
    return False


def code_cells(notebook: dict) -> list[dict]:
    """The cells that a control may depend on: all code but the checks, which no other cell builds on."""
    return [
        cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "check" not in cell["metadata"].get("tags", [])
    ]


def find_controls(notebook: dict) -> dict[str, str]:
    """The controls of a notebook: {id of the cell: hash of all code up to there}."""
    controls, so_far = {}, hashlib.sha256()
    for cell in code_cells(notebook):
        so_far.update("".join(cell["source"]).encode())
        if is_control(cell):
            controls[cell["id"]] = so_far.hexdigest()[:16]
    return controls


def read_listing(number: str, cell: str) -> dict | None:
    """What is stored of a control: its listing, or None."""
    path = frames_folder() / number / cell / LISTING
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def draw_notebook(path: Path) -> int:
    """Execute a notebook as far as its last control, and store the states of those that are not stored; returns how many."""
    import nbformat
    from nbclient import NotebookClient

    notebook = json.loads(path.read_text(encoding="utf-8"))
    number = path.name[:2]
    missing = {}
    for cell, code in find_controls(notebook).items():
        listing = read_listing(number, cell)
        if listing is None or listing["code"] != code:
            missing[cell] = code
    if not missing:
        return 0
    cells = [nbformat.v4.new_code_cell(f"import sys\nsys.path.append({str(HERE)!r})\nimport frames as frames_of_book")]
    last = list(missing)[-1]
    for cell in code_cells(notebook):
        source = "".join(cell["source"])
        cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": cell["metadata"].get("tags", [])}))
        if cell["id"] in missing:
            shown = source.strip().splitlines()[-1]
            folder = frames_folder() / number / cell["id"]
            cells.append(nbformat.v4.new_code_cell(f"frames_of_book.store({shown}, {str(folder)!r}, {missing[cell['id']]!r})"))
        if cell["id"] == last:
            break
    copy = nbformat.v4.new_notebook(cells=cells, metadata=notebook["metadata"])
    NotebookClient(copy, timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    return len(missing)


# --- in the book -----------------------------------------------------------------------------------------------------------


def control_html(listing: dict, cell: str, up: str) -> str:
    """The element that takes the place of a control's static picture; ``up`` leads from the page to the book's root."""
    if not listing["knobs"]:
        return f'<p class="ldm-run">{needs_kernel(listing, up)}</p>'
    rows = [knob_html(knob, f"{cell}-{knob['name']}") for knob in listing["knobs"]]
    start = ",".join(str(knob["start"]) for knob in listing["knobs"])
    file, text = listing["states"][start]
    width, height = listing["size"]
    data = {"folder": f"{up}_static/frames/", "start": start, "states": listing["states"]}
    label = "The notebook's control: " + ", ".join(knob["label"] for knob in listing["knobs"])
    notes = [note for note in (thinned_note(listing), needs_kernel(listing, up)) if note]
    parts = [
        f'<div class="ldm-frames" role="group" aria-label="{html.escape(label)}" hidden>',
        *rows,
        '<p><button type="button">Reset</button></p>',
        f'<img src="{up}_static/frames/{file}" alt="{html.escape(text)}" width="{width}" height="{height}" loading="lazy">',
        f'<p class="ldm-note" role="status">{html.escape(text)}</p>',
        *(f'<p class="ldm-run">{note}</p>' for note in notes),
        f'<script type="application/json">{json.dumps(data).replace("<", chr(92) + "u003c")}</script>',
        "</div>",
    ]
    return "\n".join(parts)


def knob_html(knob: dict, name: str) -> str:
    """One row: a slider or a menu with its label."""
    label = f'<label for="{name}">{html.escape(knob["label"])}</label>'
    if knob["kind"] == "menu":
        options = [
            f'<option value="{i}"{" selected" if i == knob["start"] else ""}>{html.escape(text)}</option>'
            for i, text in enumerate(knob["texts"])
        ]
        return f'<p class="ldm-knob">{label} <select id="{name}">{"".join(options)}</select></p>'
    texts = html.escape(json.dumps(knob["texts"]))
    now = html.escape(knob["texts"][knob["start"]])
    slider = (
        f'<input type="range" id="{name}" min="0" max="{len(knob["texts"]) - 1}" value="{knob["start"]}" '
        f'aria-valuetext="{now}" data-texts="{texts}">'
    )
    return f'<p class="ldm-knob">{label} {slider} <output for="{name}">{now}</output></p>'


def thinned_note(listing: dict) -> str:
    """What the page's sliders leave out, or nothing."""
    thin = [knob for knob in listing["knobs"] if len(knob["texts"]) < knob["of"]]
    parts = [f"{len(knob['texts'])} of {knob['of']:,} settings of <em>{html.escape(knob['label'])}</em>" for knob in thin]
    notes = [f"Drawn for this page: {', '.join(parts)}. The notebook itself has them all."] if parts else []
    if len(listing["states"]) < math.prod(len(knob["texts"]) for knob in listing["knobs"]):
        notes.append("Moving one slider puts the others back.")
    return " ".join(notes)


def needs_kernel(listing: dict, up: str) -> str:
    """What can't be turned in the page, and where it can."""
    boxes = [
        f"{html.escape(label)} ({html.escape(value)})" if value else html.escape(label)
        for label, value in listing["fixed"].items()
    ]
    if not boxes:
        return ""
    where = "run this notebook with <code>make lab</code>"
    if listing["kind"] == "Playground":
        where = f'<a href="{up}live.html">draw in the page</a>, or {where}'
    return f"Only with a running model: {', '.join(boxes)}. To change it, {where}."


def put_frames(notebook: dict, number: str, up: str, folder: Path) -> dict[str, int]:
    """Put the controls of a notebook that are stored into its staged copy, their pictures into ``folder``; returns counts."""
    counts = {"controls": 0, "listable": 0, "alive": 0, "old": 0, "missing": 0}
    codes = find_controls(notebook)
    for cell in notebook["cells"]:
        if cell.get("id") not in codes:
            continue
        counts["controls"] += 1
        listing = read_listing(number, cell["id"])
        if listing is None:
            counts["missing"] += 1
            continue
        counts["listable"] += listing["listable"]
        counts["alive"] += bool(listing["knobs"])
        counts["old"] += listing["code"] != codes[cell["id"]]
        folder.mkdir(parents=True, exist_ok=True)
        for name, _ in listing["states"].values():
            shutil.copy(frames_folder() / number / cell["id"] / name, folder / name)
        element = control_html(listing, cell["id"], up)
        cell["outputs"].append({"output_type": "display_data", "metadata": {}, "data": {"text/html": element}})
    return counts


def main(asked: list[str]) -> int:
    """Draw what is missing, one notebook after the other; ``asked`` names some by their numbers."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if asked and path.name[:2] not in asked:
            continue
        start = time.monotonic()
        count = draw_notebook(path)
        print(f"{path.name}: {count} controls drawn, {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
