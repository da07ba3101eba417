# One target per chore; every target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
NODE_MODULES := examples/foreign/node_modules/.ready tests/javascript/node_modules/.ready
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# The tests start hundreds of processes: none of them compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help chromium run test faults lint types bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

%/node_modules/.ready: %/package-lock.json .venv/.ready
	cd $* && PATH="$(CURDIR)/$(BIN):$$PATH" \
		npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

run: .venv/.ready ## an agent explores this directory and reports
	$(BIN)/wake run "Explore this repository and report what it is." --agent explorer --workspace .

# The client in JavaScript is tested in a real browser, and it is the system's.
chromium:
	@command -v chromium >/dev/null || { \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } || { \
		echo "the tests need Chromium: apt-get install --no-install-recommends chromium" >&2; \
		exit 1; }

test: .venv/.ready $(NODE_MODULES) chromium ## the whole test suite
	$(BIN)/python -m pytest -n 3 --dist loadfile

faults: .venv/.ready ## the fault suite in its long form: every kill point, 10,000 simulated worlds
	$(BIN)/python -m pytest tests/faults --long

lint: .venv/.ready ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready ## mypy, strict
	$(BIN)/mypy

bench: .venv/.ready ## every benchmark, next to its floor
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.commands
	$(BIN)/python -m benchmarks.admission
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.sharing
	$(BIN)/python -m benchmarks.projector
	$(BIN)/python -m benchmarks.feed
	$(BIN)/python -m benchmarks.wake
	$(BIN)/python -m benchmarks.cleanup

clean: ## throw the environment and caches away
	rm -rf .venv examples/foreign/node_modules tests/javascript/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
