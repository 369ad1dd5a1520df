# Everything sets itself up: `make run` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test check fix bench sim nemesis mutants docs clean

run: $(STAMP)           ## three nodes on this machine, a live table; Ctrl-C stops them
	$(BIN)/barque dev

test: $(STAMP)          ## all tests
	sh .ci/system-packages
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(STAMP)         ## lint, types, tidiness; never writes
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_tidy.py tests/test_exports.py

fix: $(STAMP)           ## lint and format, in place
	$(BIN)/ruff check --fix src tests bench examples
	$(BIN)/ruff format src tests bench examples

bench: $(STAMP)         ## this machine's figures, Barque alone
	$(BIN)/barque bench

sim: $(STAMP)           ## five minutes of simulated clusters, with faults, from a fresh seed
	$(BIN)/barque simulate --seeds 100000 --seconds 300 --start $$(date +%s)

nemesis: $(STAMP)       ## real nodes killed, frozen and cut off, each preset for 20 s; takes ten minutes
	sh .ci/system-packages
	$(BIN)/barque nemesis --preset all --seconds 20

mutants: $(STAMP)       ## which planted bugs the simulator finds, and how soon; takes half an hour
	-BARQUE_ALL_MUTANTS=1 $(BIN)/python -m pytest tests/simulation/test_mutants.py --timeout 300

docs: $(STAMP)          ## the documentation as HTML, in docs/_build
	$(BIN)/pip install -q -e '.[docs]'
	$(BIN)/sphinx-build -W -b html docs docs/_build

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[check]'
	touch $@
