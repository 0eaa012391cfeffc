# The commands of the README. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
OLDEST_PYTHON ?= python3.10
BIN = $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALL = $(BIN)/python -m uv pip install --python $(BIN)/python --quiet --compile-bytecode --editable
export TF_CPP_MIN_LOG_LEVEL = 2

.PHONY: demo test test-quick test-thorough test-oldest lint docs benchmarks clean

demo: $(VENV)/installed
	$(BIN)/python -m examples.demo

# Every promise, on all cores. Tests of a group share a trace or processes, so they stay together.
PYTEST = $(BIN)/python -m pytest -q
ALL_CORES = -n auto --dist loadgroup

test: $(VENV)/installed lint
	$(PYTEST) $(ALL_CORES)

# For the inner loop: solvers, runs, stages, resuming, endings, imports.
test-quick: $(VENV)/installed lint
	$(PYTEST) -m quick tests

# What need not run at every change: every case with its coverage, many random models, the test suites of scipy and of
# Keras, which come with their wheels, with this package in the way, the site, and the oldest versions.
SCIPY_TESTS = optimize minimize_constrained trustregion trustregion_exact trustregion_krylov slsqp tnc cobyla cobyqa \
	lbfgsb_hessinv lbfgsb_setulb constraint_conversion
KERAS_TESTS = trainers.trainer $(addprefix callbacks.,backup_and_restore callback csv_logger early_stopping \
	lambda_callback learning_rate_scheduler model_checkpoint monitor_callback reduce_lr_on_plateau swap_ema_weights \
	tensorboard terminate_on_nan)
# Initial weights are moved in their last digits, as another processor would move them: no verdict may change.
SEEDS = 1 2 3
RANDOM_CASES = 300
PERTURBED = -m "not quick" $(addprefix --ignore=tests/,docs contract fit/test_keras_tuner.py fit/test_multi_worker.py \
	fit/test_sklearn.py) tests
HOSTS_PYTEST = $(BIN)/python -m pytest -c thorough/pytest.ini -q

test-thorough: $(VENV)/installed docs
	$(PYTEST) $(ALL_CORES) --thorough --cov
	for seed in $(SEEDS); do $(PYTEST) $(ALL_CORES) --perturb $$seed $(PERTURBED) || exit 1; done
	$(PYTEST) $(ALL_CORES) --random-cases $(RANDOM_CASES) tests/fit/test_random_models.py
	$(HOSTS_PYTEST) -p thorough.scipy_suite --pyargs $(SCIPY_TESTS:%=scipy.optimize.tests.test_%)
	$(HOSTS_PYTEST) -p thorough.keras_suite --pyargs $(KERAS_TESTS:%=keras.src.%_test)
	if command -v "$(OLDEST_PYTHON)" > /dev/null; then $(MAKE) test-oldest; \
	else echo "No $(OLDEST_PYTHON) here: the oldest versions are not tested. Set OLDEST_PYTHON=."; fi

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

# The oldest versions that requirements.txt admits. Needs Python 3.10.
test-oldest:
	$(MAKE) VENV=.venv-oldest PYTHON=$(OLDEST_PYTHON) CONSTRAINTS=tests/oldest.txt .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -q $(ALL_CORES) --thorough

# The site, into docs/_build/html. A warning is an error.
docs: $(VENV)/installed
	$(INSTALL) '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

benchmarks: $(VENV)/installed
	$(INSTALL) '.[benchmark]'
	$(BIN)/python -m benchmarks.overhead

$(VENV)/installed: pyproject.toml requirements.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(INSTALL) '.[test]' $(CONSTRAINTS:%=--constraint %)
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
