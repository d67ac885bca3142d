"""`make test`: unit tests, every notebook under strict nbval, a browser smoke test. Each phase is timed.

A GPU, where there is one, is used by the same command: nothing here hides it.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 600  # seconds: no cell needs two minutes, but the machine may be busy


def find_notebooks() -> list[Path]:
    """All notebooks that must run from end to end. Exercises are not among them: they wait to be filled in."""
    folder = ROOT / "notebooks"
    return sorted([*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")])


def default_jobs() -> int:
    """One process a core, while each has 3 GB of memory to itself; no more than 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, 8, int(memory / 3e9)))


def environment() -> dict[str, str]:
    """One torch thread a process, none of them spinning, and no network: the course must work without."""
    one_thread = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**os.environ, **one_thread, **offline, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


def run(phase: str, *arguments: object) -> tuple[str, bool, float]:
    """Run pytest for one phase. pytest exits non-zero when a test fails and when it found none at all."""
    print(f"\n##### {phase}", flush=True)
    start = time.monotonic()
    code = subprocess.call([sys.executable, "-m", "pytest", *map(str, arguments)], cwd=ROOT, env=environment())
    return phase, code == 0, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes at once (default: %(default)s)")
    jobs = parser.parse_args().jobs
    notebooks = [path.relative_to(ROOT) for path in find_notebooks()]

    phases = [run("unit tests", "tests", "--ignore=tests/browser", "-n", jobs, "--dist", "loadfile")]
    if notebooks:
        strict = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", CELL_TIMEOUT]
        phases += [run("notebooks", *strict, "-n", jobs, "--dist", "loadscope", *notebooks)]
    else:
        print("\n##### notebooks: there is none in notebooks/", flush=True)
        phases += [("notebooks", False, 0.0)]
    phases += [run("browser smoke test", "tests/browser/test_smoke.py")]

    print("\n##### summary")
    for phase, passed, seconds in phases:
        print(f"{phase:20s} {'passed' if passed else 'FAILED'} {seconds:7.0f} s")
    return 0 if all(passed for _, passed, _ in phases) else 1


if __name__ == "__main__":
    sys.exit(main())
