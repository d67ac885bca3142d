# Everything a newcomer needs is `make lab` and `make test`: each does its own set-up, once.
# Written for GNU make 3.81 (macOS) and later.

PY      := .venv/bin/python
STAMP   := .venv/.installed
PYTHON  ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
ROOT_OK := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

# The kernel of this environment comes before one of the same name in the user's home folder.
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.PHONY: help venv lab test test-all test-browser site frames test-site book-runtime check format versions notebooks exercises weights stable-diffusion bench clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## Create .venv and install everything (TORCH_INDEX=<url>: take torch from another index, PYTHON=<python>)

# JupyterLab's first question, about its own news, is not one that a learner should have to answer; long lines are wrapped
# where the window is narrow, not cut.
SETTINGS := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}, \
	"@jupyterlab/notebook-extension:tracker": {"codeCellConfig": {"lineWrap": true}}}

# How the threads of notebooks wait: see ldm_tutorial/storage/threads.py, which settles the same where Jupyter is started by hand.
SLEEPING := OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE}

lab: $(STAMP) ## Set up, then open JupyterLab at notebook 00 (LAB_ARGS="--no-browser --port 9000" and the like)
	@mkdir -p .venv/share/jupyter/lab/settings && echo '$(SETTINGS)' > .venv/share/jupyter/lab/settings/overrides.json
	@$(SLEEPING) $(PY) -m jupyterlab --ServerApp.root_dir=$(or $(LAB_ROOT),.) --LabApp.default_url=/lab/tree/notebooks/00_overview.ipynb $(ROOT_OK) $(LAB_ARGS)

test: $(STAMP) ## Set up, then run the unit tests, every notebook, and the lab and the book in a browser (JOBS=<processes>)
	@$(PY) -m tests.run $(if $(JOBS),--jobs $(JOBS))

test-all: $(STAMP) ## The same with all that is slow: long tables, every control of every claim
	@$(PY) -m tests.run --all $(if $(JOBS),--jobs $(JOBS))

check: $(STAMP) ## In under two minutes: lint, format, types, the rooms' contract, the fast unit tests
	@set -e; start=$$(date +%s); \
	$(PY) -m ruff check .; \
	$(PY) -m ruff format --check ldm_tutorial tests benchmarks docs examples; \
	$(PY) -m mypy; \
	.venv/bin/lint-imports --no-logo; \
	$(PY) -m tests.run --fast $(if $(JOBS),--jobs $(JOBS)); \
	echo "make check: $$(( $$(date +%s) - start )) s"

format: $(STAMP) ## Bring package, tests and notebooks into the common form
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format ldm_tutorial tests benchmarks docs examples

versions: $(STAMP) ## Write requirements-tested.txt: what is installed here, all of it
	@$(PY) -m tests.versions > requirements-tested.txt

test-browser: $(STAMP) ## Turn every control of every notebook in a real browser, with mouse and keyboard (ARGS="-k 03")
	@HF_HUB_OFFLINE=1 $(PY) -m pytest tests/browser $(ARGS)

site: $(STAMP) ## Make the book from the committed notebooks: docs/_build/html (no network needed)
	@$(PY) docs/book/build.py

frames: $(STAMP) ## Draw all that the notebooks' sliders and menus can show, for the book (once, half an hour; ARGS="03 05"); then `make site`
	@HF_HUB_OFFLINE=1 $(PY) docs/book/frames.py $(ARGS)

test-site: book-runtime ## Make the book and try it in a real browser, the model in its pages too
	@HF_HUB_OFFLINE=1 $(PY) -m pytest tests/browser/test_book.py tests/browser/test_frames.py $(ARGS)

book-runtime: $(STAMP) ## Fetch what runs the model in the book's pages (once, by npm, into the cache); then `make site`
	@$(PY) docs/book/live.py

notebooks: $(STAMP) ## Re-execute every notebook in place, fold its cells by the rule, write docs/claims.md from what was measured
	@$(SLEEPING) PYTHONDONTWRITEBYTECODE= LDM_TUTORIAL_STATIC=1 $(PY) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)
	@$(PY) -m tests.cells --fold
	@$(PY) docs/make_claims.py

exercises: $(STAMP) ## Write exercises and solutions from notebooks/exercises/source, and execute what has changed (ARGS="03 05")
	@$(SLEEPING) PYTHONDONTWRITEBYTECODE= $(PY) -m tests.exercises $(ARGS)

weights: $(STAMP) ## Train all shipped weights from nothing (PROFILE=quick|evening|full; minutes on a GPU, hours on a CPU)
	@$(PY) -m ldm_tutorial.lab.cli train all --out ldm_tutorial/weights/curios-64 $(if $(PROFILE),--profile $(PROFILE))
	@$(PY) -m ldm_tutorial.lab.cli export ldm_tutorial/weights/curios-64
	@$(PY) -m ldm_tutorial.lab.cli train judge --out ldm_tutorial/weights/judge $(if $(PROFILE),--profile $(PROFILE))
	@$(PY) -m ldm_tutorial.lab.cli train baselines --out ldm_tutorial/weights/baselines

stable-diffusion: $(STAMP) ## Online: fetch Stable Diffusion once (2 to 5 GB), draw and store three pictures (MODEL=<hub id or folder>, OUT=<folder>)
	@$(PY) -m ldm_tutorial.lab.stable_diffusion $(if $(MODEL),"$(MODEL)") $(if $(OUT),--out "$(OUT)")

bench: $(STAMP) ## Run the measurements in benchmarks/
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(PY) "$$script"; done

clean: ## Remove .venv and what tests and tools leave behind (keeps runs/ and the cache of renders)
	rm -rf .venv build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

# Of some 30,000 files of the libraries the course imports a seventh. Those alone are compiled to bytecode, after the
# installation and by two processes side by side: without it, the first start would compile them, and every start would
# where site-packages can't be written later.
PIP := $(PY) -m pip install --disable-pip-version-check --no-compile
PRECOMPILE := ldm_tutorial.lab.training,ldm_tutorial.notebook.playground jupyterlab.labapp,ipykernel.kernelapp,nbconvert,pytest,datasets,matplotlib.pyplot

# torch and torchvision go first and together: taken from different places, they do not fit each other.
$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11 or newer with venv was found: install one (python.org, Homebrew, or apt install python3 python3-venv), or name it: make venv PYTHON=/path/to/python3"; \
		exit 1; \
	fi
	@echo "Setting up .venv: about 6 GB and a few minutes, this once."
	@$(PY) -c pass 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@date +%s > .venv/.started
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	$(PIP) -e '.[notebooks,export,dev,book]'
	@for modules in $(PRECOMPILE); do PYTHONDONTWRITEBYTECODE= $(PY) -c "import $$modules" & done; wait
	@$(PY) -m ipykernel install --sys-prefix >/dev/null
	@echo "Set-up done in $$(($$(date +%s) - $$(cat .venv/.started))) s."
	@touch $@
