# One verb each; every verb works as the first command in a clean checkout: it makes .venv and installs.
#
#   make demo    make test    make check    make format    make help

VENV ?= .venv
# What the machine has decides which vLLM is installed; FLAVOUR=cpu or FLAVOUR=gpu overrides it.
FLAVOUR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# The first supported Python on the path; PYTHON=… overrides it.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
ARGS ?=
# Tests run in so many processes with a thread each, a module whole in one of them; WORKERS=0: in one, as by hand.
WORKERS ?= 2

BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile
STAMP := $(VENV)/.installed-$(FLAVOUR)

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types unit format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install what this machine can run (CPU or GPU)

demo: $(STAMP) ## the main job on the embedded model: train, serve, compare (ARGS=--no-wait ends it)
	$(BIN)/passepartout demo $(ARGS)

test: $(STAMP) ## all tests: unit, browser (the page), engine (real vLLM), behaviour (pico-llava)
	deploy/browser.sh
	$(PYTEST) $(ARGS)

check: lint types unit ## the quick layer: lint, types, unit tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(PYTEST) -m unit $(ARGS)

format: $(STAMP) ## let ruff mend layout and what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and the tools' caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt deploy/install.sh
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed, none is on the path"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	deploy/install.sh $(BIN)/python $(FLAVOUR) dev
	touch $@
