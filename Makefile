# The commands of the README. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL = 2

.PHONY: demo test test-oldest lint benchmarks clean

demo: $(VENV)/installed
	$(BIN)/python -m examples.demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest --cov

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The oldest versions that requirements.txt admits. Needs Python 3.10, see OLDEST_PYTHON.
OLDEST_PYTHON ?= python3.10
test-oldest:
	$(MAKE) VENV=.venv-oldest PYTHON=$(OLDEST_PYTHON) CONSTRAINTS=tests/oldest.txt .venv-oldest/installed
	.venv-oldest/bin/python -m pytest

benchmarks: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[benchmark]'
	$(BIN)/python -m benchmarks.overhead

$(VENV)/installed: pyproject.toml requirements.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]' $(CONSTRAINTS:%=--constraint %)
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
