# Each target makes the environment in .venv first, once: a later call reuses it until pyproject.toml or constraints.txt change.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed

.PHONY: help install test check demo bench

help:
	@echo "make demo     train on handwritten digits, transcribe held-out strings of them; results in runs/demo"
	@echo "make test     run the tests            (ARGS=tests/nn: some of them)"
	@echo "make check    lint, format, types, import order"
	@echo "make bench    measure decoding"
	@echo "make install  only make the environment, in $(VENV)   (BASE_PYTHON=python3.12: with that Python)"

# An environment that was moved or copied, or whose Python is gone, is made again.
ifneq ($(shell $(PYTHON) -c 'print(open("$(STAMP)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt tools/environment.sh
	@tools/environment.sh $(VENV)

install: $(STAMP)

test: $(STAMP)
	$(PYTHON) -m pytest -n logical --maxprocesses 4 --jaxtyping-packages=vitjax,beartype.beartype $(ARGS)

check: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --cache-dir .cache/import-linter

demo: $(STAMP)
	$(PYTHON) -m vitjax.demo $(ARGS)

bench: $(STAMP)
	$(PYTHON) -m benchmarks.decode $(ARGS)
