"""What callbacks do to a fit, and what they hear of it."""

import copy
import csv
import gc
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.integration import fit_callbacks
from kormos_opt.integration.install import install
from tests.support.helpers import assert_weights
from tests.support.light_solver import light
from tests.support.problems import compiled, linear, network, regression

X, Y = regression()


class Calls(keras.callbacks.Callback):
    """Calls a function at the end of epoch 1."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.weights = self.model.get_weights()
            self.function(self.model)


NESTED = {
    "fit": lambda model: model.fit(X, Y, verbose=0),
    "train_on_batch": lambda model: model.train_on_batch(X, Y),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("eager", [False, True])
def test_training_the_model_in_a_callback_of_its_own_fit_is_refused_at_once(name, eager):
    model, callback = compiled(network(), run_eagerly=eager), Calls(NESTED[name])
    with pytest.raises(RuntimeError, match=r"in the middle of a fit.*a call of fit or train_on_batch"):
        model.fit(X, Y, epochs=4, callbacks=[callback], verbose=0)
    assert_weights(model, callback.weights)
    assert len(model.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def test_a_refused_call_that_the_callback_catches_leaves_the_fit_alone():
    def refused(model):
        for call in NESTED.values():
            with pytest.raises(RuntimeError):
                call(model)

    alone, model = compiled(network()), compiled(network())
    model.set_weights(alone.get_weights())
    expected = alone.fit(X, Y, epochs=6, verbose=0).history
    assert model.fit(X, Y, epochs=6, callbacks=[Calls(refused)], verbose=0).history == expected


def test_another_model_may_be_trained_in_a_callback():
    other = compiled(network())
    model = compiled(network(), other.optimizer)
    history = model.fit(X, Y, epochs=4, callbacks=[Calls(lambda _: other.fit(X, Y, epochs=3, verbose=0))], verbose=0)
    assert len(history.history["loss"]) == 4
    assert np.all(np.diff(history.history["loss"]) < 0)


def test_make_train_function_with_force_in_a_callback(caplog):
    """Keras's way to freeze a layer in the middle of a fit."""

    def freeze(model):
        model.layers[0].trainable = False
        model.make_train_function(force=True)

    model, callback = compiled(network()), Calls(freeze)
    history = model.fit(X, Y, epochs=6, callbacks=[callback], verbose=0).history
    assert len(history["loss"]) == 6
    assert history["loss"][-1] < history["loss"][1]
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], callback.weights[0])
    assert model.optimizer.result.x.size == 6
    assert "The train function was made anew" in caplog.text


def test_make_train_function_with_force_between_two_batches_of_a_stream():
    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)

    class Force(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.make_train_function(force=True)

    history = model.fit(data, epochs=3, callbacks=[Force()], verbose=0).history
    assert len(history["loss"]) == 3
    assert history["loss"][-1] < history["loss"][0]


def test_compile_in_a_callback_is_an_error_and_no_hang():
    def again(model):
        model.compile(kormos_opt.LBFGS(), "mse")
        model.make_train_function()

    with pytest.raises(RuntimeError, match="a call of compile in the middle"):
        compiled(network()).fit(X, Y, epochs=4, callbacks=[Calls(again)], verbose=0)


def test_evaluate_and_predict_in_a_callback_change_nothing():
    def look(model):
        model.evaluate(X, Y, verbose=0)
        model.predict(X, verbose=0)

    alone, model = compiled(network()), compiled(network())
    model.set_weights(alone.get_weights())
    expected = alone.fit(X, Y, epochs=5, verbose=0).history
    assert model.fit(X, Y, epochs=5, callbacks=[Calls(look)], verbose=0).history == expected


@pytest.mark.parametrize("metrics", [None, ["mae"], ["mae", "mape"]])
def test_train_on_batch_returns_what_keras_returns(metrics):
    model = compiled(linear(), metrics=metrics)
    weights = model.get_weights()
    ours = model.train_on_batch(X, Y)
    as_dict = model.train_on_batch(X, Y, return_dict=True)
    model.compile("sgd", "mse", metrics=metrics)
    model.set_weights(weights)
    keras_own = model.train_on_batch(X, Y)
    assert np.shape(ours) == np.shape(keras_own)
    assert as_dict.keys() == model.train_on_batch(X, Y, return_dict=True).keys()
    assert np.ravel(ours)[0] < np.ravel(keras_own)[0]


def ends_without_an_iterate():
    """A model whose solver ends in an epoch that has no new iterate: the gradient is a wrong one."""

    @tf.custom_gradient
    def misleading(value):
        return value, lambda upstream: -upstream

    def loss(y, y_pred):
        error = (y - y_pred) ** 2
        return tf.where(tf.reduce_mean(error) < 0.5, misleading(error), error)

    return compiled(linear(), kormos_opt.LBFGS(precision="float64"), loss=loss)


def test_all_callbacks_see_the_rows_of_the_history(tmp_path):
    model = ends_without_an_iterate()
    heard, checkpoints = [], []

    class Saver(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            checkpoints.append(epoch)

    callbacks = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: heard.append(logs["loss"])),
        Saver(),
    ]
    begun = []
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch)))
    history = model.fit(X, Y, epochs=50, callbacks=callbacks, verbose=0)
    assert not model.optimizer.result.success
    assert len(begun) == len(history.epoch) + 1
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == heard == history.history["loss"]
    assert checkpoints == history.epoch


