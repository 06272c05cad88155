# `make` prints what there is (the lines with ##). All but gpu-check set themselves up; nothing is installed outside this folder.
PYTHON ?= python3
VENV ?= .venv
# The PyTorch that is put into the environment; any version >= 2.10 works.
TORCH ?= torch==2.13.0
PY := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
PYTEST_WORKERS ?= 2

.PHONY: help demo paper-cpu benchmark-cpu readme-figures test test-long lint format gpu-check sass clean install

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1 \2/p' $(MAKEFILE_LIST) | awk '{ printf "%-22s", $$1 " " $$2; $$1 = $$2 = ""; print substr($$0, 3) }'

$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q "$(TORCH)" "setuptools>=61" wheel ninja numpy
	touch $@

$(VENV)/build.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(PY) -m pip install -q --no-build-isolation --no-deps -e .
	$(PY) -m cas_ext.info
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp examples/demo/requirements.txt
	$(PY) -m pip install -q -r examples/demo/requirements.txt
	touch $@

$(VENV)/paper.stamp: $(VENV)/build.stamp pyproject.toml
	$(PY) -m pip install -q --no-build-isolation -e ".[paper]"
	touch $@

$(VENV)/test.stamp: $(VENV)/build.stamp $(VENV)/demo.stamp pyproject.toml
	$(PY) -m pip install -q --no-build-isolation -e ".[test]"
	touch $@

$(VENV)/lint.stamp: $(VENV)/build.stamp pyproject.toml
	$(PY) -m pip install -q --no-build-isolation -e ".[lint]"
	touch $@

install: $(VENV)/build.stamp  ## build in .venv

demo: $(VENV)/build.stamp $(VENV)/demo.stamp  ## train a small network with three losses on noisy masks; writes demo.png
	$(PY) -m examples.demo --out . $(ARGS)

# The four experiments of the paper on generated images, a process a core; the same command goes on after a kill.
# `python -m benchmarks.paper.page --from paper-cpu` puts the reports into docs/experiments.
PAPER_OUT ?= paper-cpu
paper-cpu: $(VENV)/paper.stamp  ## the four experiments of the paper on generated images, some 25 minutes
	for command in low-fidelity high-fidelity multi-region texture; do \
	  $(PY) -m benchmarks.paper $$command --device cpu --runs $(PAPER_OUT)/runs --out $(PAPER_OUT)/$$command $(ARGS) || exit $$?; \
	done

test: $(VENV)/test.stamp  ## all tests that this machine can run, but those marked slow (ARGS: for pytest)
	$(PY) -m pytest -n $(PYTEST_WORKERS) $(ARGS)

# The property tests alone, with several times their usual examples, new ones in every run.
LEAST_EXAMPLES ?= 20000
test-long: $(VENV)/test.stamp  ## the property tests with at least 20,000 examples, new ones every time
	$(PY) -m pytest -n $(PYTEST_WORKERS) -m hypothesis --hypothesis-profile=long --least-examples=$(LEAST_EXAMPLES) $(ARGS)

lint: $(VENV)/lint.stamp  ## ruff, clang-format, mypy
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	$(VENV)/bin/mypy

format: $(VENV)/lint.stamp  ## mend what lint can
	$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

# For a machine with a GPU and no network: uses what $(PYTHON) has (PyTorch, and what `pip install ".[test]"` brings) and builds in place.
OUT ?= gpu-check
gpu-check:  ## on a machine with a GPU: the tests that need it, compute-sanitizer, timings (OUT=dir)
	$(PYTHON) -m benchmarks.gpu_check --out $(OUT)

# On a machine that does nothing else; MACHINE: the name of the files.
RESULTS := benchmarks/results
MACHINE ?= cpu
SPEED := $(PY) -m benchmarks.speed --device cpu --budget 0.06
benchmark-cpu: $(VENV)/test.stamp  ## measure all that README and docs say of speed and memory anew, some 45 minutes
	$(SPEED) --threads 1 --peer-grid base --out $(RESULTS)/$(MACHINE)-1-thread.json
	$(SPEED) --threads 2 --peer-grid base --cases paper voc embedding tiny --labels small --masks coherent random --out $(RESULTS)/$(MACHINE)-2-threads.json
	$(SPEED) --threads 1 --cases --sweep regions channels --phases both \
	  --peers cas_ext onehot scatter_add onehot_compiled index_add_compiled masked_sum_compiled --out $(RESULTS)/$(MACHINE)-1-thread-sweep.json
	$(SPEED) --threads 1 --peer-grid base --cases paper voc embedding superpixel --labels small --masks coherent --dtypes float32 --layouts nchw \
	  --out $(RESULTS)/second-run/$(MACHINE)-1-thread.json
	$(SPEED) --threads 1 --activation softmax --cases paper voc embedding --labels small --masks coherent random --peer-grid base \
	  --peers cas_ext cas_ext_unfused scatter_add onehot_compiled scatter_add_compiled index_add_compiled masked_sum_compiled \
	  --out $(RESULTS)/$(MACHINE)-1-thread-softmax.json
	$(PY) -m benchmarks.memory --threads 1 --out $(RESULTS)/memory/cpu.json
	$(PY) -m benchmarks.call_cost --out $(RESULTS)/call-cost/$(MACHINE).json
	$(PY) -m benchmarks.readme

# README, docs/benchmarks.md and docs/performance.md, from the files in benchmarks/results; docs/experiments.md from docs/experiments.
readme-figures: $(VENV)/test.stamp  ## write what README and docs show of results, and the figures
	$(PY) -m benchmarks.readme
	$(PY) -m benchmarks.paper.page

# The machine code of the CUDA kernels; needs nvcc and cuobjdump (VENV=.venv-cuda TORCH=torch==2.11.0 brings the latter).
sass: $(VENV)/test.stamp  ## machine code of the CUDA kernels (needs nvcc and cuobjdump)
	cd tests && ../$(PY) -m sass.table && ../$(PY) -m sass.cost

clean:  ## remove .venv and what was built
	rm -rf $(VENV) build dist *.egg-info cas_ext/*.so gpu-check paper-cpu demo.png
