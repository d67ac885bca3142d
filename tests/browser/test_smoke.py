"""`make lab` for real: JupyterLab comes up, a browser shows notebook 00, the right kernel waits for work, a control works."""

import json
import os
import re
import sys
import time
from pathlib import Path

from tests.browser.conftest import PATIENCE, TOKEN, ask
from tests.run import ROOT

NOTEBOOK = "notebooks/00_overview.ipynb"


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


def test_a_control_answers_mouse_and_keyboard(lab_page):
    page = lab_page("notebooks/03_forward_diffusion.ipynb")
    page.run_all()
    assert not page.cell_errors()
    (control,) = page.controls()
    page.turn_all(control, 1)
    assert not page.errors
