"""`ldm evaluate --quick` with PyTorch and with the engine, in turn, in one run: the time of each, and every number of both.

Each run is a new process, by the wall clock, as a user starts it; the order changes from round to round. The renders that are
measured beside the pictures lie in the cache before the first run begins. A number is unchanged where each of the two values
lies in the other one's interval.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import options, store

ENGINES = ("torch", "onnx")


def evaluate(engine: str) -> tuple[float, dict]:
    """Seconds, and the numbers, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "evaluation.json"
        command = [sys.executable, "-m", "ldm_tutorial.lab.cli", "evaluate", "--quick", "--engine", engine, "--json", str(file)]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # its progress is shown
        taken = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}")
        return taken, json.loads(file.read_text(encoding="utf-8"))


def is_inside(value: float, interval: dict) -> bool:
    return interval["low"] <= value <= interval["high"]


def unchanged(one: dict, other: dict) -> bool:
    """Whether each of two numbers with intervals lies in the other one's interval."""
    return is_inside(one["value"], other) and is_inside(other["value"], one)


def fill_the_cache() -> None:
    """Render what `ldm evaluate --quick` renders and keeps."""
    from ldm_tutorial.curios import Curios
    from ldm_tutorial.lab.evaluation import SIZES

    Curios("validation", SIZES["quick"]["psnr"], 9)
    Curios("train", SIZES["quick"]["train"])


def main() -> None:
    given = options(__doc__, rounds=(2, "runs of each"))
    rounds = 1 if given.quick else given.rounds
    fill_the_cache()
    taken: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    found: dict[str, dict] = {}
    for k in range(rounds):
        for engine in ENGINES[:: 1 if k % 2 == 0 else -1]:
            seconds, numbers = evaluate(engine)
            taken[engine].append(seconds)
            found.setdefault(engine, numbers)  # every run of one engine measures the same pictures
            print(f"{engine:5s} {seconds:6.0f} s", flush=True)

    measured = [key for key in found["torch"] if not key.startswith("seconds")]
    changed = [key for key in measured if not unchanged(found["torch"][key], found["onnx"][key])]
    for key in measured:
        values = [f"{n['value']:9.4f} ({n['low']:.4f} to {n['high']:.4f})" for n in (found[engine][key] for engine in ENGINES)]
        print(f"{key:26s} {values[0]:34s} {values[1]:34s} {'CHANGED' if key in changed else ''}".rstrip())
    ratio = median(taken["torch"]) / median(taken["onnx"])
    print(f"{len(measured) - len(changed)} of {len(measured)} numbers are unchanged within their intervals; ", end="")
    print(f"with the engine it is {ratio:.2f} times as fast")
    seconds_of = {e: {"median": median(s), "lowest": min(s), "highest": max(s)} for e, s in taken.items()}
    figures = {"numbers": found, "changed": changed, "seconds": seconds_of, "ratio": ratio}
    store("evaluate_engines", figures | {"rounds": rounds, "clock": "wall clock"}, given.quick)


if __name__ == "__main__":
    main()
