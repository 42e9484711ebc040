# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types proto bench clean install
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the whole market on this machine: quote, train, catch a cheat, pay, verify"
	@echo "make test    run the test-suite"
	@echo "make lint    ruff and mypy --strict"
	@echo "make proto   regenerate flopmarket/v1 from proto/"
	@echo "make bench   GEMM and training steps against numpy (and torch, if installed)"
	@echo "make clean   remove the virtual environment and caches"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/flop demo

test: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

proto: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.tools.generate_protobuf

bench: $(STAMP)
	$(BIN)/python -m tests.bench.bench_gemm
	$(BIN)/python -m tests.bench.bench_steps

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
