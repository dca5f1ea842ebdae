# Every target sets up what it needs (.venv, once). ARGS="..." is passed on, for example: make test ARGS="tests/stores -x"

.DEFAULT_GOAL := help
PYTHON_IN_VENV := .venv/bin/python
JOBS ?= 2
unexport PYTHON  # it chooses the interpreter that .venv is made with, and nothing else

.PHONY: help setup demo test test-web lint lock docs

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv with the locked versions (the other targets do this themselves)
	@PYTHON="$(PYTHON)" bash tools/setup.sh

demo: setup  ## run the whole pipeline on the embedded benchmark and write a report; goes on where it was
	@$(PYTHON_IN_VENV) -m pipelines.cli run configs/recipes/demo.py $(ARGS)

test: setup  ## run the tests, JOBS=2 at a time
	@OMP_NUM_THREADS=1 $(PYTHON_IN_VENV) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

docs: setup  ## build the documentation as a site into work_dirs/site, to read from disk
	@NO_MKDOCS_2_WARNING=1 $(PYTHON_IN_VENV) -m mkdocs build $(ARGS)
	@echo "work_dirs/site/index.html"

test-web: setup  ## test the web page in a headless Chromium, which it finds or installs
	@bash tools/browser.sh $(PYTHON_IN_VENV)
	@OMP_NUM_THREADS=1 OVD_NEED_BROWSER=1 $(PYTHON_IN_VENV) -m pytest tests/web $(ARGS)

lint: setup  ## check the code with ruff
	@$(PYTHON_IN_VENV) -m ruff check $(ARGS) .

lock:  ## write requirements.lock anew (needs uv; changes only what pyproject.toml asks for, ARGS=--upgrade for all)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-annotate --quiet $(ARGS) \
	    --custom-compile-command "make lock   (install with: pip install --no-deps -r requirements.lock)" \
	    --output-file requirements.lock
