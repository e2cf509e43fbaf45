# Each target makes the environment it needs first, once: a later call reuses it until pyproject.toml or constraints.txt
# change. The benchmark has one of its own, for torch and transformers are nothing that vitjax needs.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/installed
PARITY_VENV := .venv-parity
PARITY_STAMP := $(PARITY_VENV)/installed

.PHONY: help install test golden check demo bench parity

help:
	@echo "make demo     train on handwritten digits, transcribe held-out strings of them; results in runs/demo"
	@echo "make test     run the tests            (ARGS=tests/nn: some of them)"
	@echo "make golden   compare every family of checkpoints with the reference's numbers, in the code that users have"
	@echo "make check    lint, format, types, import order"
	@echo "make bench    measure decoding beside transformers (ARGS='--threads 1': with one thread only)"
	@echo "make parity   measure every family against transformers and timm, on checkpoints made now   (ARGS='--live 2 vit_hf')"
	@echo "make install  only make the environment, in $(VENV)   (BASE_PYTHON=python3.12: with that Python)"

# An environment that was moved or copied, or whose Python is gone, is made again.
ifneq ($(shell $(PYTHON) -c 'print(open("$(STAMP)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
ifneq ($(shell $(BENCH_VENV)/bin/python -c 'print(open("$(BENCH_STAMP)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(BENCH_STAMP)
endif
ifneq ($(shell $(PARITY_VENV)/bin/python -c 'print(open("$(PARITY_STAMP)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(PARITY_STAMP)
endif

$(STAMP): pyproject.toml constraints.txt tools/environment.sh
	@tools/environment.sh $(VENV)

$(BENCH_STAMP): pyproject.toml constraints.txt tools/environment.sh
	@tools/environment.sh $(BENCH_VENV) jax flax jaxtyping numpy torch transformers

# Python 3.11 first, which torch is built for everywhere. timm comes without torchvision, of which it needs little.
$(PARITY_STAMP): pyproject.toml constraints.txt tools/environment.sh
	@BASE_PYTHON="$${BASE_PYTHON:-python3.11 python3.13 python3.12 python3}" \
		tools/environment.sh $(PARITY_VENV) -e . torch transformers sentencepiece
	@$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt timm \
		|| { rm -f $(PARITY_STAMP); exit 1; }

install: $(STAMP)

# The tests of a file share compiled programs: a file stays in one process.
test: $(STAMP)
	$(PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile --jaxtyping-packages=vitjax,beartype.beartype $(ARGS)

# The tests are compiled without LLVM's optimisations; this is not.
golden: $(STAMP)
	$(PYTHON) -m tools.parity $(ARGS)

check: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --cache-dir .cache/import-linter

demo: $(STAMP)
	$(PYTHON) -m vitjax.demo $(ARGS)

bench: $(BENCH_STAMP)
	$(BENCH_VENV)/bin/python -m benchmarks.decode $(ARGS)

parity: $(PARITY_STAMP)
	$(PARITY_VENV)/bin/python -m tools.parity --live 1 $(ARGS)
	$(PARITY_VENV)/bin/python -m tools.parity_text
