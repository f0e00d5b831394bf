# A fresh machine needs Python 3.11 or newer, make and a package index; the rest goes into .venv.
#   PYTHON=python3.12   the interpreter to build .venv with
#   CUDA=12             the CUDA major version, instead of the installed driver's
#   ARGS="..."          passed on to `gpuassay verify`
#   PINS=file           install only these files, by their hashes (as CI does, with .ci/requirements.txt)

PYTHON ?= python3
ARGS ?=
PINS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.PHONY: help setup verify test lint format docs build fuzz bars clean
.NOTPARALLEL:

# The driver's CUDA major version decides between the cuda12 and cuda13 extras; 13 where there is no driver.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifeq ($(CUDA),)
DRIVER := $(shell timeout 30 nvidia-smi 2>/dev/null | sed -n 's/.*CUDA.*Version: *\([0-9][0-9]*\)\..*/\1/p' | head -n 1)
ifeq ($(DRIVER),)
DRIVER := $(shell $(PYTHON) -c 'import ctypes; v = ctypes.c_int(); ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(v)); print(v.value // 1000 or "")' 2>/dev/null)
endif
override CUDA := $(if $(filter 1 2 3 4 5 6 7 8 9 10 11 12,$(DRIVER)),12,13)
endif
ifeq ($(filter 12 13,$(CUDA)),)
$(error CUDA=$(CUDA) is not known here: use CUDA=12 or CUDA=13)
endif
endif

# Written last, so that an interrupted set-up never counts as done. Its name holds what a set-up depends on
# besides the two files: the CUDA major version, and this folder's path (an environment cannot be moved).
READY := $(VENV)/ready-cuda$(CUDA)-$(firstword $(shell printf %s '$(CURDIR)' | cksum))

help:
	@echo "make verify   measure this machine's GPU and judge it (without a GPU: judge a reference recording)"
	@echo "make test     format check, lint, types and every test that needs no GPU"
	@echo "make lint     format check, lint and types only"
	@echo "make docs     build the manual into site/ (open site/index.html)"
	@echo "make build    wheel and source archive into dist/, byte for byte the same from the same files"
	@echo "make fuzz     ten minutes of damaged files for every parser of strangers' files"
	@echo "make bars     what the honesty audit must find, and must not find, over 1,000 seeds each (20 minutes of CPU)"
	@echo "make format   format the sources and apply safe lint fixes"
	@echo "make setup    only build the private environment in $(VENV); the targets above do it themselves"
	@echo "make clean    remove the environment, caches and build outputs (results/ stays)"
	@echo
	@echo "Options: PYTHON=python3.12, CUDA=12 or 13 (default: the driver's), ARGS=\"--profile full\" for verify"

setup: $(READY)

# With a finished environment for the same choice, brought up to date in place; otherwise built from nothing.
$(READY): pyproject.toml constraints.txt $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "gpuassay needs Python 3.11 or newer, and '$(PYTHON)' is not: install one and name it, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@if [ -e $@ ]; then rm $@; else rm -rf $(VENV); fi
	@echo "Setting up $(VENV) for CUDA $(CUDA) (first time: about 0.9 GB to download, 2 GB on disk, 2 to 10 minutes) ..." >&2
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV)
	@$(if $(PINS),$(PIP) --require-hashes -r $(PINS) >&2 && $(PIP) --no-deps --no-build-isolation -e . >&2 ,\
	$(PIP) -c constraints.txt -e '.[cuda$(CUDA),docs,fleet,pdf,report,slurm,test]' >&2)
	@echo "$(VENV) is ready." >&2
	@touch $@

# Exit code 4 means no usable GPU: then a reference recording is judged, and any answer (0, 1, 3) is a success.
verify: $(READY)
	@$(VENV)/bin/gpuassay verify $(ARGS); code=$$?; \
	if [ $$code -eq 4 ]; then \
	  echo "No usable GPU here: judging the reference recording instead." >&2; \
	  $(VENV)/bin/gpuassay verify --replay reference $(ARGS); code=$$?; \
	  case $$code in 0|1|3) code=0;; esac; \
	fi; exit $$code

test: lint
	$(VENV)/bin/pytest -n 2 -m "not gpu"

lint: $(READY)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

docs: $(READY)
	$(VENV)/bin/mkdocs build --strict --quiet

build: $(READY)
	$(VENV)/bin/python -m build --no-isolation --outdir dist

fuzz: $(READY)
	$(VENV)/bin/python tests/fuzz.py --cases 1000000000 --seconds 600 --processes 2 --seed $$(date +%s)

bars: $(READY)
	$(VENV)/bin/python tests/bars.py --seeds 1000 --processes 2

format: $(READY)
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

clean:
	rm -rf $(VENV) build dist site .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find gpuassay kernels suites tests -name __pycache__ -type d -prune -exec rm -rf {} +
