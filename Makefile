# make pareto   search the embedded default and print its Pareto front
# make test     run the tests
# make test-fast     run the tests that are not marked slow, for the inner loop
# make test-oldest   run the core tests with the oldest versions that pyproject.toml allows, in .venv-oldest
# make coverage run the tests, and print the line coverage of each file
# make test-faults   inject faults into sweeps, for longer than `make test`
# make fuzz     try malformed files, paths and environments, five minutes each (MINUTES=5); `make test` tries a few
# make gpu      measure the code on a GPU, into gpu-results (benchmarks/gpu.py)
# make docs     generate the reference pages from the code, and check the documents
# All set up .venv if it is missing. ARGS="--trials 200" passes options to the job.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
OLDEST = .venv-oldest
CORE = tests/compress tests/data tests/evaluate tests/models tests/results tests/test_recipe.py tests/test_flops.py
ARGS ?=
MINUTES ?= 5

.PHONY: pareto test test-fast test-oldest docs test-faults fuzz gpu coverage lint types setup clean
.DELETE_ON_ERROR:

pareto: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python jobs/pareto_search.py --space search_spaces/streetscenes_vit_micro.yaml $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not faults" --ignore=tests/fuzz $(ARGS)

test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(CORE) $(ARGS)

docs: $(STAMP)
	$(BIN)/python docs/render.py
	$(BIN)/python -m pytest tests/test_docs.py $(ARGS)

test-faults: $(STAMP)
	OMP_NUM_THREADS=1 RAYCOMP_DRIVER_KILLS=20 $(BIN)/python -m pytest -m faults $(ARGS)

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 RAYCOMP_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/fuzz $(ARGS)

gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --out gpu-results $(ARGS)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: $(STAMP)
	$(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: raycomp needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "make: setting up $(VENV) with the packages of constraints.txt: once, a few minutes, 4 GB (more with CUDA)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,jobs,onnx]'
	@touch $(STAMP)

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[onnx]'
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python pytest pytest-xdist hypothesis fvcore
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache
