"""The model in the page: what docs/book/static/live needs beside its scripts.

``python docs/book/live.py`` fetches the browser's runtime once, by npm, into the cache (``make book-runtime``). ``make site``
then puts it and the model's files into the book; without the runtime the book is whole but for the live model.
"""

import base64
import dataclasses
import gzip
import hashlib
import html
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ldm_tutorial.curios.vocabulary import BACKGROUNDS, MATERIALS, NEAR, OBJECTS, SILENT, article, synonyms, vocabulary
from ldm_tutorial.engine.engine import GRAPHS
from ldm_tutorial.files import WEIGHTS, cache_folder
from ldm_tutorial.settings import DEFAULT_SAMPLING

PACKAGE = "onnxruntime-web@1.30.0"
CHECKSUM = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
WASM = "ort-wasm-simd-threaded.wasm"
SCRIPTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs")
LICENCE = (
    "onnxruntime-web is under the MIT licence, copyright Microsoft Corporation: see its repository, microsoft/onnxruntime.\n"
)
WEIGHT_FILES = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
MODEL_FILES = ("engine.json", "tokenizer/tokenizer.json", *GRAPHS.values(), *WEIGHT_FILES)

# The live figures of the lessons: in which notebook, at the end of which section, and what the figure holds
# (static/live/figure.js). `how` replaces parts of the default way of sampling.
FIGURES = {
    "05_sampling": (
        "How many steps?",
        {
            "text": "Live, in this page: the same noise, drawn with as many DDIM steps as you choose. Try 2, 4, 8 and 20.",
            "vary": "steps",
            "prompt": "a golden mug on a blue background",
            "seed": 7,
            "how": {"sampler": "ddim", "interval": [0, 1]},
            "slider": {"label": "Steps", "min": 2, "max": 50, "step": 1, "start": 4, "caption": "{} steps"},
        },
    ),
    "08_cross_attention": (
        "What does a word do?",
        {
            "text": "Live, in this page: two sentences, one noise. Exchange a word in the second and see which places change.",
            "vary": "prompt",
            "prompts": ["a wooden mug on a blue background", "a golden mug on a blue background"],
            "seed": 7,
            "how": {},
        },
    ),
    "09_text_to_image": (
        "When does guidance help?",
        {
            "text": "Live, in this page: the same noise and prompt, with the guidance scale that you choose, in every step.",
            "vary": "guidance",
            "prompt": "an armchair made of avocado",
            "seed": 7,
            "how": {"interval": [0, 1]},
            "slider": {"label": "Guidance", "min": 1, "max": 15, "step": 0.5, "start": 1, "caption": "guidance {}"},
        },
    ),
}


def has_runtime() -> bool:
    """Whether the browser's runtime lies in the cache."""
    return (runtime_folder() / f"{WASM}.gz").exists()


def put_figure(notebook: dict, name: str, up: str) -> bool:
    """Put the live figure of a lesson at the end of its section; ``up`` leads from the page to the book's first folder.

    Returns whether there is one. Without the browser's runtime there is none.

    Raises:
        SystemExit: where the section's heading is not in the notebook any more.
    """
    if name not in FIGURES:
        return False
    heading, figure = FIGURES[name]
    headings = {}  # number of the cell -> heading without its marks
    for number, cell in enumerate(notebook["cells"]):
        first = "".join(cell["source"]).lstrip().split("\n")[0]
        if cell["cell_type"] == "markdown" and first.startswith("#"):
            headings[number] = first.lstrip("# ").strip()
    starts = [number for number, text in headings.items() if text == heading]
    if not starts:
        raise SystemExit(f"{name} has no section {heading!r} any more: name another for its figure in docs/book/live.py.")
    if not has_runtime():
        return False
    end = min((number for number in headings if number > starts[0]), default=len(notebook["cells"]))
    lines = [
        "```{raw} html",
        f'<div class="ldm-live" role="group" aria-label="Live figure" data-figure="{html.escape(json.dumps(figure))}"></div>',
        f'<script type="module" src="{up}_static/live/figure.js"></script>',
        "```",
    ]
    notebook["cells"].insert(end, {"cell_type": "markdown", "id": "live-figure", "metadata": {}, "source": "\n".join(lines)})
    return True


def runtime_folder() -> Path:
    """Where the browser's runtime is kept, outside the work tree."""
    return cache_folder() / "book" / PACKAGE.replace("@", "-")


def fetch_runtime() -> Path:
    """Fetch the pinned package by npm, compare its checksum, keep the files that the page needs."""
    folder = runtime_folder()
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is missing: install Node.js (its package manager comes with it), then run this again.")
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=scratch, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            raise SystemExit(f"{PACKAGE} could not be fetched by npm: {done.stderr.strip()[-300:] or 'no answer'}")
        digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if f"sha512-{digest}" != CHECKSUM:
            raise SystemExit(f"{PACKAGE} is not the package that was pinned (its checksum differs): nothing was kept.")
        fresh = Path(scratch) / "kept"
        fresh.mkdir()
        with tarfile.open(archives[0]) as archive:
            for name in SCRIPTS:
                (fresh / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())
            wasm = archive.extractfile(f"package/dist/{WASM}").read()
        (fresh / f"{WASM}.gz").write_bytes(gzip.compress(wasm, 9, mtime=0))
        (fresh / "LICENCE.txt").write_text(LICENCE, encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(fresh, folder)
    return folder


def words() -> dict:
    """What the page says about words: those that are known, and hints for others."""
    forms = {name for others in (synonyms("nouns"), synonyms("bare bat")) for group in others.values() for name in group}
    forms |= {*OBJECTS, "bat"}
    objects = sorted({" ".join(form.lower().replace("-", " ").split()) for form in forms})
    return {"known": sorted(vocabulary()), "silent": sorted(SILENT), "near": NEAR, "objects": objects, "draws": list(OBJECTS)}


def surprises() -> dict:
    """Parts of prompts for the button that surprises."""
    return {
        "object": [article(name) for name in OBJECTS],
        "material": [after[0] for _, after in MATERIALS.values()],
        "background": [f"{article(name)} background" for name in BACKGROUNDS],
    }


def put_model(live: Path) -> int:
    """Put runtime, model and live.json into the book's folder ``live``; returns the bytes until the first picture, 0 where
    the runtime was never fetched."""
    if not has_runtime():
        return 0
    shutil.copytree(runtime_folder(), live / "ort", dirs_exist_ok=True)
    total = (live / "ort" / f"{WASM}.gz").stat().st_size
    for name in MODEL_FILES:
        target = live / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(WEIGHTS / name, target)
        total += target.stat().st_size
    content = {"bytes": total, "sampling": dataclasses.asdict(DEFAULT_SAMPLING), "words": words(), "surprises": surprises()}
    (live / "live.json").write_text(json.dumps(content), encoding="utf-8")
    return total


if __name__ == "__main__":
    print(f"The browser's runtime lies in {fetch_runtime()}: `make site` puts it into the book.")
    sys.exit(0)
