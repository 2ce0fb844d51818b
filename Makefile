# Everything runs in .venv, which the first target that needs it builds: python3, make and a package index suffice.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: run test lint types sanitize bench clean

run: .venv/run  ## train a KAN and an MLP of the same size on handwritten digits
	$(BIN)/kanfast compare $(ARGS)

# One thread a worker: the tensors of the tests are small, and the workers share the cores.
test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

sanitize: .venv/dev  ## the native code's tests and a fuzz under GCC's sanitizers
	$(BIN)/python tests/sanitize $(ARGS)

bench: .venv/bench  ## measure on the GPU, or the CPU where there is none; see bench/README.md
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp for each set of extras. Older than pyproject.toml, setup.py or the C++ sources, it is made again.
.venv/run .venv/dev .venv/bench: .venv/%: pyproject.toml setup.py $(wildcard kanfast/engine/native/*.cpp kanfast/engine/native/*.h) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
