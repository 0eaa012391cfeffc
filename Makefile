# The commands of the README. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL = 2

.PHONY: demo test test-thorough test-oldest lint benchmarks clean

demo: $(VENV)/installed
	$(BIN)/python -m examples.demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest --cov

# What takes long and need not run at every change: many random models, and the test suites of scipy and of Keras,
# which come with their wheels, with this package in the way.
SCIPY_TESTS = optimize minimize_constrained trustregion trustregion_exact trustregion_krylov slsqp tnc cobyla cobyqa \
	lbfgsb_hessinv lbfgsb_setulb constraint_conversion
KERAS_TESTS = trainers.trainer $(addprefix callbacks.,backup_and_restore callback csv_logger early_stopping \
	lambda_callback learning_rate_scheduler model_checkpoint monitor_callback reduce_lr_on_plateau swap_ema_weights \
	tensorboard terminate_on_nan)
HOSTS_PYTEST = $(BIN)/python -m pytest -c thorough/pytest.ini -q

test-thorough: $(VENV)/installed
	$(BIN)/python -m pytest -q tests/test_random_models.py --random-cases 300
	$(HOSTS_PYTEST) -p thorough.scipy_suite --pyargs $(SCIPY_TESTS:%=scipy.optimize.tests.test_%)
	$(HOSTS_PYTEST) -p thorough.keras_suite --pyargs $(KERAS_TESTS:%=keras.src.%_test)

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
