"""What a fit tells its user: before it starts, while it runs, and when its epochs run out."""

import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.training import model_warnings
from kormos_opt.training.progress_heartbeat import ProgressHeartbeat
from tests.support.problems import compiled, linear, network, rebound, regression

layers = keras.layers
X, Y = regression()


def with_layer(layer):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "tanh"), layer, layers.Dense(1)])


@pytest.mark.parametrize(
    "make", [lambda: layers.Dropout(0.2, name="noise"), lambda: layers.GaussianNoise(0.1, name="noise")]
)
def test_dropout_is_mentioned_once(make, caplog):
    model = compiled(with_layer(make()))
    for _ in range(2):
        model.fit(X, Y, epochs=2, verbose=0)
    assert len(caplog.messages) == 1
    assert "noise: its mask stands still" in caplog.messages[0] and "does not regularize" in caplog.messages[0]
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize("layer", [lambda: layers.Dropout(0.0), lambda: layers.Dense(2)])
def test_no_dropout_no_word(layer):
    assert model_warnings.on_dropout(with_layer(layer())) is None


def test_dropout_inside_recurrent_layers():
    model = keras.Sequential([keras.Input((3, 2)), layers.LSTM(3, dropout=0.1), layers.Dense(1)])
    assert "lstm_cell" in model_warnings.on_dropout(model)
    assert model_warnings.on_dropout(keras.Sequential([keras.Input((3, 2)), layers.LSTM(3), layers.Dense(1)])) is None


@pytest.mark.parametrize(("frozen", "is_said"), [(20, True), (2, False)])
def test_frozen_layers_at_the_beginning(frozen, is_said, caplog):
    first = layers.Dense(frozen, name="features", trainable=False)
    model = keras.Sequential([keras.Input((4,)), first, layers.Dense(3), layers.Dense(1)])
    for _ in range(2):
        compiled(model).fit(X, Y, epochs=1, verbose=0)
    said = [message for message in caplog.messages if "frozen layers" in message]
    assert len(said) == 2 * is_said
    assert all("(features), which every evaluation runs again. Compute their outputs once" in each for each in said)


def test_averages_that_so_few_epochs_leave_behind(caplog):
    """0.99**20 = 82 %; a momentum that leaves 1 % after 20 iterations is 0.01**(1 / 20) = 0.794."""
    compiled(with_layer(layers.BatchNormalization(name="norm"))).fit(X, Y, epochs=20, verbose=0)
    (message,) = [each for each in caplog.messages if "BatchNormalization" in each]
    assert "norm" in message and "82%" in message and "momentum=0.79" in message


def test_a_momentum_that_fits_needs_no_word(caplog):
    compiled(with_layer(layers.BatchNormalization(momentum=0.79))).fit(X, Y, epochs=20, verbose=0)
    assert caplog.messages == []


def test_rows_that_steps_per_epoch_leaves_out(caplog):
    model = compiled(linear())
    model.fit(X, Y, batch_size=16, steps_per_epoch=2, epochs=1, verbose=0)
    assert "takes the first 32 of 60 rows" in caplog.text and "28 rows are left out" in caplog.text
    expected = np.mean((model.predict(X[:32], verbose=0) - Y[:32]) ** 2)
    np.testing.assert_allclose(model.optimizer.result.fun, expected, rtol=1e-5)
    caplog.clear()
    compiled(linear()).fit(X, Y, batch_size=30, steps_per_epoch=2, epochs=1, verbose=0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("optimizer", "what"), [("l-bfgs-b", "the gradient's norm is"), ("nelder-mead", "the loss is")]
)
def test_epochs_that_run_out(optimizer, what, capsys):
    model = compiled(network(), optimizer)
    model.fit(X, Y, epochs=5, verbose=2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"Not converged after 5 iterations: {what} [0-9.e+-]+; fit goes on from here\.", last)
    assert model.optimizer.result.message == last
    model.fit(X, Y, epochs=5, verbose=0)
    assert capsys.readouterr().out == ""
    assert model.optimizer.result.message.startswith("Not converged after 10 iterations")


@pytest.mark.parametrize("precision", ["model", "float64"])
def test_newton_cg_without_curvature_is_no_success(precision):
    """The second derivatives of mae are zero: scipy ends at once and calls it a success."""
    model = compiled(linear(), kormos_opt.NewtonCG(precision=precision), loss="mae")
    model.fit(X, Y, epochs=20, verbose=0)
    result = model.optimizer.result
    assert not result.success
    assert result.message.startswith("Stopped: within the tolerances") and "of the loss can be gained" in result.message
    assert 0 < result.remaining_gain < result.fun


