"""A loss or a layer that looks at other rows: found wherever rows are cut, and free of cost for Keras's own."""

import keras
import numpy as np
import pytest

import kormos_opt
from tests.support.problems import compiled, network, prepared, regression

X, Y = regression(rows=48)
CLASSES = np.random.default_rng(0).integers(0, 3, 48)
ops = keras.ops


def centered(y, p):
    """A value for each row, of a residual without its mean over the rows."""
    residual = p - ops.cast(y, p.dtype)
    return ops.mean((residual - ops.mean(residual, axis=0, keepdims=True)) ** 2, axis=-1)


def contrastive(y, p):
    """InfoNCE: every row against all others."""
    logits = ops.matmul(p, ops.transpose(p))
    return -ops.diagonal(ops.log_softmax(logits, axis=-1)) + 0 * ops.cast(y[:, 0], p.dtype)


def differences(y, p):
    """Every row against the one before."""
    return ops.mean((p - ops.roll(p, 1, axis=0)) ** 2, axis=-1) + 0 * ops.cast(y[:, 0], p.dtype)


class Centering(keras.layers.Layer):
    """Takes the mean of the batch away."""

    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


def normalized():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.UnitNormalization()])


def with_operation():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden - ops.mean(hidden, axis=0, keepdims=True)))


MIXING = {
    "Circle": (normalized, keras.losses.Circle(), CLASSES),
    "centered": (network, centered, Y),
    "InfoNCE": (normalized, contrastive, Y),
    "differences": (network, differences, Y),
    "layer": (lambda: keras.Sequential([keras.Input((4,)), Centering(), keras.layers.Dense(1)]), "mse", Y),
    "Lambda": (
        lambda: keras.Sequential(
            [keras.Input((4,)), keras.layers.Lambda(lambda x: x - ops.mean(x, axis=0)), keras.layers.Dense(1)]
        ),
        "mse",
        Y,
    ),
    "operation": (with_operation, "mse", Y),
}


@pytest.mark.parametrize("case", MIXING)
def test_is_refused_where_rows_are_cut(case):
    make, loss, y = MIXING[case]
    keras.utils.set_random_seed(0)
    model = compiled(make(), kormos_opt.LBFGS(batch_size=16), loss)
    with pytest.raises(ValueError, match="adds up over chunks"):
        model.fit(X, y, verbose=0)
    model.compile(kormos_opt.LBFGS(), loss)
    objective = prepared(model, X, y)
    expected = float(np.mean(keras.losses.get(loss)(np.asarray(y, "float32") if case != "Circle" else y, model(X))))
    np.testing.assert_allclose(objective.evaluate(objective.parameters.ravel()).fun, expected, rtol=1e-4)


def own_function(y, p):
    return ops.mean((y - p) ** 2, axis=-1)


class Square(keras.layers.Layer):
    def call(self, x):
        return x**2


@pytest.mark.parametrize("loss", ["mse", own_function])
def test_rows_by_themselves_are_taken(loss):
    model = compiled(
        keras.Sequential([keras.Input((4,)), Square(), keras.layers.Dense(1)]), kormos_opt.LBFGS(batch_size=16), loss
    )
    assert len(model.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def test_nothing_is_tried_with_layers_and_losses_of_keras(monkeypatch):
    def refuse(*_):
        raise AssertionError("tried")

    monkeypatch.setattr("kormos_opt.objective.chunking_check._evaluated", refuse)
    compiled(network(), kormos_opt.LBFGS(batch_size=16), keras.losses.Huber()).fit(X, Y, epochs=1, verbose=0)
