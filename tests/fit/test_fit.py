"""The bridge: what `Model.fit` does when the model is compiled with one of our optimizers."""

import keras
import numpy as np
import pytest

import kormos_opt
from tests.support.problems import compiled, linear, network, regression

# kormos's own table for this model and data: loss, grad, fg_evals, val_loss.
KORMOS_TABLE = np.array(
    [
        [79.121972, 17.946233, 2, 78.418121],
        [0.192005, 0.713242, 3, 0.232164],
        [0.056429, 0.186013, 4, 0.059140],
        [0.047397, 0.042760, 5, 0.047348],
        [0.047006, 0.008019, 6, 0.047006],
        [0.046991, 0.001854, 7, 0.046994],
        [0.046990, 0.000350, 8, 0.046992],
        [0.046990, 0.000073, 9, 0.046992],
    ]
)


@pytest.fixture(scope="module")
def kormos_fit():
    rank = 50
    random = np.random.RandomState(1)
    w = random.normal(size=rank)
    x = random.normal(size=(1000, rank))
    x_val = random.normal(size=(1000, rank))
    model = keras.Sequential(
        [
            keras.layers.Dense(
                1, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-3), kernel_initializer="ones"
            )
        ]
    )
    model.compile(optimizer="l-bfgs-b", loss="mse", metrics=["mean_absolute_error"])
    history = model.fit(
        x, (x @ w)[:, None], epochs=10, validation_data=(x_val, (x_val @ w)[:, None]), verbose=0
    ).history
    return model, history, w


def test_table_of_kormos(kormos_fit):
    _, history, _ = kormos_fit
    table = np.array([history[name] for name in ("loss", "grad", "fg_evals", "val_loss")]).T
    assert table.shape == KORMOS_TABLE.shape
    for column in (0, 3):
        expected = KORMOS_TABLE[:, column]
        assert np.all(np.abs(table[:, column] - expected) <= 1e-5 * np.maximum(expected, 1))
    np.testing.assert_array_equal(table[:, 2], KORMOS_TABLE[:, 2])
    np.testing.assert_allclose(table[:-2, 1], KORMOS_TABLE[:-2, 1], rtol=1e-3, atol=5e-7)
    np.testing.assert_allclose(table[-2:, 1], KORMOS_TABLE[-2:, 1], rtol=0.05)


def test_weights_of_kormos_example(kormos_fit):
    model, _, w = kormos_fit
    np.testing.assert_allclose(model.get_weights()[0].ravel(), w, atol=1e-2)


def test_history_has_kormos_columns(kormos_fit):
    _, history, _ = kormos_fit
    assert history.keys() == {
        "loss", "grad", "fg_evals", "hessp_evals", "mean_absolute_error", "val_loss", "val_mean_absolute_error"
    }  # fmt: skip


def test_ends_as_converged_at_the_resolution_of_float32(kormos_fit):
    model, history, _ = kormos_fit
    result = model.optimizer.result
    assert result.success
    assert "float32" in result.message
    assert result.nit == len(history["loss"])
    assert result.nfev == history["fg_evals"][-1]


def test_metrics_are_those_of_the_accepted_iterate():
    x, y = regression()
    model = compiled(network(), metrics=["mae"])
    history = model.fit(x, y, epochs=4, verbose=0).history
    loss, mae = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose([history["loss"][-1], history["mae"][-1]], [loss, mae], rtol=1e-5)


@pytest.mark.parametrize("name", ["l-bfgs-b", "L-BFGS-B", "lbfgs", "LBFGS"])
def test_names(name):
    assert isinstance(compiled(linear(), name).optimizer, kormos_opt.LBFGS)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


@pytest.mark.parametrize(
    "make",
    [linear, functional, Subclassed, lambda: keras.Sequential([keras.layers.Dense(1)])],
    ids=["sequential", "functional", "subclassed", "unbuilt"],
)
def test_every_kind_of_model(make):
    x, y = regression()
    model = compiled(make())
    history = model.fit(x, y, epochs=30, verbose=0).history
    exact = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0].ravel()
    np.testing.assert_allclose(np.r_[tuple(np.ravel(w) for w in model.get_weights())], exact, atol=1e-3)
    assert len(history["loss"]) < 30


def test_recompiling_to_and_fro_keeps_the_weights():
    x, y = regression()
    model = network()
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0)
    for optimizer in ("lbfgs", "adam", "lbfgs"):
        before = model.get_weights()
        loss = model.evaluate(x, y, verbose=0)
        model.compile(optimizer, "mse")
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        history = model.fit(x, y, epochs=3, verbose=0).history
        assert history["loss"][-1] < loss


def test_other_optimizers_are_left_alone():
    x, y = regression()
    model = compiled(linear(), "sgd")
    history = model.fit(x, y, epochs=2, verbose=0)
    assert history.history.keys() == {"loss"}
    assert history.params["steps"] == 2


def test_iterations_per_epoch():
    x, y = regression()
    one, three = (compiled(network(), kormos_opt.LBFGS(iterations_per_epoch=n)) for n in (1, 3))
    three.set_weights(one.get_weights())
    ones = one.fit(x, y, epochs=6, verbose=0).history
    threes = three.fit(x, y, epochs=2, verbose=0).history
    assert threes["loss"] == ones["loss"][2::3]
    assert threes["fg_evals"] == ones["fg_evals"][2::3]
    assert int(three.optimizer.iterations) == int(one.optimizer.iterations) == 6