def test_end_by_a_large_tolerance_of_the_step_is_no_convergence():
    model = compiled(network(), kormos_opt.NewtonCG(tol=1e3))
    model.fit(X, Y, epochs=20, verbose=0)
    assert not model.optimizer.result.success
    assert "of the loss can be gained" in model.optimizer.result.message


@pytest.mark.slow_cases("*-cg", "bfgs", "slsqp", "tnc", "trust-*")
@pytest.mark.parametrize("name", ["newton-cg", "bfgs", "tnc", "trust-constr", "l-bfgs-b", "slsqp", "trust-krylov"])
def test_jac_of_the_result_is_the_gradient_at_its_x(name):
    model = compiled(network(), kormos_opt.ScipyBatchOptimizer(method=name, precision="float64"))
    model.fit(X, Y, epochs=400, verbose=0)
    result = model.optimizer.result
    there = rebound(model, X, Y).evaluate(result.x)
    np.testing.assert_allclose(result.jac, there.jac, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.fun, there.fun, rtol=1e-12)


def test_weights_that_are_nan_are_named():
    model = compiled(network())
    kernel = model.layers[0].kernel.numpy()
    kernel[0, :2] = np.nan
    model.layers[0].kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"NaN or inf in .*/kernel \(2 of 20 entries\)"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("cache", ["auto", False])
@pytest.mark.parametrize("where", ["x", "y", "sample_weight"])
def test_arrays_that_hold_nan_are_named(where, cache):
    data = {"x": X.copy(), "y": Y.copy(), "sample_weight": np.ones(60, "float32")}
    data[where].flat[5] = np.nan
    with pytest.raises(ValueError, match=rf"loss=nan, and NaN or inf in {where} \(1 of "):
        compiled(linear(), kormos_opt.LBFGS(cache=cache)).fit(**data, verbose=0)


def test_inputs_by_name_that_hold_nan_are_named():
    inputs = {name: keras.Input((2,), name=name) for name in "ab"}
    model = compiled(keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(list(inputs.values())))))
    data = {"a": X[:, :2], "b": X[:, 2:].copy()}
    data["b"][7, 1] = np.inf
    with pytest.raises(ValueError, match=r"NaN or inf in x\['b'\] \(1 of 120 entries\)"):
        model.fit(data, Y, verbose=0)


def test_a_loss_that_is_nan_of_finite_data():
    model = compiled(linear(), loss=lambda y, y_pred: keras.ops.log(-1.0 - y_pred**2))
    with pytest.raises(ValueError, match="loss=nan, from finite weights and data"):
        model.fit(X, Y, verbose=0)


def test_sign_of_life_shows_rows_and_is_gone(monkeypatch):
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._AFTER", 0.05)
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._EVERY", 0.02)
    rows, shown = [100], []
    with ProgressHeartbeat(shown.append, lambda: rows[0]) as watch:
        with watch.epoch():
            rows[0] = 130
            time.sleep(0.3)
        count = len(shown)
        time.sleep(0.1)
        assert len(shown) == count > 0
    assert set(shown) == {30}


@pytest.mark.slow_cases("mirrored")
@pytest.mark.parametrize("strategy", [None, "mirrored"])
def test_rows_so_far_in_the_progress_bar(strategy, monkeypatch, capsys):
    """A loss that sleeps: the rows of the chunks before are shown, and History has its four columns."""
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._AFTER", 0.2)
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._EVERY", 0.05)

    def slow(y, y_pred):
        def sleep(value):
            time.sleep(0.1)
            return value

        error = keras.ops.mean((y - y_pred) ** 2, axis=-1)
        return error + 0 * tf.stop_gradient(
            tf.ensure_shape(tf.numpy_function(sleep, [error], error.dtype), error.shape)
        )

    replicas = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if strategy else tf.distribute.get_strategy()
    with replicas.scope():
        model = compiled(linear(), kormos_opt.LBFGS(batch_size=8), loss=slow)
    history = model.fit(X, Y, epochs=2, verbose=1).history
    assert history.keys() == {"loss", "grad", "fg_evals", "hessp_evals"}
    shown = [int(float(each)) for each in re.findall(r"rows: ([0-9.]+)", capsys.readouterr().out)]
    assert shown and max(shown) >= 8


def test_streams_show_rows_too(capsys, monkeypatch):
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._AFTER", 0.0)
    monkeypatch.setattr("kormos_opt.training.progress_heartbeat._EVERY", 0.001)

    class Slow(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            time.sleep(0.02)
            return X[10 * index : 10 * index + 10], Y[10 * index : 10 * index + 10]

    compiled(linear(), kormos_opt.LBFGS(cache=False)).fit(Slow(), epochs=3, verbose=1)
    assert "rows: " in capsys.readouterr().out
