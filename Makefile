# Every target uses .venv, which is made from requirements.lock. Another Python: make install PYTHON=python3.13

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit integration bench soak lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv from requirements.lock; does nothing when it is up to date

demo: $(STAMP) ## start a local broker, run the worker on real events, write a report
	$(BIN)/tidemill demo $(ARGS)

test: lint types $(STAMP) ## everything CI runs: lint, types, all tests but the benches
	$(BIN)/pytest --ignore=tests/bench $(ARGS)

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

unit: $(STAMP) ## the tests that need no broker
	$(BIN)/pytest -m "not integration" --ignore=tests/bench $(ARGS)

integration: $(STAMP) ## the tests against a real broker, which is started when none is given
	$(BIN)/pytest -m integration --ignore=tests/bench $(ARGS)

bench: $(STAMP) ## what exactly-once and snapshots cost; figures are kept in tests/bench/LOG.md
	$(BIN)/python -m tests.bench.delivery $(ARGS)

soak: $(STAMP) ## faults on a real broker, all of them, with many events each, and broken builds; hours
	$(BIN)/pytest -m soak tests/faults
	$(BIN)/python -m tests.faults --long $(ARGS)

lock: $(STAMP) ## write requirements.lock anew from pyproject.toml, without the extras for object stores
	$(BIN)/uv pip compile pyproject.toml --extra demo --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements.lock

clean: ## remove .venv and all caches
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make install PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install -q --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m consumer.warm_up
	touch $@
