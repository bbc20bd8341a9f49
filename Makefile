# Every target does its own set-up; `make` alone lists them. CPython 3.11+ with pip and venv, and make, are assumed;
# without Node the tests of the npm clients are skipped by name.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready
# The demo needs far less. An environment that has everything serves it, too.
DEMO := $(or $(wildcard $(SETUP)),$(VENV)/.ready-demo)
NODE := tests/node/node_modules/.ready

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

setup: $(SETUP) ## a virtual environment with everything pinned, and Keyfront in it

PIP := $(BIN)/python -m pip install --quiet
# Bytecode is written when a module is first imported, and not for the many that never are.
INSTALL = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(PIP) --no-compile --require-hashes -r requirements/$(1).txt && \
	$(PIP) --no-deps --no-build-isolation -e .

$(SETUP): requirements/dev.txt pyproject.toml
	$(call INSTALL,dev)
	touch $@

$(VENV)/.ready-demo: requirements/demo.txt pyproject.toml
	$(call INSTALL,demo)
	touch $@

$(NODE): tests/node/package-lock.json
	cd tests/node && (command -v npm >/dev/null && npm ci --silent --no-audit --no-fund || echo "npm is missing: the tests of the npm clients will be skipped")
	mkdir -p tests/node/node_modules && touch $@

demo: $(DEMO) ## private pictures behind a real edge; open the printed address
	$(BIN)/python -m examples.gallery

PYTEST := $(BIN)/python -m pytest
# Three processes for two cores: many tests wait, for a timeout or for a process to start.
WORKERS := -n 3

test: $(SETUP) $(NODE) ## all three tiers, the real clients included (9 minutes on two cores)
	$(PYTEST) $(WORKERS)

test-unit: $(SETUP) ## rules, vectors, and tables: no process, no socket
	$(PYTEST) --tier unit

test-integration: $(SETUP) $(NODE) ## edge and control plane with sockets, databases, and key stores
	$(PYTEST) $(WORKERS) --tier integration

test-stories: $(SETUP) $(NODE) ## processes, started as the documentation says
	$(PYTEST) $(WORKERS) --tier stories

first-day: $(SETUP) ## README and every guide, followed word for word; ends with the first command that fails
	$(BIN)/python -m tests.firstday

coverage: $(SETUP) $(NODE) ## which branches of the hearts the tests take; fails unless it is every one
	$(BIN)/python -m tests.hearts $(WORKERS)

# The same seed draws the same changes. MUTATION="--sample 20 --seed 7" takes fewer, or others.
mutation: $(SETUP) ## changes a hundred places of the hearts, one at a time; the unit tests must notice nine of ten
	$(PIP) --require-hashes -r requirements/mutation.txt
	$(BIN)/python -m tests.mutation $(MUTATION)

check: $(SETUP) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(SETUP) ## format the code, fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(SETUP) ## write the generated pages and parts of pages anew
	$(BIN)/python -m scripts.architecture
	$(BIN)/python -m scripts.configuration
	$(BIN)/python -m scripts.metrics
	$(BIN)/python -m scripts.reasons

bench: $(SETUP) ## figures beside the peers, as ratios (PEERS=folder of the peer servers)
	$(BIN)/python -m bench

soak: $(SETUP) ## ten minutes of mixed load and misfortune under a judge (SOAK="--seconds 60 --seed 1")
	$(BIN)/python -m soak $(SOAK)

# Each fuzzer for as long as FUZZ says; a finding names the seed that shows it again.
FUZZ ?= --seconds 60
fuzz: $(SETUP) ## bytes at random for every part that reads them, and what they cost (FUZZ="--seconds 60 --seed 1")
	$(BIN)/python -m fuzz.http1 $(FUZZ)
	$(BIN)/python -m fuzz.http2 $(FUZZ)
	$(BIN)/python -m fuzz.gate $(FUZZ)
	$(BIN)/python -m fuzz.paths $(FUZZ)
	$(BIN)/python -m fuzz.websocket $(FUZZ)
	$(BIN)/python -m fuzz.verify $(FUZZ)
	$(BIN)/python -m fuzz.custody $(FUZZ)
	$(BIN)/python -m fuzz.cost $(FUZZ)

lock: $(SETUP) ## pin the requirements anew, with hashes
	$(PIP) uv
	for each in runtime dev build demo mutation; do \
	  $(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    requirements/$$each.in -o requirements/$$each.txt || exit 1; \
	done

dist: $(SETUP) ## wheel and sdist, the same bytes from the same commit
	mkdir -p dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -c \
	  "from flit_core import buildapi as build; print(build.build_wheel('dist'), build.build_sdist('dist'))"

clean: ## remove what set-up and tests made
	rm -rf $(VENV) tests/node/node_modules .mypy_cache .ruff_cache build dist

.PHONY: help setup demo test test-unit test-integration test-stories first-day coverage mutation check format docs bench soak fuzz lock dist clean
