# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves, once; so does `make docs`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: install demo test lint format docs benchmarks mutants check-package clean

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

# One file of tests more at a time than there are cores: some wait for processes of their own, and these come first.
test: lint
	$(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into build/site: open build/site/index.html, no server and no network needed. A bad link is an error.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(DOCS_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_STAMP)

# All models on the data directories that the folder DATA has: hours to days; goes on where it was. Then docs/benchmarks.md.
benchmarks: install
	@test -n "$(DATA)" || { echo 'make benchmarks DATA=FOLDER, the folder that holds the data directories (docs/benchmarks.md names them)'; exit 2; }
	$(BIN)/python benchmarks/everything.py run --data $(DATA)

# Wheel and sdist, installed in clean environments with each extra, the oldest and the newest versions: a quarter of an hour.
check-package:
	$(PYTHON) tools/check_package.py

# Small errors in the mathematics that the tests must notice; resumable. Not part of `make test`.
mutants: install
	$(BIN)/python benchmarks/mutation/run.py build/mutation

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache runs
