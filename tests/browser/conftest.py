"""A browser, and the JupyterLab that `make lab` starts. Neither shows the settings of whoever runs the tests."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.run import ROOT

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
MAC_BROWSERS = [Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")]
INSTALL = "`sudo apt-get install chromium` on Debian and Ubuntu, `brew install --cask google-chrome` on macOS"
# In a container there is neither a sandbox nor a GPU for the browser, and it need not talk to anyone but us.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
TOKEN = "smoke-test"
LEARNER = {"viewport": {"width": 1280, "height": 900}}  # a small laptop
PATIENCE = int(os.environ.get("LDM_TUTORIAL_PATIENCE", 120))  # seconds, for each thing that is waited for
CACHE = os.environ.get("LDM_TUTORIAL_CACHE")  # before the unit tests' own takes its place: notebooks render a lot


@pytest.fixture(scope="session")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: run `make venv`")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    program = program or next((str(path) for path in MAC_BROWSERS if path.exists()), None)
    if program is None:
        pytest.skip(f"no browser found, neither {', '.join(BROWSERS)} nor Google Chrome: {INSTALL}")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def start_lab(folder: Path, root: Path = ROOT):
    """JupyterLab as `make lab` starts it, on a free port; ``folder`` keeps its settings and its log, ``root`` is what it shows.
    Yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = f"--no-browser --ServerApp.port={port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    names = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    environment = {**os.environ, **{name: str(folder / name) for name in names}}
    environment.pop("LDM_TUTORIAL_CACHE", None)
    # -o: this Python runs the test, so the environment is there; make need not look at it again.
    command = ["make", "-o", ".venv/.installed", "lab", f"PY={sys.executable}", f"LAB_ROOT={root}", f"LAB_ARGS={settings}"]
    log = folder / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | ({"LDM_TUTORIAL_CACHE": CACHE} if CACHE else {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ask(f"{url}/api/status")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.5)
        yield url
    finally:
        try:
            os.killpg(server.pid, signal.SIGTERM)  # the group that this function started, and no other
            server.wait(20)
        except ProcessLookupError:  # it has ended by itself
            pass
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab in the course's own folder."""
    with start_lab(tmp_path_factory.mktemp("jupyter")) as url:
        yield url


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """The address of a JupyterLab in a folder with copies of the notebooks, and that folder: run and change them at will."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("*.py", ".ipynb_checkpoints"))
    results = folder / "benchmarks" / "results"  # two notebooks read a record there
    results.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "results" / "baselines.json", results)
    with start_lab(tmp_path_factory.mktemp("jupyter"), folder) as url:
        yield url, folder


@pytest.fixture
def lab_page(browser, copies):
    """Open a notebook by its path: a LabPage. Its kernel ends with the test."""
    from tests.browser.lab_page import LabPage

    url, _ = copies
    pages = []

    def start(name):
        pages.append(LabPage(browser.new_page(**LEARNER), url, name))
        return pages[-1].open()

    yield start
    for page in pages:
        if session := page.session():
            ask(f"{url}/api/sessions/{session['id']}", "DELETE")
        page.page.close()


def ask(url: str, method: str = "GET"):
    """The JSON that JupyterLab's server answers with; None where it answers with nothing."""
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")
