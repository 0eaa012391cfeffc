"""Chains: the result of one stage starts the next."""

import keras
import numpy as np
import pytest

from kormos_opt.optimizers import ScipyBatchOptimizer
from tests.support.helpers import whole_and_pieces
from tests.support.problems import compiled, linear, network, regression


def test_rows_tell_the_stages_apart():
    x, y = regression()
    optimizer = ScipyBatchOptimizer(method=["cg", "nelder-mead", "newton-cg"], epochs=[2, 3, 4])
    model = compiled(network(), optimizer)
    history = model.fit(x, y, epochs=9, verbose=0).history
    assert history["stage"] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert all(np.diff(history["loss"]) <= 0)
    assert all(np.diff(history["fg_evals"]) >= 0)
    assert history["hessp_evals"][4] == 0 < history["hessp_evals"][5]


def test_a_chain_is_its_parts():
    x, y = regression()
    chained, by_hand = network(), network()
    by_hand.set_weights(chained.get_weights())
    methods = "cg", "bfgs", "ss-broyden"
    compiled(chained, ScipyBatchOptimizer(method=methods, epochs=[3, 4, 3])).fit(x, y, epochs=10, verbose=0)
    for method, epochs in zip(methods, (3, 4, 3), strict=True):
        compiled(by_hand, method).fit(x, y, epochs=epochs, verbose=0)
    for one, other in zip(chained.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stage_that_converges_hands_over_at_once(capsys):
    x, y = regression()
    optimizer = ScipyBatchOptimizer(method=["newton-cg", "cg"], epochs=[50, 2], tol=[1e-2, 1e-12])
    model = compiled(linear(), optimizer)
    history = model.fit(x, y, epochs=50, verbose=2).history
    first = history["stage"].count(0)
    assert 0 < first < 20
    assert history["stage"] == [0] * first + [1] * (len(history["loss"]) - first)
    assert 1 <= history["stage"].count(1) <= 2
    printed = capsys.readouterr().out
    assert "Stage 0 (Newton-CG): Converged" in printed
    assert "Stage 1 (CG): " in printed


def test_the_last_stage_ends_the_fit_after_its_epochs():
    x, y = regression()
    model = compiled(network(), ScipyBatchOptimizer(epochs=3))
    history = model.fit(x, y, epochs=50, verbose=0).history
    assert len(history["loss"]) == 3
    assert "stage" not in history
    assert "epochs of this stage are over" in model.optimizer.result.message


def test_stop_and_resume_is_never_stopped():
    def optimizer():
        return ScipyBatchOptimizer(method=["cg", "bfgs"], epochs=[4, 5])

    whole, cut, history, rows, *_ = whole_and_pieces(network, (3, 4, 6, 9), optimizer)
    np.testing.assert_array_equal(whole, cut)
    assert history == rows


def test_pretrain_fn_freezes_and_unfreezes():
    x, y = regression()
    model = network()
    first, last = model.layers
    start = [layer.kernel.numpy() for layer in (first, last)]
    after = []

    def only_last(model):
        first.trainable = False

    def only_first(model):
        after.append([layer.kernel.numpy() for layer in (first, last)])
        first.trainable, last.trainable = True, False

    optimizer = ScipyBatchOptimizer(method=["l-bfgs-b", "bfgs"], epochs=[3, 3], pretrain_fn=[only_last, only_first])
    compiled(model, optimizer).fit(x, y, epochs=6, verbose=0)
    ((first_between, last_between),) = after
    np.testing.assert_array_equal(first_between, start[0])
    assert np.abs(last_between - start[1]).max() > 1e-3
    np.testing.assert_array_equal(last.kernel, last_between)
    assert np.abs(first.kernel.numpy() - first_between).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": ["cg", "bfgs"], "epochs": [1, 2, 3]}, r"lists of one length.*len\(method\)=2, len\(epochs\)=3"),
        ({"method": []}, r"Received: len\(method\)=0"),
        ({"method": ["cg", "adam"]}, "Received: method='adam'"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"epochs": [3, "x"]}, "Received: epochs="),
        ({"method": ["cg", "bfgs"], "options": [{"gtol": 1e-3}, {"gtols": 1}]}, "Unknown solver options: gtols"),
    ],
)
def test_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        ScipyBatchOptimizer(**arguments)