def test_callbacks_see_every_epoch_and_early_stopping_stops():
    x, y = regression()
    calls = []
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: calls.append(("begin", epoch)),
        on_epoch_end=lambda epoch, logs: calls.append(("end", epoch)),
        on_train_end=lambda logs: calls.append(("over", sorted(logs))),
    )
    stopping = keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1, restore_best_weights=True)
    history = compiled(network()).fit(x, y, epochs=9, callbacks=[recorder, stopping], verbose=0)
    assert history.epoch == [0, 1]
    assert calls == [
        ("begin", 0), ("end", 0), ("begin", 1), ("end", 1), ("over", ["fg_evals", "grad", "hessp_evals", "loss"])
    ]  # fmt: skip


def test_validation_split_and_frequency():
    x, y = regression(rows=100)
    model = compiled(network(), metrics=["mae"])
    history = model.fit(x, y, epochs=4, validation_split=0.3, validation_freq=2, verbose=0).history
    assert len(history["loss"]) == 4
    assert len(history["val_loss"]) == len(history["val_mae"]) == 2
    np.testing.assert_allclose(model.evaluate(x[70:], y[70:], verbose=0)[0], history["val_loss"][-1], rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(x[:70], y[:70], verbose=0)[0], history["loss"][-1], rtol=1e-5)


def test_message_is_printed_once_when_the_solver_ends(capsys):
    x, y = regression()
    model = compiled(linear())
    model.fit(x, y, epochs=50, verbose=2)
    assert capsys.readouterr().out.count("Converged") == 1
    model.fit(x, y, epochs=1, verbose=0)
    assert capsys.readouterr().out == ""


def test_suspended_fit_has_a_result():
    x, y = regression()
    model = compiled(network())
    model.fit(x, y, epochs=2, verbose=0)
    result = model.optimizer.result
    assert not result.success
    assert result.nit == 2
    assert "goes on from here" in result.message
    np.testing.assert_allclose(result.fun, model.evaluate(x, y, verbose=0), rtol=1e-5)


def test_fit_from_an_optimum_ends_in_the_first_epoch():
    x = np.eye(3, dtype="float32")
    model = compiled(linear(3, kernel_initializer="zeros"))
    history = model.fit(x, np.zeros((3, 1)), epochs=5, verbose=0).history
    assert history["loss"] == [0.0]
    assert model.optimizer.result.success


def stepped(y, y_pred):
    """Rounded to steps of 0.1: a line search soon has nothing to see."""
    error = keras.ops.mean((y - y_pred) ** 2)
    return error + keras.ops.stop_gradient(keras.ops.round(error, 1) - error)


def test_failed_line_search_adds_no_row(capsys):
    x, y = regression()
    model = compiled(linear(), kormos_opt.LBFGS(tol=0.0), loss=stepped)
    history = model.fit(x, y, epochs=50, validation_data=(x, y), verbose=2)
    result = model.optimizer.result
    assert not result.success
    assert "line search" in result.message
    assert len(history.epoch) == len(history.history["loss"]) == len(history.history["val_loss"]) == result.nit
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), history.history["loss"][-1], rtol=1e-5)
    assert "line search" in capsys.readouterr().out


def test_train_on_batch_is_one_iteration():
    x, y = regression()
    batchwise, whole = compiled(network()), compiled(network())
    whole.set_weights(batchwise.get_weights())
    losses = [batchwise.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(3)]
    np.testing.assert_array_equal(losses, whole.fit(x, y, epochs=3, verbose=0).history["loss"])


def test_tensorboard_and_checkpoints_run(tmp_path):
    x, y = regression()
    model = compiled(network())
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    model.fit(x, y, epochs=3, validation_data=(x, y), callbacks=callbacks, verbose=0)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    loaded = keras.models.load_model(tmp_path / "3.keras")
    for saved, now in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, now)
    assert int(loaded.optimizer.iterations) == 3
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == ["1.keras", "2.keras", "3.keras"]
    events = [path for path in (tmp_path / "logs").rglob("events.out.tfevents.*") if path.stat().st_size > 500]
    assert {path.parent.name for path in events} == {"train", "validation"}
    assert not (tmp_path / "backup").exists()  # Keras deletes it at the end of a fit


def test_a_resumed_fit_that_ends_without_an_iterate_has_its_last_row():
    """Else its History were empty, and callbacks would have nothing to look at."""
    x, y = regression()

    def fit(model, **epochs):
        return model.fit(x, y, verbose=0, **epochs).history.get("loss", [])

    def make():
        keras.utils.set_random_seed(0)
        return compiled(linear(), kormos_opt.LBFGS(tol=0.0), loss=stepped)

    whole = fit(make(), epochs=50)
    model = make()
    pieces = fit(model, epochs=len(whole)) + fit(model, epochs=50, initial_epoch=len(whole))
    assert pieces == [*whole, whole[-1]]
    assert not model.optimizer.result.success
