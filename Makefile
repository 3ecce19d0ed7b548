# The two commands of the README: each creates the environment first, if it is not there yet.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: compare test lint types docs fuzz clean

compare: $(INSTALLED)  ## predicted against observed collapse of the bundled digits
	$(BIN)/python -m linvae.compare

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# not --quiet: strict would no longer see the warnings
docs: $(INSTALLED)  ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# nightly: every reader of files under atheris (Linux), FUZZ_SECONDS each; what fails stays in fuzz/
FUZZ_SECONDS ?= 60
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# torch first and alone: later steps then keep it. On Linux the default index has the CUDA build;
# the CPU build is enough: make TORCH_INDEX=https://download.pytorch.org/whl/cpu
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_INDEX:%=--index-url %) torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) results build site *.egg-info
