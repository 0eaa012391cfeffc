"""Variables as one vector: the laws of ravel and unravel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kormos_opt.objective.flat_parameters import FlatParameters

pytestmark = pytest.mark.quick

SHAPES = [(3, 4), (), (5,), (1, 2, 3), (0,)]


def variables(dtype):
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_assigning_what_was_raveled_changes_nothing(dtype):
    flat = FlatParameters(variables(dtype))
    before = [variable.numpy() for variable in flat.variables]
    x = flat.ravel()
    assert x.dtype == "float64"
    assert x.shape == (flat.size,) == (24,)
    flat.assign(x)
    for old, variable in zip(before, flat.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_round_is_assign_and_ravel(dtype):
    flat = FlatParameters(variables(dtype))
    x = np.random.default_rng(1).normal(size=flat.size)
    flat.assign(x)
    np.testing.assert_array_equal(flat.ravel(), flat.round(x))


def test_unravel_then_ravel_gradients_is_the_identity():
    flat = FlatParameters(variables("float32"))
    x = np.random.default_rng(1).normal(size=flat.size)
    pieces = flat.unravel(x)
    gradients = {id(variable): piece for variable, piece in zip(flat.variables, pieces, strict=True)}
    np.testing.assert_array_equal(flat.ravel_gradients(gradients), x)


def test_slices_and_missing_gradients_are_filled_up():
    flat = FlatParameters([keras.Variable(np.zeros((4, 2))), keras.Variable(np.zeros(3))])
    slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 3, 1]), tf.constant([4, 2]))
    gradient = flat.ravel_gradients({id(flat.variables[0]): slices})
    np.testing.assert_array_equal(gradient, [0, 0, 2, 2, 0, 0, 1, 1, 0, 0, 0])
