# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test lint format check-package clean

install: $(STAMP)

# The demo's log is package data of the recbole wheel: installed without dependencies, never imported.
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "diffacet needs Python 3.11 or newer; got " + sys.version.split()[0] + "; run: make PYTHON=/path/to/python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[report,search,tensorboard,als,serve,onnx,ray,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt recbole==1.2.1
	touch $(STAMP)

demo: install
	$(BIN)/diffacet demo

# Tests need a core each: as many at a time as there are cores.
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Wheel and sdist, installed in clean environments with each extra, the oldest and the newest versions: a quarter of an hour.
check-package:
	$(PYTHON) tools/check_package.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache runs
