"""What all tests share: seeds, default dtypes put back, and a quiet TensorFlow with three logical CPUs."""

import contextlib
import gc
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt  # noqa: F401  installs the hook
from tests.support.light_solver import register_light_solver
from tests.support.slow import is_slow

_CPU = tf.config.list_physical_devices("CPU")[0]
register_light_solver()
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 3)


@pytest.fixture(autouse=True)
def seeded(request):
    """Seeds, and with `--perturb SEED` initial weights that are moved in their last digits."""
    keras.utils.set_random_seed(0)
    seed = request.config.getoption("--perturb")
    with contextlib.ExitStack() as replaced:
        for owner in _RANDOM if seed is not None else ():
            replaced.enter_context(_moved(owner, seed))
        yield


_INITIALIZERS = [each for each in vars(keras.initializers).values() if isinstance(each, type)]
_RANDOM = {
    next(owner for owner in each.__mro__ if "__call__" in vars(owner))
    for each in _INITIALIZERS
    if any("Random" in owner.__name__ or owner.__name__ == "VarianceScaling" for owner in each.__mro__)
}


@contextlib.contextmanager
def _moved(owner, seed):
    """Inside, what this initializer draws is moved by 1e-13 of its size, in float32 by 1e-6; equal values alike."""
    stock = owner.__call__

    def call(self, *args, **kwargs):
        value = stock(self, *args, **kwargs)
        if tf.is_symbolic_tensor(value):  # of a model that is built in a graph
            return value
        rng = np.random.default_rng([seed, zlib.crc32(np.asarray(value).tobytes())])
        size = 1e-13 if keras.backend.standardize_dtype(value.dtype) == "float64" else 1e-6
        return value * keras.ops.cast(1 + size * rng.standard_normal(value.shape), value.dtype)

    owner.__call__ = call
    try:
        yield
    finally:
        owner.__call__ = stock


@pytest.fixture
def float64():
    """Keras computes in float64 by default inside the test."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="the cases that are marked as slow too")
    parser.addoption("--perturb", type=int, help="a seed: initial weights move in their last digits, as on another CPU")
    parser.addoption("--random-cases", type=int, default=2, help="cases of tests/fit/test_random_models.py")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked as slow, unless it is asked for by `--thorough` or by name."""
    if config.getoption("--thorough") or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if is_slow(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_collection_finish():
    """What is imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
