# The two commands of the README: each creates the environment first, if it is not there yet.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet
COVERAGE := $(BIN)/python -m coverage
LOCK := $(BIN)/uv pip compile --quiet pyproject.toml --extra dev --extra fuzz --extra mutants --universal --no-header
PIP_LINES := sed -n '/^pip==/,/[^\\]$$/p; /^setuptools==/,/[^\\]$$/p' constraints.txt

.PHONY: compare test test-theory lint types docs audit licences lock lowest faults fuzz mutants nightly clean

compare: $(INSTALLED)  ## predicted against observed collapse of the bundled digits
	$(BIN)/python -m linvae.compare

# in a new order each time: "make test SEED=..." repeats the order that the first lines name
test: $(INSTALLED)  ## all tests, and the share of lines and branches that they run
	$(COVERAGE) erase
	$(COVERAGE) run -m pytest -n auto --dist worksteal $(SEED:%=-p randomly --randomly-seed=%)
	$(COVERAGE) combine --quiet
	$(COVERAGE) report --format=total --include='linvae/theory/*' --fail-under=95
	$(COVERAGE) report --format=total --fail-under=90

# for a Python at hand without a build of torch: make test-theory PYTHON=python3.13 VENV=.venv-3.13
test-theory: $(VENV)/.without-torch  ## theory, moments, specifications and data, which need no torch
	$(BIN)/python -m pytest -n auto --dist worksteal tests/theory tests/data tests/test_moments.py \
	  tests/test_spec.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# not --quiet: strict would no longer see the warnings
docs: $(INSTALLED)  ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: $(INSTALLED)  ## the pins of constraints.txt, and new ones for what pyproject.toml adds
	$(LOCK) --no-annotate --generate-hashes -o constraints.txt

audit: $(INSTALLED)  ## known vulnerabilities of the pins, where a service answers; licences
	$(BIN)/python .ci/audit.py constraints.txt
	$(BIN)/python .ci/licences.py
	$(BIN)/bandit -q -c pyproject.toml -r linvae analysis figures paper_checks

licences: $(INSTALLED)  ## docs/licences.md
	$(BIN)/python .ci/licences.py --write

faults: $(INSTALLED)  ## nightly: 20 kills, a disk full at every operation, clusters that die
	LINVAE_FAULTS=full $(BIN)/python -m pytest -s tests/faults

# FUZZ_SECONDS for each reader (Linux); an input that fails stays in fuzz/
FUZZ_SECONDS ?= 60
fuzz: $(INSTALLED)  ## nightly: property tests with 10,000 examples each, hours; readers under atheris
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile nightly \
	  $$(grep -l "^from hypothesis" -r tests --include="test_*.py")
	$(PIP) --require-hashes -c constraints.txt "linvae[fuzz]"
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

mutants: $(INSTALLED)  ## nightly: mutation testing of linvae/theory, hours; called again it goes on
	$(PIP) --require-hashes -c constraints.txt "linvae[mutants]"
	OMP_NUM_THREADS=1 $(BIN)/python -m analysis.mutants --out results/mutants

# Every file is checked by its hash in constraints.txt. torch first: on Linux the default index has
# the CUDA build, and pip would take that one; the CPU build is enough. It is taken where pip finds
# it (.ci/torch-cpu.txt), or from another index, then unchecked, as its hashes are not known here:
# make TORCH_INDEX=https://download.pytorch.org/whl/cpu
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_LINES) > $(VENV)/pip.txt
	$(PIP) --require-hashes -r $(VENV)/pip.txt
	$(PIP) --no-deps --no-build-isolation -e .
ifdef TORCH_INDEX
	$(PIP) --index-url $(TORCH_INDEX) torch==2.13.0
else
	$(PIP) --require-hashes --no-deps -r .ci/torch-cpu.txt 2> $(VENV)/torch.log || true
endif
	$(PIP) --require-hashes -c constraints.txt "linvae[dev]"
	touch $(INSTALLED)

$(VENV)/.without-torch: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_LINES) > $(VENV)/pip.txt
	$(PIP) --require-hashes -r $(VENV)/pip.txt
	awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia|cuda)/} keep' constraints.txt > $(VENV)/pins.txt
	$(PIP) --require-hashes -r $(VENV)/pins.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(VENV)/.without-torch

clean:
	rm -rf $(VENV) results build site *.egg-info
