"""Double precision: of the objective of a float32 model, and of the losses of a float64 model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.objective import precision
from kormos_opt.optimizers import LBFGS
from tests.support.layer_kinds import LAYERS, model_and_data
from tests.support.problems import compiled, finite_differences, linear, network, prepared, regression


@pytest.mark.slow_cases(
    "AveragePooling1D",
    "Bidirectional SimpleRNN",
    "Conv1D",
    "Conv2DTranspose",
    "Dense gelu",
    "Dense softmax",
    "DepthwiseConv2D",
    "Dropout",
    "EinsumDense",
    "Embedding",
    "GRU",
    "GaussianNoise",
    "GroupNormalization",
    "LayerNormalization",
    "MaxPooling2D",
    "MultiHeadAttention",
    "PReLU",
    "RandomTranslation",
    "SeparableConv2D",
)
@pytest.mark.parametrize("kind", LAYERS)
def test_float32_model_has_the_loss_of_its_float64_twin(kind):
    model, x, y = model_and_data(kind)
    if "Noise" in kind or "Dropout" in kind or "Random" in kind:
        pytest.skip("random numbers differ by dtype")
    objective = prepared(compiled(model, LBFGS(precision="float64")), x, y)
    weights = model.get_weights()
    here = objective.evaluate(objective.parameters.ravel())
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        twin, *_ = model_and_data(kind)
        twin.set_weights(weights)
        as_float32 = x if x.dtype.kind == "i" else x.astype("float32")
        objective = prepared(compiled(twin), as_float32, y.astype("float32"))
        there = objective.evaluate(objective.parameters.ravel())
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(here.fun, there.fun, rtol=1e-13)
    np.testing.assert_allclose(here.jac, there.jac, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize(
    "kind", ["Dense", "LayerNormalization", "GroupNormalization", "BatchNormalization", "Embedding"]
)
def test_every_weight_is_read_in_double_precision(kind):
    """A change far below the resolution of float32 changes f as the gradient says."""
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model, LBFGS(precision="float64")), x, y)
    here = objective.parameters.ravel()
    jac = objective.evaluate(here).jac
    for i in np.flatnonzero(np.abs(jac) > 1e-2):
        direction = np.eye(here.size)[i]
        slope = finite_differences(lambda x: objective.evaluate(x).fun, here, direction, step=1e-7)
        np.testing.assert_allclose(jac[i], slope, rtol=1e-5)


def test_goes_on_where_float32_ends():
    x, y = regression(rows=1000, columns=20)
    gradients = {}
    for name in ("model", "float64"):
        keras.utils.set_random_seed(0)
        model = compiled(linear(20), kormos_opt.LBFGS(precision=name, options={"gtol": 1e-11, "ftol": 0}))
        model.fit(x, y, epochs=100, verbose=0)
        gradients[name] = np.linalg.norm(model.optimizer.result.jac)
    assert gradients["float64"] < 1e-3 * gradients["model"]


def test_weights_and_policies_are_put_back():
    x, y = regression()
    model = compiled(network(), LBFGS(precision="float64"), metrics=["mae"])
    model.fit(x, y, epochs=2, verbose=0)
    assert {variable.dtype for variable in model.variables} <= {"float32", "uint32", "int64"}
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert model.predict(x, verbose=0).dtype == "float32"
    assert LBFGS(precision="float64").get_config()["precision"] == "float64"


class CastsToFloat32(keras.layers.Layer):
    def call(self, x):
        return keras.ops.cast(x, "float32")


class AddsFloat32Constant(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.constant = keras.ops.ones((1,), "float32")

    def call(self, x):
        return tf.add(x, self.constant)


@pytest.mark.parametrize("layer", [CastsToFloat32, AddsFloat32Constant])
def test_layer_that_stands_in_the_way_is_named(layer):
    x, y = regression()
    model = keras.Sequential([keras.Input((4,)), layer(), keras.layers.Dense(1)])
    weights = model.get_weights()
    with pytest.raises(ValueError, match=f"Received: layer '.*' \\({layer.__name__}\\), which does not"):
        compiled(model, LBFGS(precision="float64")).fit(x, y, epochs=2, verbose=0)
    assert {each.compute_dtype for each in model.layers} == {"float32"}
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])


def test_other_errors_keep_their_message():
    x, y = regression()
    model = compiled(linear(), LBFGS(precision="float64"), loss=lambda y, y_pred: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize("global_policy", [True, False])
def test_loss_of_a_float64_model_is_put_right(global_policy):
    """Keras computes losses in `floatx()`, so a float64 model has a loss with seven digits. Ours has sixteen."""
    x, y = regression(dtype="float64")
    if global_policy:
        keras.config.set_dtype_policy("float64")
    try:
        inputs = keras.Input((4,), dtype="float64")
        dense = keras.layers.Dense(1, dtype="float64", kernel_regularizer="l2")
        model = compiled(keras.Model(inputs, dense(inputs)))
    finally:
        keras.config.set_dtype_policy("float32")
    objective = prepared(model, x, y)
    x0 = objective.parameters.ravel()
    direction = np.ones(x0.size)
    slope = finite_differences(lambda x: objective.evaluate(x).fun, x0, direction)
    np.testing.assert_allclose(objective.evaluate(x0).jac @ direction, slope, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 2**-23), ("float64", 2**-52), ("bfloat16", 2**-7)])
def test_resolution_is_machine_epsilon(dtype, expected):
    assert precision.resolution(dtype) == expected


def test_compute_dtype_is_the_coarsest_of_layers_with_weights():
    inputs = keras.Input((4,))
    coarse = keras.layers.Dense(3, dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(coarse))
    assert precision.compute_dtype(model) == "bfloat16"
    assert precision.compute_dtype(linear()) == "float32"


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean((y_pred - y) ** 2)


class OwnStep(keras.Model):
    """A residual with a derivative with respect to the input, as physics-informed networks have it."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                outputs = self(x, training=True)
            slope = inner.gradient(outputs, x)
            loss = tf.reduce_mean((outputs - y) ** 2) + tf.reduce_mean(slope**2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("kind", [OwnLoss, OwnStep])
def test_own_losses_and_steps_compute_in_float64(kind):
    x, y = regression()
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh")(inputs)
    model = compiled(kind(inputs, keras.layers.Dense(1)(hidden)), LBFGS(precision="float64"))
    objective = prepared(model, x, y)
    x0 = objective.parameters.ravel()
    fun = objective.evaluate(x0).fun
    assert fun != float(np.float32(fun))
    direction = np.ones(x0.size)
    if kind is OwnLoss:
        slope = finite_differences(lambda x: objective.evaluate(x).fun, x0, direction)
        np.testing.assert_allclose(objective.evaluate(x0).jac @ direction, slope, rtol=1e-9)


def test_loss_that_stays_float32_is_refused():
    x, y = regression()

    class Casting(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return tf.reduce_mean(tf.cast(y_pred - y, tf.float32) ** 2)

    inputs = keras.Input((4,))
    model = compiled(Casting(inputs, keras.layers.Dense(1)(inputs)), LBFGS(precision="float64"))
    with pytest.raises(ValueError, match=r"Expected a loss in float64\. Received: a loss of dtype float32"):
        model.fit(x, y, verbose=0)
