"""What the benchmarks share: their options, a fair clock, interleaved pairs, a busy core, and what is stored beside the
figures."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRIALS = ROOT / "runs" / "benchmarks"  # where --quick goes: git ignores it
LOAD = os.getloadavg()[0]  # what else ran in the minute before this module was loaded
NEVER_RESTS = "while True: pass"


def options(description: str, **more: tuple[int, str]) -> argparse.Namespace:
    """The command line: ``--quick``, and each of ``more`` (its default, what it is) as a whole number."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a rougher answer, stored in runs/benchmarks")
    for name, (default, what) in more.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    return parser.parse_args()


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> dict:
    """The machine and what was installed, when, beside what load, and the command with the settings of threads before it."""
    import psutil
    import torch

    from ldm_tutorial.storage.threads import COUNTS, WAITING

    settings = [f"{name}={os.environ[name]}" for name in (*WAITING, *COUNTS) if name in os.environ]
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "date": date.today().isoformat(),
        "load_before": round(LOAD, 2),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        # where this folder lies is nobody's business
        "command": " ".join([*settings, "python", *sys.argv]).replace(f"{ROOT}/", ""),
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


@contextmanager
def busy_core(wanted: bool = True) -> Iterator[None]:
    """Beside it, one process that keeps a core busy."""
    process = subprocess.Popen([sys.executable, "-c", NEVER_RESTS]) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def store(name: str, figures: dict, quick: bool = False) -> Path:
    """Write ``results/<name>.json`` (with ``quick`` into runs/benchmarks): the figures and the machine they come from."""
    folder = TRIALS if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**figures, "machine": describe()}, indent=1) + "\n", encoding="utf-8")
    return path