def freeze_nothing(model):
    """A function that Keras can find again by its name."""


def test_config_round_trip():
    made = ScipyBatchOptimizer(method=["cg", "bfgs"], epochs=[4, 5], pretrain_fn=[freeze_nothing, freeze_nothing])
    with keras.saving.custom_object_scope({"freeze_nothing": freeze_nothing}):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert again.get_config() == made.get_config()
    assert again.stages == made.stages


def test_weights_changed_by_a_callback_restart_the_stage(caplog):
    x, y = regression()
    model = compiled(network(), ScipyBatchOptimizer(method=["cg", "bfgs"], epochs=[3, 4]))

    def shake(epoch, logs):
        if epoch == 4:
            model.set_weights([weight + 0.1 for weight in model.get_weights()])

    with caplog.at_level("INFO", logger="kormos_opt"):
        history = model.fit(
            x, y, epochs=7, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=shake)], verbose=0
        ).history
    assert history["stage"] == [0, 0, 0, 1, 1, 1, 1]
    assert "starts afresh" in caplog.text


def test_the_result_is_that_of_the_last_stage():
    x, y = regression()
    model = compiled(linear(), ScipyBatchOptimizer(method=["cg", "newton-cg"], epochs=[1, None]))
    model.fit(x, y, epochs=60, verbose=0)
    assert model.optimizer.result.success
    assert model.optimizer.result.nit > 1
    assert model.optimizer.result.fun == model.history.history["loss"][-1]


def test_all_stages_are_checked_before_any_work():
    optimizer = ScipyBatchOptimizer(method=["l-bfgs-b", "newton-cg"], epochs=[3, 3], bounds={"kernel": (-1, 1)})
    model = compiled(linear(), optimizer)
    before = model.get_weights()[0].copy()
    with pytest.raises(ValueError, match="Expected no bounds for Newton-CG"):
        model.fit(*regression(), epochs=6, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before)


def compiles(model):
    model.compile(model.optimizer, "mse")


def fits(model):
    model.fit(*regression(), epochs=2, verbose=0)


def freezes_and_fails(model):
    model.layers[0].trainable = False
    raise RuntimeError("the user's own")


@pytest.mark.parametrize(
    ("pretrain_fn", "error", "match"),
    [
        (compiles, ValueError, "Received: compiles, which compiled the model again"),
        (fits, RuntimeError, "Expected a pretrain_fn that does not fit the model"),
        (freezes_and_fails, RuntimeError, "the user's own"),
    ],
)
@pytest.mark.parametrize("stage", [0, 1])
def test_what_a_pretrain_fn_may_not_do(pretrain_fn, error, match, stage):
    functions = [None, None]
    functions[stage] = pretrain_fn
    optimizer = ScipyBatchOptimizer(method=["cg", "bfgs"], epochs=[2, 2], pretrain_fn=functions)
    model = compiled(network(), optimizer)
    with pytest.raises(error, match=match):
        model.fit(*regression(), epochs=4, verbose=0)
    assert np.isfinite(model.evaluate(*regression(), verbose=0))


def test_every_epoch_has_every_column():
    optimizer = ScipyBatchOptimizer(method=["nelder-mead", "l-bfgs-b"], epochs=[3, 3])
    history = compiled(linear(), optimizer).fit(*regression(), epochs=6, verbose=0).history
    assert {len(values) for values in history.values()} == {6}
    np.testing.assert_array_equal(np.isnan(history["grad"]), [True] * 3 + [False] * 3)
