# Two commands on a fresh machine with Python and make: `make demo`, `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# cpu: no CUDA package is installed. `make setup TORCH_BACKEND=auto` on a machine with a GPU.
TORCH_BACKEND ?= cpu
TORCH  := $(shell grep '^torch==' requirements.lock)
ARGS   ?=
NAME   ?=
# Known vulnerabilities that cannot harm here, by their ids, each with its reason on a line above.
NOT_OURS :=
# A mirror may know no vulnerabilities: one that has none of an old Jinja2 has none at all.
AUDITED := https://pypi.org/pypi/jinja2/2.4.1/json

export AEF_HOME ?= var
export DAGSTER_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Without bytecode every process compiles every import again: 3-4 times slower starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo dev test test-all lint bench lock clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ok  ## Make the environment in .venv (TORCH_BACKEND=auto for a GPU)

$(VENV)/.ok: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	  || { echo "Python 3.11 to 3.14 is needed; choose one with make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@# uv knows where the CPU builds of torch are; where it cannot reach them, pip's own
	@# configuration decides.
	@$(BIN)/uv pip install -q --python $(VENV) --torch-backend $(TORCH_BACKEND) '$(TORCH)' 2>/dev/null \
	  || $(BIN)/python -m pip install -q --disable-pip-version-check '$(TORCH)'
	@$(BIN)/uv pip install -q --python $(VENV) --compile-bytecode -r requirements.lock
	@$(BIN)/uv pip install -q --python $(VENV) --no-deps --compile-bytecode -e .
	@touch $@

demo: setup  ## Run the whole way on the built-in sample and print the scores
	@$(BIN)/aef demo

dev: setup  ## Open the Dagster and MLflow pages, with the daemon (Ctrl-C ends all)
	@$(BIN)/aef dev $(ARGS)

test: setup  ## Run the fast tests; ARGS goes to pytest
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

test-all: setup  ## Run all tests: slow, servers, PostgreSQL, Ray, faults, browser
	@$(BIN)/python -m pytest -q -m '' $(ARGS)

lint: setup  ## Check style, types, the definitions, and for known vulnerabilities
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/dg check defs
	@if $(BIN)/python -c 'import json, urllib.request as r; \
	  assert json.load(r.urlopen("$(AUDITED)", timeout=10))["vulnerabilities"]' 2>/dev/null; then \
	  $(BIN)/uv tool run -q pip-audit -r requirements.lock --no-deps --disable-pip --strict \
	    --progress-spinner off $(addprefix --ignore-vuln ,$(NOT_OURS)); \
	else echo "pip-audit skipped: the known vulnerabilities at pypi.org cannot be reached"; fi

bench: setup  ## List the benchmarks, or run one: make bench NAME=ingest [RECORD=1]
	@$(BIN)/python -m benchmarks $(NAME) $(if $(RECORD),--record)

lock: $(VENV)/.ok  ## Resolve requirements.lock anew (needs pip's find-links for CPU torch)
	@UV_FIND_LINKS="$$(python3 -m pip config get global.find-links 2>/dev/null)" \
	  $(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 \
	  --constraint <(echo '$(TORCH)') --no-annotate --no-header -q -o .lock
	@# From nothing: beside the old lock, whose torch has no +cpu, uv would choose the CUDA build.
	@sed 's/^\(torch==[0-9.]*\)+cpu/\1/' .lock > requirements.lock && rm .lock

clean:  ## Remove the environment and caches; homes (var*) stay
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .coverage
