# `make` lists the targets. Everything happens in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := $(wildcard src/memfast/_native/*.pyx src/memfast/_native/*.pxd src/memfast/_native/*.h)
DATA   ?=
# hnswlib compiles for the machine that builds it unless it is told otherwise; this code runs on any x86-64 since 2013.
HNSWLIB := HNSWLIB_NO_NATIVE=1 CFLAGS="$(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v3,)"
QUICK  ?=

comma := ,
# What is compiled is compiled once: all extras in one go.
install = $(HNSWLIB) $(BIN)/python -m pip install --quiet "hnswlib>=0.8,<0.9" && \
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[$(1)]"
# Tests and benchmarks start hundreds of processes, each of which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

# Pools and caches: a line that no test runs may be the one that serves a stale answer.
FULLY := */store/pool.py,*/index/pool.py,*/service/answers.py,*/service/coherence.py,*/service/embeddings.py,*/service/warm.py,*/_native/_cache_reference.py

.DEFAULT_GOAL := help
.PHONY: help serve test soak check format bench budget clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "memfast needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 serve"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
		{ echo "memfast needs a C++ compiler, e.g. Debian's package g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"

$(VENV)/.service: $(BIN)/python pyproject.toml setup.py $(NATIVE)
	$(call install,hnsw)
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml setup.py $(NATIVE)
	$(call install,hnsw$(comma)dev)
	@touch $(VENV)/.service $@

serve: $(VENV)/.service ## install and run the service on 127.0.0.1:8077
	@exec $(BIN)/memfast serve

test: $(VENV)/.dev ## install and run the whole test suite
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 1
	$(BIN)/coverage combine --quiet

soak: $(VENV)/.dev ## half an hour of faults (MINUTES=N); the random tests of resilience and idempotency keys ten times as long
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),30)
	SOAK=10 $(BIN)/python -m pytest --timeout=1800 tests/unit/resilience tests/integration/store/test_storm.py \
		tests/e2e/test_idempotency.py

check: $(VENV)/.dev ## everything CI does: format, lint, types, layers, tests and their coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src/memfast/_native
	$(BIN)/mypy
	$(BIN)/lint-imports
	test -f .coverage || $(MAKE) test
	$(BIN)/coverage report --fail-under=80
	$(BIN)/coverage report --fail-under=100 --include="$(FULLY)"

format: $(VENV)/.dev ## put code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## print every figure; DATA=folder adds those that need data sets, QUICK=1 takes fewer rounds
	$(BIN)/python -m pytest bench/regression --benchmark-only --benchmark-columns=min,median,ops --quiet \
		--benchmark-max-time=0.5 --benchmark-min-rounds=3
	$(BIN)/python -m bench $(if $(QUICK),--quick --attempts 3) $(if $(DATA),--data $(DATA))

budget: $(VENV)/.dev ## measure what each operation takes and write docs/latency.md; leave the machine alone meanwhile
	$(BIN)/python -m bench.budget

clean: ## remove what was built here
	rm -rf $(VENV) build dist src/*.egg-info src/memfast/_native/*.so src/memfast/_native/*.c src/memfast/_native/*.cpp