def test_a_list_of_callbacks_of_the_user_is_as_it_was():
    model = compiled(linear())
    callbacks = keras.callbacks.CallbackList(add_history=True, model=model, epochs=2, steps=1, verbose=0)
    history = model.fit(X, Y, epochs=2, callbacks=callbacks, verbose=0)
    assert len(history.history["loss"]) == 2
    assert "on_epoch_end" not in vars(callbacks)


def test_callbacks_that_write_files_are_as_they_were(tmp_path):
    """On the workers that write none."""
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=True)
    listed = keras.callbacks.CallbackList([checkpoint, backup, keras.callbacks.CSVLogger(tmp_path / "log.csv")])
    before = [copy.copy(vars(callback)) for callback in listed.callbacks]
    with fit_callbacks.without_files(listed):
        assert len(listed.callbacks) == 2
        assert checkpoint._save_model(0, 0, {}) is None
        assert backup.delete_checkpoint is False
    assert [vars(callback) for callback in listed.callbacks] == before


@pytest.mark.parametrize("name", ["loss", "grad", "fg_evals", "hessp_evals", "stage"])
def test_a_metric_named_like_a_column_is_refused(name):
    model = compiled(linear(), metrics=[keras.metrics.MeanAbsoluteError(name=name)])
    with pytest.raises(ValueError, match=f"Received: a metric named {name}"):
        model.fit(X, Y, verbose=0)


@pytest.mark.slow_cases("light")
@pytest.mark.parametrize("make", [kormos_opt.LBFGS, light])
def test_one_optimizer_in_two_models_fitted_in_turns(make):
    """Each has its own run and memory, in the graph as with scipy."""
    optimizer, alone = make(), []
    models = [compiled(network(), optimizer) for _ in range(2)]
    for model in models:
        single = compiled(network(), make())
        single.set_weights(model.get_weights())
        alone.append(single.fit(X, Y, epochs=6, verbose=0).history["loss"])
    losses = [[], []]
    for start in (0, 2, 4):
        for model, rows in zip(models, losses, strict=True):
            rows += model.fit(X, Y, initial_epoch=start, epochs=start + 2, verbose=0).history["loss"]
    assert losses == alone


def test_fresh_starts_are_logged_as_warnings(tmp_path, caplog):
    model = compiled(network(), kormos_opt.BFGS())
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with caplog.at_level(logging.WARNING, "kormos_opt"):
        loaded.fit(X, Y, epochs=1, verbose=0)
        assert len(caplog.records) == 1 and "files carry it of L-BFGS, SSBroyden and SSBFGS alone" in caplog.text
        loaded.fit(X, Y, epochs=1, verbose=0)
        assert len(caplog.records) == 1


def test_a_second_model_with_the_optimizer_is_no_fresh_start(caplog):
    optimizer = kormos_opt.LBFGS()
    for _ in range(2):
        compiled(network(), optimizer).fit(X, Y, epochs=1, verbose=0)
        gc.collect()
    assert caplog.messages == []


def test_loading_and_forcing_go_through_the_package_again():
    """The methods are replaced once, however often it is imported."""
    methods = keras.Model.fit, keras.Model.make_train_function, keras.Model.__reduce__
    install()
    assert (keras.Model.fit, keras.Model.make_train_function, keras.Model.__reduce__) == methods
