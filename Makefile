# Everything sets itself up: `make run` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test check fix bench sim campaign worlds loops fuzz search nemesis mutants docs clean

run: $(STAMP)           ## three nodes on this machine, a live table; Ctrl-C stops them
	$(BIN)/barque dev

test: $(STAMP)          ## all tests
	sh .ci/system-packages
	$(BIN)/python -m pytest -n 4 --dist loadgroup

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

campaign: $(STAMP)      ## 100 cluster-hours of whole nodes, 100,000 seeds of core servers: docs/reference/campaign.md; 90 minutes on two cores
	$(BIN)/python tests/simulation/campaign.py build/campaign --start $$(date +%s) > docs/reference/campaign.md.new
	mv docs/reference/campaign.md.new docs/reference/campaign.md

nemesis: $(STAMP)       ## real nodes killed, frozen and cut off, each preset for 20 s; takes ten minutes
	sh .ci/system-packages
	$(BIN)/barque nemesis --preset all --seconds 20

worlds: $(STAMP)        ## every graph of links on three and five nodes, every crash point, fifteen minutes of random core worlds
	BARQUE_ALL_WORLDS=1 $(BIN)/python -m pytest tests/simulation/test_core_worlds.py --timeout 3600
	BARQUE_ALL_CRASH_POINTS=1 $(BIN)/python -m pytest tests/log/test_crash_points.py tests/log/test_segment_crash_points.py tests/log/test_snapshot_crash_points.py --timeout 3600
	$(BIN)/barque simulate --core --seeds 1000000 --seconds 900 --start $$(date +%s)

loops: $(STAMP)         ## the tests of nodes and clients on both event loops, and every seed that ever failed; ten minutes
	BARQUE_BOTH_LOOPS=1 $(BIN)/python -m pytest -n 4 --dist loadgroup tests/runtime tests/client
	BARQUE_ALL_REGRESSIONS=1 $(BIN)/python -m pytest -n 2 tests/simulation/test_simulation.py

fuzz: $(STAMP)          ## every codec under a coverage-guided fuzzer, two minutes each; what reached new code stays in build/fuzz
	$(BIN)/pip install -q -e '.[fuzz]'
	for codec in wal manifest segment snapshot kv-state meta backup frames resp; do \
		$(BIN)/python -m tests.fuzz $$codec --seconds 120 || exit 1; \
	done

search: $(STAMP)        ## all interleavings within bounds, 150,000 states for each of them; takes an hour
	BARQUE_SEARCH_STATES=150000 $(BIN)/python -m pytest tests/simulation/test_search.py --timeout 7200

mutants: $(STAMP)       ## which ring finds which planted bug, and how soon: docs/reference/mutants.md; half an hour
	$(BIN)/python -m tests.simulation.kill_table > docs/reference/mutants.md.new
	mv docs/reference/mutants.md.new docs/reference/mutants.md

docs: $(STAMP)          ## the documentation as HTML, in docs/_build
	$(BIN)/pip install -q -e '.[docs]'
	$(BIN)/sphinx-build -W -b html docs docs/_build

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[check]'
	touch $@
