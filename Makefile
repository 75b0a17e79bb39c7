# Mainstay. `make run` does the main job on a real engine and leaves the service running; `make test` is what CI runs.
SHELL := /bin/bash
# Debian's own Python first, if hot paths can be compiled for it: it was built with profiles of what Python does, and the
# proxy needs a tenth less CPU with it than with a Python of the same version that was not.
DEBIANS := $(and $(wildcard /usr/include/python3.11/Python.h),$(wildcard /usr/bin/python3.11))
PYTHON ?= $(or $(DEBIANS),$(shell command -v python3.11 || command -v python3))
BIN := .venv/bin
ENGINE_VERSION ?= 17
MARIADB_VERSION ?= 11.8
MYSQL_VERSION ?= 9.7

.PHONY: run test check bench faults format down clean venv venv-dev engine

run: venv engine
	$(BIN)/mainstay up --detach
	$(BIN)/mainstay tour
	@echo
	@echo "The service goes on running. More versions: $(BIN)/mainstay engines install postgres 18 (or 15), mariadb 11.8 (or 10.11), mysql 9.7."
	@echo "Stop it with: $(BIN)/mainstay down"

venv:
	@$(PYTHON) scripts/bootstrap.py

venv-dev:
	@$(PYTHON) scripts/bootstrap.py --dev

engine: venv
	$(BIN)/mainstay engines install postgres $(ENGINE_VERSION)

check: venv-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/structure.py
	$(BIN)/python scripts/generate_docs.py --check
	$(BIN)/python scripts/workflow_diagrams.py --check

test: check
	@command -v mkfs.xfs > /dev/null || [ "$$(id -u)" != 0 ] || apt-get install -y -qq xfsprogs > /dev/null || true
	$(BIN)/mainstay engines install postgres $(ENGINE_VERSION)
	$(BIN)/mainstay engines install mariadb $(MARIADB_VERSION)
	$(BIN)/python scripts/run_tests.py

faults: venv-dev engine
	$(BIN)/mainstay engines install mariadb $(MARIADB_VERSION)
	$(BIN)/mainstay engines install mysql $(MYSQL_VERSION)
	$(BIN)/pytest tests/faults --faults-full

bench: venv-dev engine
	$(BIN)/python -m bench

format: venv-dev
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

down:
	$(BIN)/mainstay down

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
