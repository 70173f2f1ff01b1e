# make demo: four families on real digits and the report that compares them. make test: the suite. make torture: faults.
PYTHON ?= python3
BIN := .venv/bin
CORES = $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count()))')

.PHONY: demo test lint slow torture clean

demo: .venv/run.stamp
	$(BIN)/python -m genzoo.run -m +study=demo hydra/launcher=joblib hydra.launcher.n_jobs=$(CORES)

test: .venv/test.stamp
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

slow: .venv/test.stamp
	$(BIN)/python -m pytest -q -m slow

torture: .venv/test.stamp
	$(BIN)/python -m tests.torture --minutes 5

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv outputs dist build

.venv/python.stamp:
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"genzoo needs Python 3.11 or newer, this is {v}: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/run.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cores]'
	touch $@

.venv/test.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,cores]'
	touch $@ .venv/run.stamp
