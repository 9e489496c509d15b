# One-command entry points. `make help` lists them; every target that needs the environment makes it.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.sparring-setup
LOCKS := $(wildcard locks/*.txt)

# The lock is for 3.11, so that comes first; `import ensurepip` because some systems split it off.
PYTHON ?= $(or $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done),python3)
PIP_ARGS ?=
TORCH_PIP_ARGS ?=
EXTRAS ?=
export PIP_ARGS TORCH_PIP_ARGS

CONFIG ?= configs/tiny.toml
SEED ?= 0
# Nothing may need a model hub at run time.
RUN_ENV := HF_HUB_OFFLINE=1
PYTEST_ARGS ?=
# Two processes with one thread each fill two cores; 0 runs every test in one process.
TEST_PROCESSES ?= 2
PYTEST = $(RUN_ENV) $(BIN)/python -m pytest -n $(TEST_PROCESSES)
ALL_TESTS = -m "(slow or not slow) and not gpu and not network"
# Another processor's arithmetic: what an x86 processor without AVX-512 would compute.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
# Two processes share the cold start's steps, on a machine without a GPU.
COLD_START ?= $(if $(wildcard /dev/nvidia*),,--multi_gpu --num_processes 2 --main_process_port 0)
TOPIC ?= rollout

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-avx2 check configuration bench clean distclean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(STAMP)  ## create .venv from the lock (EXTRAS=gpu,dev: unpinned, for a CUDA machine)

$(STAMP): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make setup: '$(PYTHON)' ($$($(PYTHON) --version 2>&1 | head -n 1)) is no Python 3.11 or later with" \
		"its venv module: install one, or name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) tools/setup_env.py $(VENV) --extras "$(EXTRAS)"
	@touch $@

demo: setup  ## tiny base, cold start, self-play on CPU, report (SEED=0)
	$(RUN_ENV) $(BIN)/accelerate launch $(COLD_START) pipelines/sft.py --config $(CONFIG) run.seed=$(SEED)
	$(RUN_ENV) $(BIN)/accelerate launch pipelines/rl.py --config $(CONFIG) run.seed=$(SEED) \
		run.directory=runs/demo-$$(date +%Y%m%d-%H%M%S)

test: setup  ## the test suite without its slow tests (PYTEST_ARGS=tests/data: some of it)
	$(PYTEST) $(PYTEST_ARGS)

test-all: setup  ## the whole suite, slow tests included
	$(PYTEST) $(ALL_TESTS) $(PYTEST_ARGS)

test-avx2: setup  ## the whole suite on the arithmetic of a processor without AVX-512
	$(AVX2) $(PYTEST) $(ALL_TESTS) $(PYTEST_ARGS)

check: setup  ## lint, format, types, layout of the project
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_project_*.py

configuration: setup  ## write docs/configuration.md again, after a change of the settings
	$(BIN)/python -m pipelines.settings.reference > docs/configuration.tmp
	mv docs/configuration.tmp docs/configuration.md

bench: setup  ## a GRPO step against stock TRL (TOPIC=name: benchmarks/bench_name.py; BENCH_ARGS=--help: its options)
	@test -f "benchmarks/bench_$(TOPIC).py" || { echo "make bench: no benchmark '$(TOPIC)':" \
		"give TOPIC= one of: $(patsubst benchmarks/bench_%.py,%,$(wildcard benchmarks/bench_*.py))" >&2; exit 2; }
	$(RUN_ENV) $(BIN)/python benchmarks/bench_$(TOPIC).py $(BENCH_ARGS)

clean:  ## remove caches and build leftovers; runs/ stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv
	rm -rf $(VENV)
