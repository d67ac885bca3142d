"""Seconds for a picture in the book's page (WebAssembly, one thread) and in Python by the engine (one thread), in turn.

First `make book-runtime` and `make site`. The book is served from this machine and opened in Chromium; both draw the same
prompt and seeds in the default way, and the pictures must be equal to 2 of 255. Beside it: the bytes that the first picture
waits for, and the seconds that they take at 10 Mbit/s.
"""

import functools
import json
import shutil
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import machine
from machine import ROOT, compare, options, store

HTML = ROOT / "docs" / "_build" / "html"
PROMPT = "an armchair made of avocado on a pink background"
LIMIT = 300_000  # milliseconds for one picture


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder) -> str:
    """The address at which this process serves a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def draw(page, seed: int):
    """One picture of the playground, uint8 [64, 64, 3]."""
    import numpy as np

    page.locator("[name=prompt]").fill(PROMPT)
    page.locator("[name=seed]").fill(str(seed))
    before = page.locator("#ldm-playground").get_attribute("data-drawn")
    page.locator("[name=draw]").click()
    drawn = f"document.getElementById('ldm-playground').dataset.drawn != {json.dumps(before)}"
    page.wait_for_function(drawn, timeout=LIMIT)
    code = "(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    values = page.locator("#ldm-playground canvas").first.evaluate(code)
    return np.array(values, np.uint8).reshape(64, 64, 4)[..., :3]


def main() -> None:
    given = options(__doc__, pairs=(7, "timed pairs"))
    if not (HTML / "_static" / "live" / "live.json").exists():
        sys.exit("The book with the model in its page is not there: run `make book-runtime`, then `make site`.")

    import numpy as np
    from playwright.sync_api import sync_playwright

    from ldm_tutorial.engine import Engine

    machine.clock, machine.clock_name = time.perf_counter, lambda: "wall clock"  # the browser is another process
    engine = Engine(threads=1)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{serve(HTML)}/live.html")
        page.wait_for_function("!document.querySelector('[name=draw]').disabled", timeout=LIMIT)
        start = time.perf_counter()
        first = draw(page, 0)
        seconds_first = time.perf_counter() - start
        apart = int(np.abs(first.astype(int) - engine.sample([PROMPT], [0])[0]).max())
        assert apart <= 2, f"the pictures differ by {apart} of 255"
        seeds_page, seeds_engine = count(1), count(1)
        found = compare(
            lambda: draw(page, next(seeds_page)),
            lambda: engine.sample([PROMPT], [next(seeds_engine)]),
            1 if given.quick else given.pairs,
        )
        browser.close()
    size = json.loads((HTML / "_static" / "live" / "live.json").read_text(encoding="utf-8"))["bytes"]
    figures = {
        "seconds_page": found["seconds_ours"],
        "seconds_python": found["seconds_theirs"],
        "page_times_python": 1 / found["ratio"],
        "pairs": found["pairs"],
        "largest_difference": apart,
        "seconds_first_picture": seconds_first,
        "bytes_until_first_picture": size,
        "seconds_at_10_mbit": size * 8 / 1e7,
    }
    print(f"a picture: {figures['seconds_page']:.2f} s in the page, {figures['seconds_python']:.2f} s in Python, one thread")
    print(f"each ({figures['page_times_python']:.1f} times, median of {found['pairs']} pairs); the first picture with loading")
    print(f"{seconds_first:.1f} s here; {size / 1e6:.1f} MB, {figures['seconds_at_10_mbit']:.0f} s at 10 Mbit/s")
    store("page", figures, given.quick)


if __name__ == "__main__":
    main()
