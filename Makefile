# Everything runs from a fresh checkout with only Python 3.11+ and make: each target installs what
# it needs into .venv first. Exact versions are in constraints.txt.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Triton's Python backend has a stub for each Python up to 3.13 and needs numpy 1, which has no
# wheels for 3.13: the first of these that exists is used.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help setup demo test chaos containers lint fmt bench figures fuzz lock clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp per set of extras, so that the demo does not install what only the tests need.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' -c constraints.txt

# The gateway's hot modules are compiled at installation where there is a C compiler (hatch_build.py),
# and again when a source has changed: what is compiled is imported instead of its source.
$(VENV)/.installed-%: pyproject.toml constraints.txt hatch_build.py $(shell find gateway -name '*.py') | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

setup: $(VENV)/.installed-test $(VENV)/.installed-lint  ## Install everything for development

demo: $(VENV)/.installed-demo  ## Simulated A100, seven real Tritons, the gateway, a table (ARGS=--once to exit by itself)
	$(BIN)/python -m tools.demo $(ARGS)

test: $(VENV)/.installed-test  ## Run the whole test suite (ARGS='-k name' to choose)
	$(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/.installed-test  ## Kill, hang, cut off, reload, replace and flood, for minutes each (CHAOS_SECONDS=120)
	$(BIN)/python -m pytest -m chaos $(ARGS)

containers: $(VENV)/.installed-test  ## Run launcher, Tritons and compose in a Docker Engine of the tests' own (root)
	$(BIN)/python -m pytest -m 'docker and not chaos' tests/containers $(ARGS)

lint: $(VENV)/.installed-test $(VENV)/.installed-lint  ## Format check, lint, types, architecture, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell contract gateway launcher tests docs bench tools configs README.md

fmt: $(VENV)/.installed-lint  ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench $(VENV)/.installed-demo  ## Compare with Envoy, nginx and HAProxy (ARGS=--help)
	$(BIN)/python -m bench $(ARGS)

figures: $(VENV)/.installed-figures  ## Throughput and latency for 1 to 7 slices (ARGS=--simulated without a GPU)
	$(BIN)/mig-gateway figures $(ARGS)

fuzz: $(VENV)/.installed-fuzz  ## Fuzz the parsers (ARGS=--help)
	$(BIN)/python -m tests.fuzz.run $(ARGS)

lock: $(VENV)/.installed-test $(VENV)/.installed-lint $(VENV)/.installed-bench $(VENV)/.installed-fuzz  ## Write constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable --all | grep -E '^[A-Za-z0-9._-]+==' | grep -viE '^(setuptools)==' > constraints.txt

clean:  ## Remove what was installed and built (not run/, which may describe running servers)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find contract gateway -name '*.so' -delete
