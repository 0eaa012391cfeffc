"""What all tests share: seeds, default dtypes put back, and a quiet TensorFlow with three logical CPUs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import pytest
import tensorflow as tf

import kormos_opt  # noqa: F401  installs the hook
from tests.light_solver import register_light_solver

_CPU = tf.config.list_physical_devices("CPU")[0]
register_light_solver()
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 3)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Keras computes in float64 by default inside the test."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def pytest_addoption(parser):
    parser.addoption("--random-cases", type=int, default=10, help="cases of tests/test_random_models.py")
