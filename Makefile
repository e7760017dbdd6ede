# The two commands: `make run` and `make test`. People and CI use the same ones.

PYTHON ?= python3
POINT ?= smollm2
PROMPT ?= What is the capital of France? Explain its history in a paragraph.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-fast lint format lock clean

run: $(STAMP)  ## build and prove the default point, then let it answer
	dvc repro verify@$(POINT) bench@$(POINT)
	@python -m pipeline.generate point=$(POINT) prompt="$(PROMPT)" max_new_tokens=128

test: $(STAMP) lint  ## everything, the real model included
	python -m pytest

test-fast: $(STAMP) lint  ## without the real model
	python -m pytest -m "not slow"

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

format: $(STAMP)
	ruff check --fix .
	ruff format .

# torch comes first and with its dependencies: elsewhere its CUDA build needs NVIDIA packages that the lock does not
# list. The lock is complete, so nothing else may bring in dependencies of its own.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) --version): kvforge runs on Python 3.11 and 3.12; make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	pip install --quiet torch==2.13.0
	pip install --quiet --no-deps -r requirements.lock
	touch $@

lock: $(STAMP)  ## after installing other versions into .venv: write down what is there now
	{ head -n 1 requirements.lock; echo torch==2.13.0; pip freeze --exclude torch; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(STAMP)

clean:  ## everything that can be built again, but not the DVC cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
