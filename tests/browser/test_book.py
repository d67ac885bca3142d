"""The book in a real browser: pages without errors or requests to other hosts, and the model that draws in the page."""

import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.browser.conftest import CACHE
from tests.run import ROOT

HTML = ROOT / "docs" / "_build" / "html"
PAGES = ["index.html", "live.html", "claims.html", "notebooks/03_forward_diffusion.html"]
WIDTHS = [360, 768, 1280]
THEMES = ["light", "dark"]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LESSONS = ["05_sampling", "08_cross_attention", "09_text_to_image"]  # those with a live figure
PROMPT, SEED = "an armchair made of avocado on a pink background", 7
REPOSITORY = "https://github.com/OWNER/ldm_tutorial"
MINUTES = 5 * 60_000  # milliseconds: the machine may be busy


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def book():
    """The address of the book, made as `make site` makes it and served below a sub-path, as some hosts do."""
    environment = os.environ | ({"LDM_TUTORIAL_CACHE": CACHE} if CACHE else {})  # where the browser's runtime is kept
    if not CACHE:
        environment.pop("LDM_TUTORIAL_CACHE", None)
    command = [sys.executable, "docs/book/build.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(HTML.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/html"
    server.shutdown()


@pytest.fixture
def open_page(browser, book):
    """Open a page of the book by its name, at a width; what goes wrong on it fails the test."""
    opened = []

    def start(name: str, width: int = 1280, **settings):
        page = browser.new_page(viewport={"width": width, "height": 900}, **settings)
        page.set_default_timeout(MINUTES)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console", lambda message: message.type == "error" and faults.append(f"{message.text} {message.location['url']}")
        )
        page.on("request", lambda request: request.url.startswith((book, "blob:", "data:")) or faults.append(request.url))
        opened.append((page, faults))
        page.goto(f"{book}/{name}")
        return page

    yield start
    for page, faults in opened:
        page.close()
        if not has_runtime():  # then the page asks for live.json in vain, and says so to the reader
            faults = [fault for fault in faults if not fault.endswith("/_static/live/live.json")]
        assert faults == []


def has_runtime() -> bool:
    return (HTML / "_static" / "live" / "live.json").exists()


@pytest.fixture
def playground(open_page):
    page = open_page("live.html")
    if not has_runtime():
        pytest.skip("the browser's runtime is not there: run `make book-runtime`")
    return page


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(open_page, name, width):
    page = open_page(name, width)
    assert page.locator("article h1").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width + 1, f"{name} is {wide} pixels wide in a window of {width}"


def test_no_page_is_wider_than_a_telephone(browser, book):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    found = {}
    for path in sorted(HTML.rglob("*.html")):
        page.goto(f"{book}/{path.relative_to(HTML).as_posix()}")
        found[path.name] = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert len(found) > 20 and {name: wide for name, wide in found.items() if wide > 361} == {}


def test_front_page_is_light(browser, book):
    """Counted as hosts send it: compressed, where that helps."""
    page = browser.new_page()
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(min(len(response.body()), len(gzip.compress(response.body())))))
    page.goto(f"{book}/index.html", wait_until="networkidle")
    page.close()
    assert 10_000 < sum(sizes) < 1_500_000


