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

nightly: audit test faults fuzz mutants  ## what every change passes and what takes longer
	$(BIN)/mypy --python-version 3.13

licences: $(INSTALLED)  ## docs/licences.md
	$(BIN)/python .ci/licences.py --write

# the oldest versions that pyproject.toml allows, torch apart: make lowest VENV=.venv-lowest
lowest: $(VENV)/.lowest  ## theory, data, models and a run with the oldest versions allowed
	$(BIN)/python -m pytest -n auto --dist worksteal -W default tests/theory tests/data tests/models \
	  tests/test_moments.py tests/test_spec.py tests/test_predict.py tests/test_plots.py

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
	awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia|cuda|atheris)/} keep' constraints.txt > $(VENV)/pins.txt
	$(PIP) --require-hashes -r $(VENV)/pins.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(VENV)/.without-torch

# pip alone finds the CPU build; torch is the one tested
$(VENV)/.lowest: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv
	echo torch==2.13.0 > $(VENV)/torch.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --resolution lowest-direct --no-header \
	  --constraint $(VENV)/torch.txt -o $(VENV)/lowest.txt
	$(PIP) --no-deps -r .ci/torch-cpu.txt || $(PIP) torch==2.13.0
	awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia|cuda)/} keep' $(VENV)/lowest.txt > $(VENV)/pins.txt
	$(PIP) -r $(VENV)/pins.txt pytest pytest-xdist pytest-randomly hypothesis pandas
	$(PIP) --no-deps -e .
	touch $(VENV)/.lowest

clean:
	rm -rf $(VENV) results build site *.egg-info
