"""`make test`: unit tests, every notebook under strict nbval, a browser smoke test, the book. Each phase is timed.

A GPU, where there is one, is used by the same command: nothing here hides it. What was skipped is named in the summary, with
its reason; under CI=true a phase that skipped everything has failed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from ldm_tutorial.storage.threads import available_cores, one_thread_each

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 600  # seconds: no cell needs two minutes, but the machine may be busy
NOT_SLOW = ["-m", "not slow"]
# what `make check` runs: these answer within a minute on 2 cores
QUICK = ("prompts", "tokenizer", "models", "sampling", "attention", "measure", "figures", "terms", "notebooks")


@dataclass
class Result:
    """How one phase ended."""

    phase: str
    code: int  # pytest's exit status: 0 is all well, 5 is that it found no test
    seconds: float
    tests: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # how many tests were skipped, by reason

    @property
    def verdict(self) -> str:
        """ "passed", "SKIPPED" for a phase that ran nothing, or "FAILED"."""
        if self.code != 0:
            return "FAILED"
        if sum(self.skipped.values()) < self.tests:
            return "passed"
        return "FAILED" if os.environ.get("CI") == "true" else "SKIPPED"

    def lines(self) -> list[str]:
        """The phase in the summary: its verdict and time, and below it what was skipped, and why."""
        first = f"{self.phase:20s} {self.verdict:8s} {self.tests - sum(self.skipped.values()):5d} tests {self.seconds:6.0f} s"
        return [first, *(f"    skipped: {count} ({reason})" for reason, count in self.skipped.items())]


def find_notebooks() -> list[Path]:
    """All notebooks that must run from end to end. Exercises are not among them: they wait to be filled in."""
    folder = ROOT / "notebooks"
    return sorted([*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")])


def default_jobs() -> int:
    """One process a core, while each has 3 GB of memory to itself; no more than 8."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(available_cores(), 8, int(memory / 3e9)))


def environment() -> dict[str, str]:
    """One torch thread a process, none of them spinning, and no network: the course must work without."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**os.environ, **one_thread_each(), **offline, "PYTHONUNBUFFERED": "1"}


def run(phase: str, *arguments: object) -> Result:
    """Run pytest for one phase. pytest exits non-zero when a test fails and when it found none at all."""
    print(f"\n##### {phase}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *map(str, arguments)]
        code = subprocess.call(command, cwd=ROOT, env=environment())
        result = Result(phase, code, time.monotonic() - start)
        if report.exists():
            read_report(report, result)
    return result


def read_report(report: Path, result: Result) -> None:
    """Count the tests in pytest's report, and those skipped by their reason."""
    for case in ET.parse(report).iter("testcase"):
        result.tests += 1
        skipped = case.find("skipped")
        if skipped is not None:
            reason = skipped.get("message", "no reason given")
            result.skipped[reason] = result.skipped.get(reason, 0) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes at once (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="the slow tests too: long tables, long runs")
    parser.add_argument("--fast", action="store_true", help="the unit tests that answer within a minute, and nothing else")
    options = parser.parse_args()
    many = ["-n", options.jobs, "--dist"]

    # More phases are more calls of run(...) in this list.
    chosen = [f"tests/test_{name}.py" for name in QUICK] if options.fast else ["tests", "--ignore=tests/browser"]
    slow_too = [] if options.all else NOT_SLOW
    results = [run("unit tests", *chosen, *slow_too, *many, "loadfile")]
    if not options.fast:
        notebooks = [path.relative_to(ROOT) for path in find_notebooks()]
        strict = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", CELL_TIMEOUT]
        results += [run("notebooks", *strict, *many, "loadscope", *notebooks) if notebooks else Result("notebooks", 5, 0.0)]
        results += [run("browser smoke test", "tests/browser/test_smoke.py")]
        results += [run("the book", "tests/browser/test_book.py", *slow_too)]

    print("\n##### summary")
    print("\n".join(line for result in results for line in result.lines()))
    return 0 if all(result.verdict != "FAILED" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
