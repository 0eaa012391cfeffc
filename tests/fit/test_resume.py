"""Suspend and resume: a fit that stops and goes on is the fit that never stopped."""

import logging

import keras
import numpy as np
import pytest

import kormos_opt
from tests.support.helpers import whole_and_pieces, with_dropout_and_batchnorm
from tests.support.problems import compiled, network, regression


@pytest.mark.slow_cases("pieces1-*")
@pytest.mark.parametrize("make", [network, with_dropout_and_batchnorm])
@pytest.mark.parametrize("pieces", [(5, 10), (1, 2, 3, 10)])
def test_stop_and_resume_is_never_stopped(make, pieces):
    whole, cut, history, rows, model, copy = whole_and_pieces(make, pieces)
    np.testing.assert_array_equal(whole, cut)
    assert history == rows
    for one, other in zip(model.non_trainable_variables, copy.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations) == int(copy.optimizer.iterations)


def test_resume_inside_several_iterations_per_epoch():
    whole, cut, history, rows, *_ = whole_and_pieces(
        network, (1, 3), lambda: kormos_opt.LBFGS(iterations_per_epoch=4), batch_size=11
    )
    np.testing.assert_array_equal(whole, cut)
    assert history == rows


def test_changed_weights_mean_a_fresh_start(caplog):
    x, y = regression()
    model, fresh = compiled(network()), compiled(network())
    model.fit(x, y, epochs=3, verbose=0)
    start = [weight + 0.1 for weight in model.get_weights()]
    model.set_weights(start)
    fresh.set_weights(start)
    with caplog.at_level(logging.INFO, "kormos_opt"):
        history = model.fit(x, y, epochs=3, verbose=0).history
    assert history == fresh.fit(x, y, epochs=3, verbose=0).history
    assert [record.message for record in caplog.records] == [
        "The weights were changed since the last iteration: the solver starts afresh from them."
    ]


def test_weights_changed_by_a_callback_mean_a_fresh_start():
    x, y = regression()
    model = compiled(network())
    start = model.get_weights()

    def reset(epoch, logs):
        if epoch == 2:
            model.set_weights(start)

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=reset)
    history = model.fit(x, y, epochs=4, callbacks=[callback], verbose=0).history
    assert history["loss"][2:] == history["loss"][:2]
    assert history["fg_evals"][2:] == history["fg_evals"][:2]


@pytest.mark.parametrize("change", ["data", "rows", "sample_weight", "frozen"])
def test_changed_objective_means_a_fresh_start(change):
    x, y = regression()
    model = compiled(network())
    model.fit(x, y, epochs=3, verbose=0)
    weights = model.get_weights()
    arguments = {"x": x, "y": y}
    if change == "data":
        arguments["y"] = y + np.eye(*y.shape, dtype="float32")
    elif change == "rows":
        arguments = {"x": x[1:], "y": y[1:]}
    elif change == "sample_weight":
        arguments["sample_weight"] = np.linspace(0, 1, len(x))
    else:
        model.layers[0].trainable = False
    history = model.fit(**arguments, epochs=3, verbose=0).history
    fresh = network()
    fresh.layers[0].trainable = change != "frozen"
    fresh.set_weights(weights)
    assert history == compiled(fresh).fit(**arguments, epochs=3, verbose=0).history
    if change == "frozen":
        np.testing.assert_array_equal(model.get_weights()[0], weights[0])


def test_fit_after_convergence_starts_afresh():
    x, y = regression()
    model = compiled(network(), kormos_opt.LBFGS(tol=1e-3))
    model.fit(x, y, epochs=500, verbose=0)
    assert model.optimizer.result.success
    history = model.fit(x, y, epochs=500, verbose=0).history
    assert history["fg_evals"][0] <= 3
    assert model.optimizer.result.success


def test_backup_and_restore_restarts_from_the_restored_iterate(tmp_path):
    x, y = regression()

    def interrupt(epoch, logs):
        if epoch == 3:
            raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)

    model, whole = compiled(network()), compiled(network())
    whole.set_weights(model.get_weights())
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=6, callbacks=[backup(), stop], verbose=0)
    again = compiled(network())
    history = again.fit(x, y, epochs=6, callbacks=[backup()], verbose=0)
    assert history.epoch == [3, 4, 5]
    columns = whole.fit(x, y, epochs=6, verbose=0).history
    assert history.history == {name: column[3:] for name, column in columns.items()}
    assert int(again.optimizer.iterations) == 6
