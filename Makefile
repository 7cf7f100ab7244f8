# Everything here is plain python, venv and pip. `make` alone lists the targets.
# Only relative paths are used, so a checkout in a folder with spaces works.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors are shown, notes about the configuration of pip are not.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check

# What `make demo` runs: a real night. `make demo PRESET=ci` takes seconds only.
WORKLOAD ?= wells
PRESET ?= nightly_cpu
ARGS ?=

# Nothing started from here reports home. `true` is the one word that both Prefect and MLflow understand.
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help demo setup setup-dev test test-all lint format up doctor docs bench constraints image-steps clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/installed ## set up, run one night on generated data, say where everything is
	$(BIN)/nightcast run $(WORKLOAD) --preset $(PRESET) $(ARGS)

setup: $(VENV)/installed ## the environment to run in (.venv)
setup-dev: $(VENV)/installed-dev ## the same with everything for tests, lint and docs

test: $(VENV)/installed-dev ## all tests that take seconds
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-all: $(VENV)/installed-dev ## every test, the ones that take minutes too
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-dev ## ruff, mypy --strict, the rules on who imports whom
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## put the code into ruff's format
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

up: $(VENV)/installed ## Prefect, MLflow and a worker with the nightly schedule, until Ctrl-C
	$(BIN)/nightcast up $(ARGS)

doctor: $(VENV)/installed ## what is wrong with this installation, if anything
	$(BIN)/nightcast doctor $(ARGS)

docs: $(VENV)/installed-dev ## the documentation as a site (site/)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/installed-dev ## the benchmarks, one after the other
	@set -e; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

constraints: $(VENV)/pip ## resolve pyproject.toml afresh into constraints.txt
	$(BIN)/python deployments/write_constraints.py

image-steps: ## what the Dockerfile does, in a temporary folder without a container
	PYTHON=$(PYTHON) deployments/check_image_steps.sh

clean: ## remove the environment and everything built (not nightcast-home)
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is made again when a file after the colon is newer. `--group` needs pip 25.1, Python 3.11 brings 23.
$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade "pip>=25.1"
	touch $@

# `|`: the environment has to exist, its age does not matter.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/pip
	$(PIP_INSTALL) --constraint constraints.txt --editable .
	cp constraints.txt $(VENV)/constraints.txt
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/pip
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[postgres,chronos,timesfm,ttm,mint]" --group dev --group docs
	cp constraints.txt $(VENV)/constraints.txt
	touch $(VENV)/installed $@
