"""The objective changes in the middle of a fit: it is noticed, said once, and no end rests on the old one."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.support.light_solver import light
from tests.support.problems import compiled, linear, regression

X, Y = regression(dtype="float64")


class Weighted(keras.Model):
    """Two terms, the second with a weight that is a variable: of the model, of TensorFlow, or a Python number."""

    def __init__(self, weight):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.kind = weight
        if weight == "add_weight":
            self.factor = self.add_weight(shape=(), initializer="ones", trainable=False, name="factor")
        else:
            self.factor = tf.Variable(1.0, dtype="float64", trainable=False, name="factor") if weight == "tf" else 1.0

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        penalty = keras.ops.mean((y_pred - 1) ** 2)
        return keras.ops.mean((y_pred - y) ** 2) + keras.ops.cast(self.factor, y_pred.dtype) * penalty

    def assign(self, value):
        if self.kind == "python":
            self.factor = value
        else:
            self.factor.assign(value)


def optimum(factor):
    """The smallest loss there is: a least squares problem with the rows of both terms."""
    design = np.hstack([X, np.ones((len(X), 1))])
    rows = np.vstack([design, np.sqrt(factor) * design])
    targets = np.vstack([Y, np.sqrt(factor) * np.ones_like(Y)])
    solution, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    return np.sum((rows @ solution - targets) ** 2) / len(X)


def assigning(model, at, value):
    def on_epoch_end(epoch, logs):
        if epoch == at:
            model.assign(value)

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


OPTIMIZERS = {
    "L-BFGS-B": lambda: kormos_opt.LBFGS(tol=1e-10),
    "light": lambda: light(tol=1e-10),
    "BFGS": lambda: kormos_opt.BFGS(tol=1e-7),
    "trust-ncg": lambda: kormos_opt.TrustNCG(tol=1e-9),
}


@pytest.mark.slow_cases("tf-*-ncg", "tf-BFGS", "tf-light")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weight", ["add_weight", "tf"])
def test_a_loss_weight_assigned_by_a_callback(weight, name, float64, caplog):
    model = Weighted(weight)
    compiled(model, OPTIMIZERS[name]())
    callback = assigning(model, 2, 9.0)
    history = model.fit(X, Y, epochs=60, callbacks=[callback], verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], optimum(9.0), rtol=1e-8)
    assert history["loss"][2] < history["loss"][3]
    assert np.all(np.diff(history["fg_evals"]) >= 0)
    assert model.optimizer.result.nfev == history["fg_evals"][-1]
    assert model.optimizer.result.success
    messages = [record.message for record in caplog.records if "was changed in the middle" in record.message]
    assert len(messages) == 1
    assert "factor" in messages[0] and ("keeps its state" if name == "light" else "starts afresh") in messages[0]


def test_noticing_costs_no_evaluation(float64):
    """Without a change the evaluations are those of a model that has no such variable; one change costs one."""
    counts = []
    for at in (None, 3):
        keras.utils.set_random_seed(0)
        model = compiled(Weighted("tf"))
        callbacks = [] if at is None else [assigning(model, at, 1.0 + 1e-12)]
        counts.append(model.fit(X, Y, epochs=5, callbacks=callbacks, verbose=0).history["fg_evals"])
    unchanged, changed = counts
    assert changed[:4] == unchanged[:4]
    assert changed[4] - unchanged[3] >= 2


def test_said_once_in_a_fit_and_again_in_the_next(float64, caplog):
    model = compiled(Weighted("tf"), kormos_opt.LBFGS(tol=0))
    every = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.assign(2.0 + epoch))
    for fits in (1, 2):
        model.fit(X, Y, epochs=4, callbacks=[every], verbose=0)
        assert sum("was changed in the middle" in record.message for record in caplog.records) == fits


def test_a_python_value_in_an_eager_model(float64, caplog):
    """Nobody can compare it; but before an end is reported, one evaluation confirms the loss."""
    model = compiled(Weighted("python"), kormos_opt.LBFGS(tol=1e-10), run_eagerly=True)
    history = model.fit(X, Y, epochs=100, callbacks=[assigning(model, 2, 9.0)], verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], optimum(9.0), rtol=1e-7)
    assert "a Python value" in caplog.text
    assert model.optimizer.result.success


def test_a_bare_variable_in_an_eager_model_is_seen_at_once(float64, caplog):
    model = compiled(Weighted("tf"), kormos_opt.LBFGS(tol=1e-13), run_eagerly=True)
    history = model.fit(X, Y, epochs=60, callbacks=[assigning(model, 2, 9.0)], verbose=0).history
    assert history["fg_evals"][3] - history["fg_evals"][2] <= 4
    np.testing.assert_allclose(history["loss"][-1], optimum(9.0), rtol=1e-7)
    assert "factor" in caplog.text


def test_a_loss_that_is_no_function_ends_with_that_message(float64):
    """A model that draws random numbers from numpy, run eagerly."""
    rng = np.random.default_rng(0)

    class Random(Weighted):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y_pred - y) ** 2) * (1 + rng.uniform())

    model = compiled(Random("python"), run_eagerly=True)
    model.fit(X, Y, epochs=200, verbose=0)
    assert not model.optimizer.result.success
    assert "A solver needs a loss that is a function of the weights" in model.optimizer.result.message


def test_frozen_weights_assigned_by_a_callback(float64, caplog):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.layers[0].trainable = False
    compiled(model, kormos_opt.LBFGS(tol=1e-13))
    new = [weight + 1.0 for weight in model.layers[0].get_weights()]

    def on_epoch_end(epoch, logs):
        if epoch == 1:
            model.layers[0].set_weights(new)

    history = model.fit(
        X, Y, epochs=100, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)], verbose=0
    ).history
    features = np.hstack([X @ new[0] + new[1], np.ones((60, 1))])
    expected = np.mean((features @ np.linalg.lstsq(features, Y, rcond=None)[0] - Y) ** 2)
    np.testing.assert_allclose(history["loss"][-1], expected, rtol=1e-7)
    assert "was changed in the middle" in caplog.text


def test_seeds_moved_by_a_callback_are_put_back():
    """Predictions with dropout in a callback do not change the masks of the fit."""
    x, y = regression()

    def make():
        keras.utils.set_random_seed(1)
        return compiled(
            keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
            )
        )

    model, other = make(), make()
    sample = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: other(x[:3], training=True))
    expected = model.fit(x, y, epochs=6, verbose=0).history
    assert other.fit(x, y, epochs=6, callbacks=[sample], verbose=0).history == expected


def test_moving_averages_set_by_a_callback_are_no_change_of_the_objective(caplog):
    x, y = regression()
    model = compiled(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]))
    move = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.layers[0].moving_mean.assign(np.full(4, 3.0))
    )
    model.fit(x, y, epochs=4, callbacks=[move], verbose=0)
    assert "was changed" not in caplog.text


def test_no_repeated_row_and_no_stale_loss(float64):
    """The last row is the loss of the weights that the fit leaves, under the weight that holds then."""
    model = compiled(Weighted("add_weight"))
    callback = assigning(model, 4, 50.0)
    history = model.fit(X, Y, epochs=80, callbacks=[callback], verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], model.evaluate(X, Y, batch_size=60, verbose=0), rtol=1e-12)
    assert len(set(history["loss"])) == len(history["loss"])


def test_linear_model_is_not_disturbed(float64, caplog):
    compiled(linear(), kormos_opt.LBFGS(tol=1e-12)).fit(X, Y, epochs=50, verbose=0)
    assert caplog.records == [record for record in caplog.records if record.levelno < logging.WARNING]


@pytest.mark.slow_cases("{'batch_size': 7}")
@pytest.mark.parametrize("optimizer", [{"cache": False}, {"batch_size": 7}], ids=str)
def test_under_a_strategy(optimizer, float64, caplog):
    """With an overridden compute_loss too, of which Keras never builds its own loss."""
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(Weighted("add_weight"), kormos_opt.LBFGS(tol=1e-14, **optimizer))
    history = model.fit(X, Y, epochs=60, callbacks=[assigning(model, 2, 9.0)], verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], optimum(9.0), rtol=1e-8)
    assert "factor" in caplog.text


def test_a_variable_that_the_train_step_itself_moves_is_no_change(caplog):
    """A counter of calls, as custom steps have it."""

    class Counts(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls = tf.Variable(0, trainable=False)

        def train_step(self, data):
            self.calls.assign_add(1)
            return super().train_step(data)

    inputs = keras.Input((4,))
    model = compiled(Counts(inputs, keras.layers.Dense(1)(inputs)))
    model.fit(*regression(), epochs=6, verbose=0)
    assert int(model.calls.numpy()) == 0  # put back: f is a function of the weights
    assert caplog.messages == []
