# make        the default problem's best layout, in a virtual environment of its own
# make test   everything that continuous integration runs: lint, types, tests
# make test-all   the same with every random problem there is (twice as long)
# make test-oldest PYTHON=python3.10   the tests on the oldest versions of everything that is supported
# make results  every problem of problems/ solved, and the table of results/README.md
# make docs   what the documents show written anew: docs/commands.md and the outputs of docs/tutorial.md
# make site   the documentation as a site, in build/site
# All need python3 (3.10 or newer) with venv, and what pyproject.toml names; both may be run again at any time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: all test test-all test-oldest results docs site clean

all: $(VENV)/.run
	$(BIN)/moeopt solve --gpus 512

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: test
	$(BIN)/python -m pytest -n auto --dist worksteal -m more

test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint tests/oldest.txt
	$(VENV)-oldest/bin/python -m pytest -n auto --dist worksteal

results: $(VENV)/.run
	$(BIN)/python benchmarks/results.py

docs: $(VENV)/.run
	$(BIN)/python -m moeopt.cli.help_pages docs/commands.md
	$(BIN)/python tests/tutorial.py

site: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# compiled once here: where no bytecode may be written later, every command would compile 300 modules (0.2 s)
$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q optimizer
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) $(VENV)-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis
