"""`make lab` for real: JupyterLab comes up, a browser shows notebook 00, and the right kernel waits for work."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.run import ROOT

NOTEBOOK = "notebooks/00_overview.ipynb"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
MAC_BROWSERS = [Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")]
# In a container there is neither a sandbox nor a GPU for the browser, and it need not talk to anyone but us.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
TOKEN = "smoke-test"
PATIENCE = 120  # seconds, for each thing that is waited for


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    program = program or next((str(path) for path in MAC_BROWSERS if path.exists()), None)
    if program is None:
        pytest.skip(f"no browser found (looked for {', '.join(BROWSERS)})")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a free port and without the settings of whoever runs the test."""
    folder = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = f"--no-browser --ServerApp.port={port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    names = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    own = {name: str(folder / name) for name in names}
    # -o: this Python runs the test, so the environment is there; make need not look at it again.
    command = ["make", "-o", ".venv/.installed", "lab", f"PY={sys.executable}", f"LAB_ARGS={arguments}"]
    log = folder / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **own},
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
        os.killpg(server.pid, signal.SIGTERM)  # the group that this fixture started, and no other
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def ask(url: str):
    """The JSON that JupyterLab's server answers with."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_notebook_opens_with_its_kernel(browser, lab):
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    before = (ROOT / NOTEBOOK).read_bytes()
    title = re.search(r"^# (.+)$", "".join(notebook["cells"][0]["source"]), re.MULTILINE)[1]

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{lab}/?token={TOKEN}", timeout=PATIENCE * 1000)  # the address that a learner's browser is sent to
    page.wait_for_url(f"**/lab/tree/{NOTEBOOK}*", timeout=PATIENCE * 1000)
    heading = page.locator(".jp-NotebookPanel h1").first
    heading.wait_for(timeout=PATIENCE * 1000)
    assert heading.inner_text().rstrip("¶").strip() == title
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for(timeout=PATIENCE * 1000)

    # The page shows "idle" before there is a kernel as well: the server knows.
    deadline = time.monotonic() + PATIENCE
    while not any(session["kernel"]["execution_state"] == "idle" for session in ask(f"{lab}/api/sessions")):
        assert time.monotonic() < deadline, "the notebook's kernel did not get ready"
        page.wait_for_timeout(200)
    page.locator('.jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
    (session,) = ask(f"{lab}/api/sessions")
    assert session["path"] == NOTEBOOK
    assert session["kernel"]["name"] == "python3"
    program = ask(f"{lab}/api/kernelspecs")["kernelspecs"]["python3"]["spec"]["argv"][0]
    # A bare name means the Python that runs JupyterLab.
    assert not os.path.isabs(program) or Path(program).parent == Path(sys.executable).parent
    assert not errors
    page.close()
    assert (ROOT / NOTEBOOK).read_bytes() == before
