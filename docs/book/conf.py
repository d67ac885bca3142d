"""Sphinx configuration of the book. `make site` stages the pages (docs/book/build.py) and runs Sphinx on them."""

import json
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = tomllib.loads((HERE / "settings.toml").read_text(encoding="utf-8"))
REPOSITORY = SETTINGS["repository"].rstrip("/")
PLACES = json.loads((HERE / "sources.json").read_text(encoding="utf-8"))  # page -> the file it was made from

project = "Latent diffusion, built"
author = "The ldm_tutorial authors"
copyright = "the ldm_tutorial authors, MIT licence"  # noqa: A001  Sphinx's own name
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["_build"]
templates_path = []
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("frames.js", {"defer": "defer"})]
html_favicon = "_static/favicon.png"
html_theme = "sphinx_book_theme"
html_title = project
html_last_updated_fmt = None
html_copy_source = True  # what the download button gives: the page, or the notebook, as it is
html_sourcelink_suffix = ""
html_show_sphinx = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is

# The notebooks are committed executed: the book shows those outputs and runs nothing.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # no script of another host
nb_mime_priority_overrides = [("html", "image/png", 1), ("html", "text/html", 5)]
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nitpicky = True

html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_edit_page_button": bool(REPOSITORY),
    "use_repository_button": bool(REPOSITORY),
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": SETTINGS["branch"],
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }
    # A page is edited where its source lies in the project, which may be another place than the page's in the book.
    html_context |= {
        "edit_page_provider_name": "GitHub",
        "edit_page_url_template": REPOSITORY + "/edit/" + SETTINGS["branch"] + "/{{ places.get(pagename, file_name) }}",
        "places": PLACES,
    }


def send_to_colab_branch(app, pagename, templatename, context, doctree):
    """Colab opens the notebooks of another branch: those whose first cell installs the course (docs/book/colab.py)."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button["text"] == "Colab":
                button["url"] = button["url"].replace(f"/blob/{SETTINGS['branch']}/", f"/blob/{SETTINGS['colab_branch']}/")


def setup(app):
    """Sphinx calls this. The theme has put its buttons into the page before a handler of so late a priority runs."""
    app.connect("html-page-context", send_to_colab_branch, priority=900)
