"""How `make test` runs the notebooks: nbval in strict mode, closed where it is lenient, one line a notebook."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

OUTPUT_TIMEOUT = 30  # seconds without any output after the reply; nbval's own 5 is too short on a busy machine


def pytest_collection_modifyitems(items):
    """Give cells time, and leave out of the comparison what differs between machines."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = OUTPUT_TIMEOUT
            # Warnings and progress bars differ between library versions; they are not what a cell shows. A picture comes as
            # HTML too (figures.ImageWithAlt), which committed notebooks leave out.
            item.parent.skip_compare = (*item.parent.skip_compare, "stderr", "text/html")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    """After a timeout nbval expects the remaining cells to fail, and so passes the run. Here they fail."""
    report = yield
    if getattr(item.parent, "timed_out", False) and report.when == "call" and not report.failed:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: this cell, or one before it, ran past the time limit"
        vars(report).pop("wasxfail", None)
    return report


class NotebookLines:
    """Print one line as each notebook finishes, in place of a letter a cell."""

    def __init__(self, config):
        self.terminal = config.pluginmanager.getplugin("terminalreporter")
        self.root = config.rootpath
        self.reports = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report):
        """No letter for a cell that passed."""
        category, letter, word = yield
        if ".ipynb::" not in report.nodeid:
            return category, letter, word
        return category, "", word if report.failed else ""

    def pytest_runtest_logreport(self, report):
        """A line when the last cell of a notebook has ended."""
        path, _, cell = report.nodeid.partition("::")
        if not path.endswith(".ipynb"):
            return
        reports = self.reports[path]
        reports.append(report)
        cells = count_code_cells(self.root / path)
        if len({r.nodeid for r in reports if r.when == "teardown"}) == cells:
            failed = {r.nodeid for r in reports if r.failed}
            passed = {r.nodeid for r in reports if r.when == "call" and r.passed} - failed
            verdict = "FAILED" if failed else "passed"
            seconds = sum(r.duration for r in reports)
            self.terminal.ensure_newline()
            self.terminal.write_line(f"{path:45s} {seconds:6.1f} s  {len(passed)} of {cells} cells  {verdict}")


def count_code_cells(path: Path) -> int:
    """How many cells of a notebook are run."""
    return sum(cell["cell_type"] == "code" for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


@pytest.hookimpl(trylast=True)  # the terminal reporter must be there
def pytest_configure(config):
    """Print those lines, in the process that prints."""
    if not hasattr(config, "workerinput"):  # in the process that prints, not in the workers
        config.pluginmanager.register(NotebookLines(config))
