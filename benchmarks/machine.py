"""What the benchmarks share: their options, a fair clock, interleaved pairs, and what is stored beside the figures."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRIALS = ROOT / "runs" / "benchmarks"  # where --quick goes: git ignores it


def options(description: str, **more: tuple[int, str]) -> argparse.Namespace:
    """The command line: ``--quick``, and each of ``more`` (its default, what it is) as a whole number."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a rougher answer, stored in runs/benchmarks")
    for name, (default, what) in more.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    return parser.parse_args()


def describe() -> dict:
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "command": " ".join(["python", *sys.argv]).replace(f"{ROOT}/", ""),  # where this folder lies is nobody's business
    }


def clock_name() -> str:
    import torch

    return "processor time" if torch.get_num_threads() == 1 and not torch.cuda.is_available() else "wall clock"


def clock() -> float:
    """Seconds. With one torch thread on a CPU the processor time of this process, to which other programs make no
    difference; otherwise the wall clock, after the GPU has done what it was given."""
    import torch

    if clock_name() == "processor time":
        return time.process_time()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def summary(ours: list[float], theirs: list[float]) -> dict:
    """Pairs of seconds -> how many times faster ours is: the median of the pairs' ratios, and their range."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    found = {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios), "pairs": len(ratios)}
    return {**found, "seconds_ours": median(ours), "seconds_theirs": median(theirs), "clock": clock_name()}


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> dict:
    """Run both in turn, in pairs, each pair in the other order than the one before; see :func:`summary`."""
    ours(), theirs()  # warm up
    taken: dict[Callable, list[float]] = {ours: [], theirs: []}
    for k in range(pairs):
        for work in (ours, theirs)[:: 1 if k % 2 else -1]:
            taken[work].append(seconds(work))
    return summary(taken[ours], taken[theirs])


def store(name: str, figures: dict, quick: bool = False) -> Path:
    """Write ``results/<name>.json`` (with ``quick`` into runs/benchmarks): the figures and the machine they come from."""
    folder = TRIALS if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**figures, "machine": describe()}, indent=1) + "\n", encoding="utf-8")
    return path
