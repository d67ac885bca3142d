"""`make test` itself: what was skipped is said, with its reason, and counts as a failure where nobody reads it."""

import pytest

from tests import run
from tests.run import Result, read_report

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="a" time="1"/>
<testcase name="b"><skipped message="no browser found: `sudo apt-get install chromium`">...</skipped></testcase>
<testcase name="c"><skipped message="no browser found: `sudo apt-get install chromium`">...</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    return path


def test_skipped_tests_are_named_with_their_reason(report):
    result = Result("browser smoke test", 0, 12.0)
    read_report(report, result)
    first, second = result.lines()
    assert "passed" in first and "1 tests" in first
    assert second == "    skipped: 2 (no browser found: `sudo apt-get install chromium`)"


def test_a_phase_that_skipped_everything_has_not_passed(monkeypatch):
    result = Result("browser smoke test", 0, 2.0, tests=2, skipped={"no browser found": 2})
    monkeypatch.delenv("CI", raising=False)
    assert result.verdict == "SKIPPED"
    monkeypatch.setenv("CI", "true")
    assert result.verdict == "FAILED"
    assert Result("unit tests", 1, 2.0, tests=9).verdict == "FAILED"


@pytest.mark.parametrize("options, phases", [([], 4), (["--all"], 4), (["--fast"], 1)])
def test_which_phases_run(monkeypatch, options, phases):
    calls = []

    def pretend(phase, *arguments):
        calls.append((phase, [str(a) for a in arguments]))
        return Result(phase, 0, 1.0, tests=1)

    monkeypatch.setattr(run, "run", pretend)
    monkeypatch.setattr("sys.argv", ["run", *options])
    assert run.main() == 0
    assert len(calls) == phases and calls[0][0] == "unit tests"
    assert ("not slow" in calls[0][1]) == ("--all" not in options)


def test_one_failed_phase_fails_the_run(monkeypatch):
    monkeypatch.setattr(run, "run", lambda phase, *_: Result(phase, int(phase == "notebooks"), 1.0, tests=1))
    monkeypatch.setattr("sys.argv", ["run"])
    assert run.main() == 1
