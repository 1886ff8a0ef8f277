# `make` alone prints what there is. Every target installs what it needs into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A check whose output is also kept (tee) fails where the check fails.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help demo test kill-test fuzz check test-matrix test-floors lock sbom bench bench-gpu soak clean

help: ## print this list
	@echo "make TARGET   (another interpreter: make TARGET PYTHON=python3.12)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## the zoo's models side by side, then both steps trained here (8 minutes)
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed ## run the test suite (no network, no GPU)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

kill-test: $(VENV)/.installed ## SIGKILL at 60 random points of training; the weights must be the same (90 minutes)
	$(BIN)/python scripts/kill_test.py | tee benchmarks/results/kill-test.log

fuzz: $(VENV)/.installed ## give the readers of our files a million mutated ones (some minutes)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python scripts/fuzz.py | tee benchmarks/results/fuzz.log

test-matrix: ## the test suite on Python 3.11 to 3.13 with transformers 4 and 5
	bash scripts/test_matrix.sh

test-floors: ## the test suite with the oldest versions that setup.py allows
	bash scripts/test_floors.sh $(PYTHON)

lock: ## write constraints-hashed.txt anew: every version with the hashes of its files
	bash scripts/lock.sh $(PYTHON)

sbom: $(VENV)/.installed ## write sbom.json: all that is installed, in CycloneDX's form
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install -q 'cyclonedx-bom>=7'
	.venv-tools/bin/cyclonedx-py environment --output-reproducible -o sbom.json $(BIN)/python

bench: $(VENV)/.installed ## how fast we are beside Trainer, TRL, generate and ParlAI, on the CPU (35 minutes)
	$(BIN)/python -m benchmarks.bench

bench-gpu: $(VENV)/.installed ## the same on one GPU, with its matrix rate and FlexAttention (6 minutes)
	$(BIN)/python -m benchmarks.bench --device cuda

soak: $(VENV)/.installed ## eight clients at prosocial chat for 30 minutes, one in four vanishing
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak_chat.py --log benchmarks/results/soak.log

clean: ## remove environments, build outputs and caches; data and trained models stay
	rm -rf .venv .venv-matrix-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp file says that the environment is complete; it is as new as what was installed.
$(VENV)/.installed: setup.py pyproject.toml constraints.txt constraints-hashed.txt scripts/install.sh
	bash scripts/install.sh $(PYTHON) $(VENV) constraints.txt
