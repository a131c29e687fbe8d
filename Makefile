# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
COV := --cov --cov-report=term:skip-covered

.PHONY: demo test test-all lint claims bench bench-attacks soak docs clean

demo: $(VENV)/.base
	$(BIN)/tutelage demo --out runs/demo

# COVERAGE=1 reports coverage as well, and takes a third longer; CI does
test: $(VENV)/.full lint
	$(PYTEST) -m "not slow" $(if $(COVERAGE),$(COV))

test-all: $(VENV)/.full lint
	$(PYTEST) $(COV)

lint: $(VENV)/.full
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# every recorded claim again, at claim scale; finished cells are cached
claims: $(VENV)/.full
	for slug in $$($(BIN)/tutelage list --json | $(BIN)/python -c 'import json, sys; print(*[s["slug"] for s in json.load(sys.stdin) if s["status"] not in ("planned", "plug-in")])'); do \
	  $(BIN)/tutelage run $$slug --scale claim --jobs 2 || exit 1; done

# a peer whose environment cannot be made (no network) is left out of the races, which say so
bench: $(VENV)/.full
	-$(BIN)/python benchmarks/peers.py
	for race in benchmarks/bench_*.py; do $(BIN)/python $$race || exit 1; done
	$(BIN)/python benchmarks/report.py

# the standard suite beside two AutoAttacks: about two hours, resumed where it was
bench-attacks: $(VENV)/.full
	-$(BIN)/python benchmarks/peers.py pyautoattack torchattacks
	$(BIN)/python benchmarks/attack_suite.py
	$(BIN)/python benchmarks/report.py

# kill -9 at random moments, wrong input, hostile files, full disks; writes docs/soak.json and the tables of docs/reliability.md
soak: $(VENV)/.full
	$(BIN)/python tools/soak.py --training 200 --grid 50 --audit 50 --fresh 3 --claims 10 --out docs/soak.json
	$(BIN)/python tools/campaign --out docs/soak.json

docs: $(VENV)/.base
	$(BIN)/python tools/build_docs.py
	$(BIN)/python tools/build_api.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

# The marker files say which set of packages the environment has, and are older than what decides it when it must change.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.full: $(VENV)/.base
	$(PIP) install -q -c constraints.txt -e ".[all,dev]"
	@touch $@
