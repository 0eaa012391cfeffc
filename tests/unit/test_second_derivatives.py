"""Hessian-vector products: against finite differences of the gradient, and the laws of a Hessian."""

from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from kormos_opt.optimizers import LBFGS
from tests.support.layer_kinds import model_and_data
from tests.support.problems import compiled, finite_differences, network, prepared, regression

layers = keras.layers


def check_product(model, x, y):
    """A product against the difference quotient of the gradient, at a point a little off the initial weights."""
    objective = prepared(model, x, y)
    rng = np.random.default_rng(2)
    x0 = objective.parameters.ravel() + 0.01 * rng.normal(size=objective.parameters.size)
    direction = rng.normal(size=x0.size)
    product = objective.hvps(x0, direction)
    quotient = finite_differences(lambda x: objective.evaluate(x).jac, x0, direction)
    assert np.linalg.norm(product - quotient) <= 1e-6 * np.linalg.norm(quotient)


@pytest.mark.parametrize(
    ("loss", "units", "activation"),
    [
        ("categorical_crossentropy", 3, "softmax"),
        ("sparse_categorical_crossentropy", 3, "softmax"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64"), 3, None),
        ("binary_crossentropy", 1, "sigmoid"),
        (keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64"), 1, None),
        ("huber", 1, None),
        ("log_cosh", 1, None),
        ("poisson", 1, "softplus"),
    ],
)
def test_losses_have_second_derivatives(loss, units, activation, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4))
    labels = rng.integers(0, max(units, 2), size=(20, 1))
    name = loss if isinstance(loss, str) else loss.name
    y = keras.utils.to_categorical(labels[:, 0], units) if name == "categorical_crossentropy" else labels
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(units, activation)])
    check_product(compiled(model, loss=loss), x, y)


@pytest.mark.slow_cases("MultiHeadAttention")
@pytest.mark.parametrize("kind", ["Conv2D", "Embedding", "MultiHeadAttention"])
def test_a_block_of_vectors_is_multiplied_as_one_by_one(kind, float64):
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model), x, y)
    assert objective.objective.vectors_per_block > 1
    objective.objective.vectors_per_block = 3
    x0 = objective.parameters.ravel()
    vectors = np.random.default_rng(0).normal(size=(4, x0.size))
    one_by_one = [objective.hvps(x0, vector) for vector in vectors]
    np.testing.assert_allclose(objective.hvps(x0, vectors), one_by_one, rtol=1e-12, atol=1e-14)


@pytest.mark.slow_cases("regularizers")
@pytest.mark.parametrize("kind", ["Dense", "BatchNormalization", "regularizers"])
def test_the_hessian_is_symmetric(kind, float64):
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model), x, y)
    hessian = objective.hvps(objective.parameters.ravel(), np.eye(objective.parameters.size))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


@pytest.mark.slow_cases("*-60")
@pytest.mark.parametrize("batch_size", [7, 60])
@pytest.mark.parametrize("cache", [True, False])
def test_chunks_and_streams_leave_a_product_alone(batch_size, cache, float64):
    x, y = regression(dtype="float64")
    model = network(kernel_regularizer="l2")
    reference = prepared(compiled(model), x, y)
    x0 = reference.parameters.ravel()
    direction = np.random.default_rng(0).normal(size=x0.size)
    expected = reference.hvps(x0, direction)
    objective = prepared(compiled(model, LBFGS(batch_size=batch_size, cache=cache)), x, y, batch_size=batch_size)
    np.testing.assert_allclose(objective.hvps(x0, direction), expected, rtol=1e-12)


def test_float32_weights_with_float64_precision():
    x, y = regression()
    model = network()
    objective = prepared(compiled(model, LBFGS(precision="float64")), x, y)
    x0 = objective.parameters.ravel() + 0.01
    direction = np.random.default_rng(0).normal(size=x0.size)
    quotient = finite_differences(lambda x: objective.evaluate(x).jac, x0, direction)
    np.testing.assert_allclose(objective.hvps(x0, direction), quotient, rtol=1e-6, atol=1e-9)


def test_the_value_alone_is_that_of_the_evaluation():
    x, y = regression()
    objective = prepared(compiled(network(), LBFGS(batch_size=7), metrics=["mae"]), x, y)
    x0 = objective.parameters.ravel()
    both, value = objective.evaluate(x0), objective.evaluate(x0, gradient=False)
    np.testing.assert_allclose(value.fun, both.fun, rtol=1e-6)
    assert value.jac is None
    np.testing.assert_allclose(float(value.logs["mae"]), float(both.logs["mae"]), rtol=1e-6)


class CountsGradients(layers.Layer):
    """The identity. Appends to `backward` whenever its gradient is computed."""

    backward: ClassVar = []

    def call(self, x):
        @tf.custom_gradient
        def identity(x):
            def count(gradient):
                self.backward.append(1)
                return gradient

            def gradient(upstream):
                return tf.ensure_shape(tf.numpy_function(count, [upstream], tf.float32, stateful=False), x.shape)

            return tf.identity(x), gradient

        return identity(x)


def test_the_value_alone_computes_no_gradient():
    x, y = regression()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), CountsGradients(), layers.Dense(1)])
    objective = prepared(compiled(model, LBFGS(batch_size=7)), x, y)
    CountsGradients.backward.clear()  # whether its rows may be cut was tried
    x0 = objective.parameters.ravel()
    objective.evaluate(x0, gradient=False)
    assert len(CountsGradients.backward) == 0
    objective.evaluate(x0)
    assert len(CountsGradients.backward) == 9


def test_an_operation_without_second_derivative_is_named():
    inputs = keras.Input((4, 4, 1))
    resized = layers.Resizing(7, 7, interpolation="bicubic")(layers.Conv2D(2, 1)(inputs))
    model = compiled(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(resized))))
    rng = np.random.default_rng(0)
    objective = prepared(model, rng.normal(size=(5, 4, 4, 1)), rng.normal(size=(5, 1)))
    x0 = objective.parameters.ravel()
    with pytest.raises(ValueError, match=r"(?s)second derivative.*ResizeBicubicGrad"):
        objective.hvps(x0, x0)