def test_notebook_pages_are_light(browser, book):
    """What a page fetches before anyone scrolls: its pictures come when they are near."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(min(len(response.body()), len(gzip.compress(response.body())))))
    found, all_of_it = {}, {}
    for path in sorted((HTML / "notebooks").glob("*.html")):
        sizes.clear()
        page.goto(f"{book}/notebooks/{path.name}", wait_until="networkidle")
        found[path.stem] = sum(sizes)
        pictures = set(re.findall(r'src="\.\./(_images/[^"]+)"', path.read_text(encoding="utf-8")))
        all_of_it[path.stem] = sum((HTML / name).stat().st_size for name in pictures)
    page.close()
    print({name: f"{size / 1e6:.1f} MB at once, pictures {all_of_it[name] / 1e6:.1f} MB" for name, size in found.items()})
    assert len(found) == 11 and max(found.values()) < 3_000_000


def test_pictures_have_words(book):
    """Alternative texts as the notebooks give them, no names of files; sizes, so that nothing jumps when a picture comes."""
    count = 0
    for page in (HTML / "notebooks").rglob("*.html"):
        text = page.read_text(encoding="utf-8").split("<article", 1)[1]
        for tag in re.findall(r"<img[^>]*>", text):
            alt = re.search(r'alt="([^"]*)"', tag)
            assert alt and len(alt.group(1)) > 10 and not alt.group(1).endswith((".png", ".jpg")), (page.name, tag[:200])
            count += "_images/" in tag and re.search(r' width="\d+" height="\d+"', tag) is not None
    assert count > 150


def faults_for_readers(page) -> list[str]:
    """What axe-core finds against WCAG 2.2, level AA."""
    from axe_playwright_python.sync_playwright import Axe

    # without preload, for which axe-core would fetch style sheets by itself
    found = Axe().run(page, options={"runOnly": WCAG, "resultTypes": ["violations"], "preload": False})
    return [f"{fault['id']}: {node['html'][:160]}" for fault in found.response["violations"] for node in fault["nodes"]]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", PAGES)
def test_page_for_everybody(open_page, name, theme):
    page = open_page(name, color_scheme=theme)
    if name == "live.html" and has_runtime():  # once it is at rest: the model is loaded
        page.wait_for_function("!document.querySelector('[name=draw]').disabled")
    assert faults_for_readers(page) == []


def test_faults_for_readers_are_found(open_page):
    """The control: a picture without words, and grey words on white."""
    page = open_page(PAGES[-1], color_scheme="light")
    page.evaluate("document.querySelector('article img').removeAttribute('alt')")
    page.evaluate("document.querySelector('article p').style.color = '#ddd'")
    faults = faults_for_readers(page)
    assert sorted({fault.split(":")[0] for fault in faults}) == ["color-contrast", "image-alt"]


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
def test_every_page_for_everybody(browser, book, theme):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=theme)
    faults, count = {}, 0
    for path in sorted(HTML.rglob("*.html")):
        name = path.relative_to(HTML).as_posix()
        if name.startswith("_static/"):  # the theme's templates, no pages
            continue
        page.goto(f"{book}/{name}")
        page.wait_for_load_state("load")
        if found := faults_for_readers(page):
            faults[name] = found
        count += 1
    page.close()
    assert count > 40 and faults == {}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a book that names its repository: a copy of the course's pages, built by its own scripts."""
    course = tmp_path_factory.mktemp("published") / "course"
    leave = shutil.ignore_patterns("_build", "__pycache__", ".*")
    for name in ("docs", "notebooks", "benchmarks", "examples", "ldm_tutorial", "tests", ".github"):
        shutil.copytree(ROOT / name, course / name, ignore=leave)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "environment.yml", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, course / name)
    place = course / "docs" / "book" / "settings.toml"
    settings = place.read_text(encoding="utf-8")
    assert 'repository = ""' in settings
    place.write_text(settings.replace('repository = ""', f'repository = "{REPOSITORY}"'), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(course)}
    done = subprocess.run([sys.executable, "docs/book/build.py"], cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return course


def test_buttons_of_a_published_book(published):
    """Edit leads to the file that a page was made from, wherever it lies; Binder and Colab to the notebook."""
    html = published / "docs" / "_build" / "html"
    edited = 0
    for path in sorted(html.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(rf'href="{REPOSITORY}/edit/main/([^"]*)"', text):
            assert (published / link).is_file(), (path.name, link)
            edited += 1
    assert edited > 40
    lesson = (html / "notebooks" / "05_sampling.html").read_text(encoding="utf-8")
    assert "https://mybinder.org/v2/gh/OWNER/ldm_tutorial/main?urlpath=lab/tree/notebooks/05_sampling.ipynb" in lesson
    assert "https://colab.research.google.com/github/OWNER/ldm_tutorial/blob/colab/notebooks/05_sampling.ipynb" in lesson
    assert f'href="{REPOSITORY}/edit/main/docs/claims.md"' in (html / "claims.html").read_text(encoding="utf-8")


def test_a_book_without_a_repository_has_no_dead_buttons(book):
    for path in HTML.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "colab.research" not in text and "mybinder" not in text and "/edit/" not in text, path.name


def test_colab_notebooks_install_the_course_first(published, tmp_path):
    command = [sys.executable, "docs/book/colab.py", str(tmp_path)]
    subprocess.run(command, cwd=published, env=os.environ | {"PYTHONPATH": str(published)}, check=True)
    written = sorted(tmp_path.rglob("*.ipynb"))
    assert len(written) == 33
    for path in written:
        first, *others = json.loads(path.read_text(encoding="utf-8"))["cells"]
        place = path.relative_to(tmp_path)
        assert f"--branch main {REPOSITORY} " in first["source"] and first["source"].endswith(f"/{place.parent.as_posix()}")
        assert others == json.loads((ROOT / place).read_text(encoding="utf-8"))["cells"]


def test_colab_notebooks_need_a_repository(book, tmp_path):
    done = subprocess.run([sys.executable, "docs/book/colab.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "names no repository" in done.stderr and not list(tmp_path.iterdir())


def test_what_the_download_button_links_to_is_there(book):
    found = 0
    for page in HTML.rglob("*.html"):
        for link in re.findall(r'href="([^"]*_sources/[^"]*)"', page.read_text(encoding="utf-8")):
            assert (page.parent / link).is_file(), (page.name, link)
            found += 1
    assert found > 30


def picture_of(page, number: int = 0) -> np.ndarray:
    """uint8 [64, 64, 3]: what a canvas holds."""
    return pixels_of(page.locator("#ldm-playground canvas").nth(number))


def pixels_of(canvas) -> np.ndarray:
    """uint8 [64, 64, 3]"""
    code = "(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    return np.array(canvas.evaluate(code), np.uint8).reshape(64, 64, 4)[..., :3]


def draw(page, **boxes) -> str:
    """Fill the boxes in, draw, wait; returns what the page says."""
    for name, value in boxes.items():
        page.locator(f"[name={name}]").fill(str(value))
    before = page.locator("#ldm-playground").get_attribute("data-drawn")
    page.locator("[name=draw]").click()
    page.wait_for_function(f"document.getElementById('ldm-playground').dataset.drawn != {json.dumps(before)}", timeout=MINUTES)
    return page.locator(".ldm-note").inner_text()


def test_the_same_seed_is_the_same_picture(playground):
    """In the page and in Python, to 2 of 255."""
    from ldm_tutorial.engine import Engine

    said = draw(playground, prompt=PROMPT, seed=SEED)
    assert said.startswith("Drawn in ")
    ours, theirs = picture_of(playground).astype(int), Engine(threads=1).sample([PROMPT], [SEED])[0].astype(int)
    assert np.abs(ours - theirs).max() <= 2
    assert f"seed={SEED}" in playground.url
    draw(playground, seed=SEED + 1)
    assert np.abs(picture_of(playground).astype(int) - theirs).mean() > 5  # the control: another seed


def test_two_prompts_from_one_noise(playground):
    draw(playground, prompt="a golden duck", other="a brick duck", seed=3, steps=6)
    one, other, apart = (picture_of(playground, k).astype(int) for k in range(3))
    assert (apart[..., 0] == 255 - np.abs(one - other).max(-1)).all() and apart.min() < 128


@pytest.mark.parametrize(
    "boxes, said",
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"seed": "seven"}, 'The seed "seven" must be a whole number'),
        ({"seed": str(2**63)}, "must be a whole number"),
    ],
    ids=str,
)
def test_nonsense_gets_a_sentence(playground, boxes, said):
    for name, value in boxes.items():
        playground.locator(f"[name={name}]").fill(value)
    playground.locator("[name=draw]").click()
    assert said in playground.locator(".ldm-note").inner_text()


def test_a_prompt_that_is_too_long(playground):
    playground.locator("[name=prompt]").fill("a mug " * 100)
    playground.locator("[name=draw]").click()
    playground.wait_for_function("document.querySelector('.ldm-note').textContent.includes('too long')", timeout=MINUTES)
    assert playground.locator("[name=draw]").is_enabled()


def test_unknown_words(playground):
    said = draw(playground, prompt="a dinosaur made of jelly", steps=2)
    assert 'Curios has nothing called "dinosaur", "jelly"' in said and "The model draws one of: armchair" in said


def test_stop(playground):
    playground.locator("[name=steps]").fill("50")
    playground.locator("[name=draw]").click()
    playground.wait_for_function("document.querySelector('.ldm-note').textContent.startsWith('Step')", timeout=MINUTES)
    playground.locator("[name=stop]").click()
    playground.wait_for_function("document.querySelector('.ldm-note').textContent == 'Stopped.'", timeout=MINUTES)
    assert playground.locator("[name=draw]").is_enabled()


def test_a_link_brings_the_boxes_back(open_page, playground):
    page = open_page("live.html#prompt=a+golden+duck&seed=12&steps=9&guidance=2.5&nonsense=%22]")
    page.wait_for_function("document.querySelector('[name=seed]').value == '12'")
    assert page.locator("[name=prompt]").input_value() == "a golden duck" and page.locator("[name=steps]").input_value() == "9"


# --- the lessons' live figures -----------------------------------------------------------------------------------------------


@pytest.fixture(params=LESSONS)
def live_figure(open_page, request):
    page = open_page(f"notebooks/{request.param}.html")
    if not has_runtime():
        pytest.skip("the browser's runtime is not there: run `make book-runtime`")
    page.locator(".ldm-live button").first.wait_for()
    return page


def draw_figure(page) -> list[np.ndarray]:
    """Press Draw by keyboard, wait, and read the pictures, oldest first."""
    before = page.locator(".ldm-live").get_attribute("data-drawn")
    page.locator(".ldm-live button", has_text="Draw").press("Enter")
    drawn = "document.querySelector('.ldm-live').dataset.drawn"
    page.wait_for_function(f"({drawn} ?? null) != {json.dumps(before)}")
    return [pixels_of(canvas).astype(int) for canvas in page.locator(".ldm-live canvas").all()]


def test_a_live_figure_draws(live_figure):
    page = live_figure
    sliders = page.locator(".ldm-live input[type=range]")
    (first, *_) = draw_figure(page)
    assert first.std() > 5
    if sliders.count():
        sliders.press("End")
        pictures = draw_figure(page)
        assert len(pictures) == 2 and np.abs(pictures[0] - pictures[1]).mean() > 2
        captions = page.locator(".ldm-live figcaption").all_inner_texts()
        assert captions[1].split()[0] in ("50", "guidance") and captions[0] != captions[1]
    else:
        *both, difference = draw_figure(page)
        assert (difference[..., 0] == 255 - np.abs(both[0] - both[1]).max(-1)).all() and difference.min() < 128
        page.locator(".ldm-live input[type=text]").first.fill(" ")
        draw_figure(page)
        assert "A sentence is empty" in page.locator(".ldm-live .ldm-note").inner_text()
    assert faults_for_readers(page) == []


def test_a_live_figure_stops(open_page):
    page = open_page("notebooks/05_sampling.html")
    if not has_runtime():
        pytest.skip("the browser's runtime is not there: run `make book-runtime`")
    page.locator(".ldm-live input[type=range]").press("End")
    page.locator(".ldm-live button", has_text="Draw").click()
    page.wait_for_function("document.querySelector('.ldm-live .ldm-note').textContent.startsWith('Step')")
    page.locator(".ldm-live button", has_text="Stop").click()
    page.wait_for_function("document.querySelector('.ldm-live .ldm-note').textContent == 'Stopped.'")
    assert page.locator(".ldm-live canvas").count() == 0


# --- the scripts by themselves: Node.js against Python ---------------------------------------------------------------------


def node(code: str):
    """What a module that imports the page's scripts prints, as JSON."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is missing: `sudo apt-get install nodejs`")
    command = [program, "--input-type=module", "-e", code]
    done = subprocess.run(command, cwd=ROOT / "docs" / "book" / "static" / "live", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 + 1, 2**63 - 1])
def test_the_pages_noise_is_torchs(seed):
    from ldm_tutorial.engine.noise import randn

    code = f"import {{randn}} from './noise.js'; console.log(JSON.stringify(Array.from(randn({seed}n, 2048))))"
    np.testing.assert_allclose(node(code), randn(seed, (2048,)), atol=2e-6)


def test_the_pages_tokenizer_is_clips():
    from ldm_tutorial.engine import Engine
    from ldm_tutorial.files import WEIGHTS
    from ldm_tutorial.measure.pictures import free_wording

    texts = [row["prompt"] for half in ("dev", "test") for row in free_wording(half)]
    texts += ["", "  An ARMCHAIR's\tcafé 42!?", "ein Stuhl aus Käse", "日本語 🥑 avocado", "we're don't i'll", "ﬁne Å Å"]
    file = WEIGHTS / "tokenizer" / "tokenizer.json"
    code = (
        "import fs from 'node:fs'; import {Tokenizer} from './tokenizer.js';"
        f"const t = new Tokenizer(JSON.parse(fs.readFileSync({json.dumps(str(file))})), 77, 0);"
        f"console.log(JSON.stringify({json.dumps(texts)}.map((text) => t.encode(text))))"
    )
    tokenizer = Engine(threads=1).tokenizer
    assert node(code) == [list(tokenizer(text).input_ids) for text in texts]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50])
@pytest.mark.parametrize("name", ["ddim", "unipc"])
def test_the_pages_steps_are_the_engines(name, steps):
    from ldm_tutorial.engine import Engine
    from ldm_tutorial.engine.steps import DDIM, UniPC

    settings = Engine(threads=1).settings
    alphas = np.array(settings["alphas_cumprod"], np.float32)
    sampler = {"ddim": DDIM, "unipc": UniPC}[name](settings["schedulers"][name], alphas, steps)
    rng = np.random.default_rng(0)
    z, answers = rng.standard_normal(16).astype(np.float32), rng.standard_normal((steps, 16)).astype(np.float32)
    config, alphas_cumprod = json.dumps(settings["schedulers"][name]), json.dumps(settings["alphas_cumprod"])
    code = f"""
        import {{SAMPLERS}} from './samplers.js';
        const sampler = new SAMPLERS.{name}({config}, {alphas_cumprod}, {steps});
        const path = [];
        let z = Float32Array.from({json.dumps(z.tolist())});
        for (const [i, v] of {json.dumps(answers.tolist())}.entries()) {{
          z = sampler.step(i, Float32Array.from(v), z);
          path.push(Array.from(z));
        }}
        console.log(JSON.stringify([sampler.timesteps, path]));
    """
    timesteps, path = node(code)
    assert timesteps == sampler.timesteps.tolist()
    for i, theirs in enumerate(path):
        z = sampler.step(i, answers[i], z)
        np.testing.assert_allclose(theirs, z, atol=1e-3 * max(1, np.abs(z).max()), err_msg=f"step {i}")
