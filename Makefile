# Each target does all the set-up it needs; `make demo` and `make test` work from a bare clone.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3 || command -v python)
BIN := .venv/bin
export OMP_WAIT_POLICY ?= PASSIVE
export NO_MKDOCS_2_WARNING ?= 1
WORKERS ?= 2  # processes of the tests: each holds the default model once

.PHONY: help setup demo test slow lint format docs readme clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup:  ## virtual environment, dependencies, embedded model and encoder (repeatable)
	@$(PYTHON) scripts/setup.py

demo: setup  ## the main job: teach the default model new facts and show what it kept
	@$(BIN)/keeps run examples/demo.yaml

test: setup  ## the fast tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: setup  ## the slow tests
	@$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

lint: setup  ## style, types, import rule
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright
	$(BIN)/lint-imports

format: setup  ## format the code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: setup  ## the documentation site, in site/
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "documentation written to site/index.html"

readme: setup  ## write the generated tables of README.md anew
	@$(BIN)/python scripts/readme.py

clean:  ## remove the environment and everything that was built
	rm -rf .venv site build dist .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
