# Two commands on a bare machine: `make demo` and `make test`. Each makes its own virtual environment on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE := 1
# two at a time with one thread each; the tests of a file stay together
FAST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile
# one after another, each on one thread: side by side they would disturb each other
BENCHMARKS = startup scaling memory pipeline predict step

.PHONY: bench bench-long demo test test-all format docs docs-serve help

help:
	@echo "make demo      the main job on generated faces: shard, pretrain, fine-tune, evaluate, predict"
	@echo "make test      format, lint, types, tests"
	@echo "make test-all  the same with the slow proofs"
	@echo "make bench     speed and memory beside a plain formulation, into docs/performance.md (25 minutes, 2 idle cores)"
	@echo "make bench-long  memory over an epoch of 100,000 samples and a film of two hours"
	@echo "make format    rewrite the code in the house format"
	@echo "make docs      build the documentation into site/; open site/index.html"
	@echo "make docs-serve  show it at http://127.0.0.1:8000 while pages are written"

$(STAMP): setup.py
	@command -v $(PYTHON) >/dev/null || { echo "hicmae needs Python 3.10 to 3.14; '$(PYTHON)' was not found (set PYTHON=...)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || { echo "hicmae needs Python 3.10 to 3.14; '$(PYTHON)' is $$($(PYTHON) --version 2>&1) (set PYTHON=...)." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv." >&2; exit 1; }
	@echo "Installing hicmae into $(VENV) (first use only; about 5 GB with torch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/hicmae demo

test: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(FAST)

test-all: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(FAST)
	@$(BIN)/python -m pytest -m slow

bench: export OMP_NUM_THREADS := 1
bench: $(STAMP)
	@for name in $(BENCHMARKS); do \
	  $(BIN)/python benchmarks/$$name.py --pairs 3 --out runs/bench/$$name.json || exit 1; done
	@$(BIN)/python benchmarks/report.py runs/bench --write docs/performance.md

bench-long: export OMP_NUM_THREADS := 1
bench-long: $(STAMP)
	@$(BIN)/python benchmarks/memory.py --long --out runs/bench-long/memory.json
	@$(BIN)/python benchmarks/predict.py --long --out runs/bench-long/predict.json
	@$(BIN)/python benchmarks/report.py runs/bench-long --write docs/performance.md

format: $(STAMP)
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP)
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

docs-serve: export NO_MKDOCS_2_WARNING = 1
docs-serve: $(STAMP)
	@$(BIN)/python -m mkdocs serve
