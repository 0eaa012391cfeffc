"""Every kind of layer: one trace in float64, looked at from all sides."""

import keras
import numpy as np
import pytest

from kormos_opt.optimizers import LBFGS
from tests.support.layer_kinds import LAYERS, model_and_data
from tests.support.problems import compiled, finite_differences, prepared

pytestmark = pytest.mark.xdist_group("layer kinds")


@pytest.fixture(scope="module", params=LAYERS)
def kind(request):
    """The name of a kind, while Keras computes in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def made(kind):
    """The objective of a model of that kind, and a point a little off the initial weights."""
    keras.utils.set_random_seed(0)
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model, LBFGS(batch_size=20)), x, y)
    rng = np.random.default_rng(2)
    return objective, objective.parameters.ravel() + 0.01 * rng.normal(size=objective.parameters.size)


def directions(x0, count):
    return np.random.default_rng(3).normal(size=(count, x0.size))


def test_gradient_is_that_of_finite_differences(made):
    objective, x0 = made
    evaluation = objective.evaluate(x0)
    for direction in directions(x0, 3):
        slope = finite_differences(lambda x: objective.evaluate(x).fun, x0, direction)
        np.testing.assert_allclose(evaluation.jac @ direction, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow_cases(
    "AveragePooling1D",
    "Bidirectional SimpleRNN",
    "Conv1D",
    "DepthwiseConv2D",
    "Dropout",
    "EinsumDense",
    "GRU",
    "GaussianNoise",
    "GroupNormalization",
    "LayerNormalization",
    "MaxPooling2D",
    "MultiHeadAttention",
    "PReLU",
    "RandomTranslation",
    "SeparableConv2D",
    "regularizers",
)
def test_product_is_that_of_finite_differences(made):
    objective, x0 = made
    (direction,) = directions(x0, 1)
    product = objective.hvps(x0, direction)
    quotient = finite_differences(lambda x: objective.evaluate(x).jac, x0, direction)
    assert np.linalg.norm(product - quotient) <= 1e-6 * np.linalg.norm(quotient)


@pytest.mark.slow_cases(
    "AveragePooling1D",
    "Bidirectional SimpleRNN",
    "DepthwiseConv2D",
    "Dropout",
    "EinsumDense",
    "GRU",
    "GaussianNoise",
    "LSTM",
    "MaxPooling2D",
    "MultiHeadAttention",
    "PReLU",
    "RandomTranslation",
    "SeparableConv2D",
    "regularizers",
)
def test_two_products_are_symmetric(made):
    """u' H v = v' H u."""
    objective, x0 = made
    u, v = directions(x0, 2)
    left, right = v @ objective.hvps(x0, u), u @ objective.hvps(x0, v)
    np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-10)
