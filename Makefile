# What can be done here: `make help`.
#
# Everything is installed into .venv, once, from lock files with hashes. Nothing is compiled.

SHELL := /bin/sh
VENV ?= .venv
PROCESSES ?= 2
BIN := $(VENV)/bin

# The first Python of 3.11 to 3.13 that is found; `make PYTHON=/path/to/python run` names another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && { echo $$python; break; }; done)

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := --require-hashes --only-binary :all: --requirement
LOCK := $(BIN)/uv --quiet --no-config pip compile --universal --python-version 3.11 \
	--only-binary :all: --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --upgrade

.DEFAULT_GOAL := help
.PHONY: help run test test-openstack openstack lint bench faults fuzz secrets clean lock

help: ## Say what can be done here
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

run: $(VENV)/.installed ## Rescue boots on a simulated cloud: broker, Placement and workers of its own
	@$(BIN)/changeover demo

test: $(VENV)/.installed-dev ## Run the tests; ARGS=... is handed on to pytest
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS)

test-openstack: $(VENV)/.installed-dev ## Boot real servers in a small real OpenStack, which it starts; ARGS=...
	CHANGEOVER_TEST_REQUIRE_SERVICES=1 $(BIN)/python -m pytest tests/openstack $(ARGS)

openstack: $(VENV)/.installed-dev ## Run that OpenStack until Ctrl-C: tests started meanwhile use it
	$(BIN)/python tests/openstack/up.py $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, types and the layers' direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p changeover
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## Measure reaction, intake, refresh and memory
	$(BIN)/python -m bench $(ARGS)

faults: $(VENV)/.installed-dev ## Maltreat real processes and judge what happened; ARGS="--size long"
	$(BIN)/python tests/faults/battery.py $(ARGS)

fuzz: $(VENV)/.installed-dev ## Fuzz intake and catalog; ARGS="--inputs 1000000 --state FILE" goes on
	$(BIN)/python tests/faults/fuzz.py $(ARGS)

secrets: ## Make the passwords of compose.yaml, where there are none yet
	@install -d -m 700 secrets
	@umask 022; for name in $$(sed -n 's,^    file: ,,p' compose.yaml); do \
		test -s $$name || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >$$name || exit; \
	done

lock: $(VENV)/.made ## Write the lock files anew, with the newest versions allowed
	$(PIP) install --upgrade uv
	$(LOCK) pyproject.toml --extra embedded --group build --output-file requirements.lock
	$(LOCK) pyproject.toml --extra embedded --extra plot --group build --group test --group lint --group bench \
		--constraint requirements.lock --output-file requirements-dev.lock
	$(LOCK) --group placement --constraint requirements.lock \
		--output-file requirements-placement.lock

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf src/changeover.egg-info

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; \
	name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments: \
	install its venv module (on Debian: python3-venv)" >&2; exit 1; }
	@$(PIP) install --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.made requirements.lock pyproject.toml
	@echo "installing what is needed to run"
	@$(PIP) install $(LOCKED) requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "installing what is needed to test"
	@$(PIP) install $(LOCKED) requirements-dev.lock
	@touch $@
