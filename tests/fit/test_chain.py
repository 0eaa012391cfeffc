"""Chains of Keras's optimizers and ours: the fits that they are, handing over, stopping, files, faults."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kormos_opt
from tests.support.helpers import flat_weights, from_file
from tests.support.problems import compiled, linear, network, regression

X, Y = regression(rows=64)
CLOSED_FORM = np.linalg.lstsq(np.hstack([X, np.ones((64, 1))]), Y[:, 0], rcond=None)[0]


def adam(**settings):
    return keras.optimizers.Adam(0.01, **settings)


def three_stages(epochs=(3, 4, 2)):
    return kormos_opt.Chain([adam(), kormos_opt.LBFGS(), kormos_opt.NewtonCG(precision="float64")], epochs=list(epochs))


def seeded(make=network):
    keras.utils.set_random_seed(0)
    return make()


def with_dropout():
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "tanh"), layers.Dropout(0.2), layers.Dense(1)])


def fit(model, epochs, initial_epoch=0, x=X, y=Y, **arguments):
    return model.fit(x, y, epochs=epochs, initial_epoch=initial_epoch, verbose=0, **arguments).history


def halving():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)


@pytest.mark.slow_cases("graph")
@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_one_fit_is_the_fits_of_its_stages(engine):
    """Mini-batches in the same order, dropout, validation, a schedule: bit for bit."""
    settings = {"validation_split": 0.2, "batch_size": 16}
    model = compiled(seeded(with_dropout), kormos_opt.Chain([adam(), kormos_opt.LBFGS(engine=engine)], epochs=[3, 4]))
    history = fit(model, 7, callbacks=[halving()], **settings)

    apart = compiled(seeded(with_dropout), adam())
    first = fit(apart, 3, callbacks=[halving()], **settings)
    second = fit(compiled(apart, kormos_opt.LBFGS(engine=engine)), 4, **settings)
    for name in ("loss", "val_loss"):
        assert history[name] == first[name] + second[name]
    assert history["learning_rate"][:3] == first["learning_rate"]
    np.testing.assert_array_equal(flat_weights(model), flat_weights(apart))


def test_one_history():
    history = fit(compiled(seeded(), three_stages()), 9)
    assert {len(column) for column in history.values()} == {9}
    assert history["stage"] == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert history["fg_evals"][:3] == [1, 2, 3]
    assert all(np.diff(history["fg_evals"]) > 0)
    assert history["hessp_evals"][6] == 0 < history["hessp_evals"][8]
    assert np.isnan(history["grad"][:3]).all()
    assert np.isfinite(history["grad"][3:]).all()


@pytest.mark.parametrize(
    ("until", "epochs"),
    [
        (kormos_opt.until.below(25.0), 3),
        (kormos_opt.until.plateau(patience=2, min_delta=100.0), 3),
        (lambda logs: logs["fg_evals"] == 4, 4),
    ],
)
def test_a_condition_hands_over(until, epochs):
    chain = kormos_opt.Chain([keras.optimizers.Adam(0.3), "l-bfgs-b"], until=[until, None])
    history = fit(compiled(seeded(linear), chain), 8, shuffle=False)
    assert history["stage"].index(1) == epochs


def test_the_end_of_a_solver_hands_over():
    chain = kormos_opt.Chain(
        [kormos_opt.LBFGS(), adam(), kormos_opt.LBFGS(precision="float64")], epochs=[None, 2, None]
    )
    model = compiled(seeded(linear), chain)
    history = fit(model, 200)
    stages = np.array(history["stage"])
    assert len(stages) < 100
    assert np.count_nonzero(stages == 1) == 2
    assert history["loss"][-1] <= history["loss"][np.flatnonzero(stages == 0)[-1]] * (1 + 1e-6)  # that of float32
    np.testing.assert_allclose(flat_weights(model), CLOSED_FORM, rtol=1e-3)
    assert model.optimizer.result.success
    before = flat_weights(model)
    again = fit(model, 3)
    assert set(again["stage"]) <= {2}
    np.testing.assert_allclose(flat_weights(model), before, atol=1e-6)
    model.optimizer.reset()
    again = fit(model, 3)
    assert again["stage"][0] == 0
    assert again["fg_evals"][0] < history["fg_evals"][0] + 20  # counted anew, with what judges the end


@pytest.mark.slow_cases("pieces0", "pieces1", "pieces2", "pieces3")
@pytest.mark.parametrize("pieces", [(2, 9), (3, 9), (5, 9), (7, 9), (1, 3, 4, 8, 9)])
def test_stop_and_resume_is_never_stopped(pieces):
    whole = fit(compiled(seeded(), three_stages()), 9, shuffle=False)
    model, rows = compiled(seeded(), three_stages()), {name: [] for name in whole}
    for start, end in zip((0, *pieces), pieces, strict=False):
        more = fit(model, end, start, shuffle=False)
        for name, column in more.items():
            rows[name] += column
    np.testing.assert_equal(rows, whole)


@pytest.mark.slow_cases("*-2", "*-3", "*-7", "model.weights.h5-*")
@pytest.mark.parametrize("stop", [2, 3, 5, 7])
@pytest.mark.parametrize("kind", ["model.keras", "model.weights.h5"])
def test_a_file_carries_the_chain(kind, stop, float64, tmp_path):
    def make():
        return compiled(seeded(), three_stages((3, 4, None)))

    x, y = regression(rows=64, dtype="float64")
    data = {"x": x, "y": y, "shuffle": False}
    whole = fit(make(), 8, **data)
    model = make()
    fit(model, stop, **data)
    model = from_file(model, tmp_path / kind, make)
    np.testing.assert_equal(
        {name: column[:1] for name, column in fit(model, 8, stop, **data).items()},
        {name: column[stop : stop + 1] for name, column in whole.items()},
    )


def test_a_file_carries_the_patience(tmp_path):
    def make():
        until = [kormos_opt.until.plateau(patience=4, min_delta=100.0), None]
        return compiled(seeded(), kormos_opt.Chain([adam(), kormos_opt.LBFGS()], until=until))

    model = make()
    fit(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert fit(loaded, 7, 3)["stage"] == [0, 0, 1, 1]
    assert fit(make(), 7)["stage"] == [0, 0, 0, 0, 0, 1, 1]


class Fails(keras.callbacks.Callback):
    """Raises at the begin of an epoch, or after its rows are counted."""

    def __init__(self, epoch, error, when="begin"):
        super().__init__()
        self.epoch, self.error, self.when = epoch, error, when

    def on_epoch_begin(self, epoch, logs=None):
        if (epoch, self.when) == (self.epoch, "begin"):
            raise self.error

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, self.when) == (self.epoch, "end"):
            raise self.error


@pytest.mark.slow_cases("1", "2", "3", "7")
@pytest.mark.parametrize("epoch", [1, 2, 3, 5, 7])
def test_backup_and_restore_goes_on_in_the_stage(epoch, tmp_path):
    """A process that dies in an epoch, and another one."""
    whole = fit(compiled(seeded(), three_stages((3, 4, None))), 8, shuffle=False)
    callbacks = [keras.callbacks.BackupAndRestore(tmp_path), Fails(epoch, RuntimeError("power"))]
    with pytest.raises(RuntimeError, match="power"):
        fit(compiled(seeded(), three_stages((3, 4, None))), 8, shuffle=False, callbacks=callbacks)
    other = compiled(seeded(), three_stages((3, 4, None)))
    history = fit(other, 8, shuffle=False, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert history["stage"] == whole["stage"][-len(history["stage"]) :]
    assert history["loss"][0] == whole["loss"][-len(history["loss"])]
    assert len(history["loss"]) == 8 - epoch


@pytest.mark.slow_cases("*-begin-KeyboardInterrupt", "*-end-RuntimeError", "1-*", "2-begin-*", "3-*", "5-end-*", "6-*")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", ["begin", "end"])
@pytest.mark.parametrize("epoch", [1, 2, 3, 5, 6])
def test_a_fit_after_an_error_goes_on_in_the_stage(epoch, when, error):
    model = compiled(seeded(), three_stages())
    with pytest.raises(error):
        fit(model, 9, callbacks=[Fails(epoch, error("told to"), when)])
    weights = flat_weights(model)
    assert np.isfinite(weights).all()
    done = epoch + (when == "end")
    history = fit(model, 9, done)
    assert history["stage"] == [0, 0, 0, 1, 1, 1, 1, 2, 2][done:]


def test_mini_batches_that_lead_to_nan_cost_no_weights(caplog):
    explodes = keras.optimizers.SGD(1e3)
    model = compiled(seeded(linear), kormos_opt.Chain([explodes, "l-bfgs-b"], epochs=[40, 60]))
    before = flat_weights(model)
    history = fit(model, 100)
    assert np.isnan(history["loss"][39])
    assert history["loss"][-1] < 0.02
    assert not np.array_equal(flat_weights(model), before)
    assert caplog.text.count("Mini-batches have led to a loss or weights that are not finite") == 1


def unbuilt():
    return keras.Sequential([layers.Dense(6, "tanh"), layers.Dense(1)])


@pytest.mark.slow_cases("linear")
@pytest.mark.parametrize("make", [linear, unbuilt])
def test_files_and_later_fits_have_no_nan(make, tmp_path):
    """Of the end of a stage whose mini-batches have run into NaN, after Ctrl-C there too; momentum starts anew."""
    explodes = keras.optimizers.SGD(100.0, momentum=0.9)
    model = compiled(seeded(make), kormos_opt.Chain([explodes, "l-bfgs-b"], epochs=[30, None]))
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    with pytest.raises(KeyboardInterrupt):
        fit(model, 60, callbacks=[checkpoint, Fails(29, KeyboardInterrupt(), "end")])
    assert np.isfinite(flat_weights(model)).all()
    loaded = keras.models.load_model(tmp_path / "30.keras")
    np.testing.assert_array_equal(flat_weights(loaded), flat_weights(model))
    assert all(np.isfinite(variable.numpy()).all() for variable in loaded.optimizer.chained[0].variables)
    for each in (loaded, model):
        history = fit(each, 60, 30)
        assert history["stage"][0] == 1
        assert history["loss"][-1] <= history["loss"][0] < np.inf


def test_averages_are_in_the_file_of_the_last_epoch(tmp_path):
    def make():
        chain = kormos_opt.Chain([adam(use_ema=True, ema_momentum=0.9), kormos_opt.LBFGS()], epochs=[3, None])
        return compiled(seeded(), chain)

    model = make()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    whole = fit(model, 6, shuffle=False, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "3.keras")
    assert fit(loaded, 6, 3)["loss"] == whole["loss"][3:]


def test_a_pretrain_fn_of_a_stage():
    frozen = []

    def freeze(model):
        model.layers[0].trainable = False
        frozen.append(model)

    solver = kormos_opt.ScipyBatchOptimizer(method=["l-bfgs-b", "newton-cg"], pretrain_fn=[None, freeze], epochs=[2, 2])
    model = compiled(seeded(), kormos_opt.Chain([adam(), solver], epochs=[2, None]))
    assert len(fit(model, 6)["loss"]) == 6
    assert frozen == [model]


def test_an_error_keeps_what_the_solver_knows():
    whole = fit(compiled(seeded(), three_stages((2, 6, 1))), 8, shuffle=False)
    model = compiled(seeded(), three_stages((2, 6, 1)))
    with pytest.raises(KeyboardInterrupt):
        fit(model, 8, shuffle=False, callbacks=[Fails(4, KeyboardInterrupt(), "end")])
    assert fit(model, 8, 5)["loss"] == whole["loss"][5:]


def test_train_on_batch_is_a_step_of_the_stage_at_work():
    model = compiled(seeded(), kormos_opt.Chain([kormos_opt.LBFGS(), adam()], epochs=[2, None]))
    fit(model, 2)
    model.train_on_batch(X, Y)
    assert int(model.optimizer.chained[1].iterations) == 1
    other = compiled(seeded(), kormos_opt.Chain([adam(), kormos_opt.LBFGS()], epochs=[2, None]))
    fit(other, 2)
    other.train_on_batch(X, Y)
    assert int(other.optimizer.chained[1].iterations) == 1


def test_the_result_is_none_of_an_earlier_round():
    model = compiled(seeded(linear), kormos_opt.Chain([adam(), "l-bfgs"], epochs=[2, 3]))
    fit(model, 5)
    assert model.optimizer.result.nit == 3
    model.optimizer.reset()
    fit(model, 1)
    assert model.optimizer.result.method.startswith("adam") and not model.optimizer.result.success


def test_a_solver_of_your_own_is_found_by_its_name():
    chain = kormos_opt.Chain(["sgd", "LIGHT-GRAPH"], epochs=[1, None])
    assert fit(compiled(seeded(linear), chain), 3)["stage"] == [0, 1, 1]


def test_a_chain_in_another_model_begins_with_its_first_stage():
    chain = kormos_opt.Chain([kormos_opt.LBFGS(), kormos_opt.NewtonCG()], epochs=[2, None])
    fit(compiled(seeded(), chain), 3)
    assert fit(compiled(seeded(linear), chain), 3)["stage"] == [0, 0, 1]


def test_a_condition_on_what_not_every_epoch_has():
    chain = kormos_opt.Chain([adam(), "l-bfgs"], until=[kormos_opt.until.below(1e9, "val_loss"), None])
    history = fit(compiled(seeded(), chain), 4, validation_data=(X, Y), validation_freq=2)
    assert history["stage"] == [0, 0, 1, 1]
    chain = kormos_opt.Chain([adam(), "l-bfgs"], until=[kormos_opt.until.plateau(monitor="accuracy"), None])
    with pytest.raises(ValueError, match="Received: monitor='accuracy'"):
        fit(compiled(seeded(), chain), 4)


def test_a_generator_is_refused():
    with pytest.raises(ValueError, match="Received: x, a Python generator"):
        compiled(seeded(), three_stages()).fit(iter((X, Y) for _ in range(3)), epochs=3, verbose=0)


def test_a_callback_that_stops_stops_all_stages():
    stopping = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
    history = fit(compiled(seeded(), three_stages()), 9, callbacks=[stopping])
    assert history["stage"] == [0, 0]


def test_callbacks_hear_of_one_fit(capsys):
    heard = []
    callback = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: heard.append("begin"), on_train_end=lambda logs: heard.append("end")
    )
    reducing = keras.callbacks.ReduceLROnPlateau("loss", min_delta=100.0, patience=1, factor=0.1)
    model = compiled(seeded(), three_stages())
    model.fit(X, Y, epochs=9, callbacks=[callback, reducing], batch_size=16)
    assert heard == ["begin", "end"]
    out = capsys.readouterr().out
    assert [f"Epoch {epoch}/9" in out for epoch in range(1, 10)] == [True] * 9
    assert "4/4" in out
    assert "Stage 1 (lbfgs): Not converged after 4 iterations" in out
    np.testing.assert_allclose(float(model.optimizer.chained[0].learning_rate), 1e-4, rtol=1e-6)


@pytest.mark.slow_cases("PyDataset")
@pytest.mark.parametrize("kind", ["data set", "PyDataset"])
def test_streams(kind):
    """All optimizers read the input pipeline."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return X[16 * index : 16 * index + 16], Y[16 * index : 16 * index + 16]

    data = Batches() if kind == "PyDataset" else tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    history = compiled(seeded(), three_stages()).fit(data, epochs=9, shuffle=False, verbose=0).history
    expected = fit(compiled(seeded(), three_stages()), 9, shuffle=False, batch_size=16)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    assert history["stage"] == expected["stage"]


def test_two_replicas_have_the_history_of_one():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(seeded(), kormos_opt.Chain([adam(), kormos_opt.LBFGS()], epochs=[2, 3]))
    history = fit(model, 5, shuffle=False, batch_size=16)
    expected = fit(
        compiled(seeded(), kormos_opt.Chain([adam(), kormos_opt.LBFGS()], epochs=[2, 3])),
        5,
        shuffle=False,
        batch_size=16,
    )
    assert history["stage"] == expected["stage"]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)


def test_keras_has_no_stage_under_several_workers(monkeypatch):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(seeded(), three_stages())
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", tf.distribute.MirroredStrategy)
    with pytest.raises(ValueError, match=r"under several workers, where Keras's own fit fails\. Received: 'adam"):
        fit(model, 3)


def test_new_points_for_the_stages_that_take_them():
    def sample(model, rng):
        x = rng.normal(size=(64, 4)).astype("float32")
        return x, x[:, :1]

    chain = kormos_opt.Chain([adam(), kormos_opt.SSBroyden()], epochs=[3, None])
    callback = kormos_opt.callbacks.ResampleData(every=3, sample=sample)
    model = compiled(seeded(linear), chain)
    assert len(fit(model, 9, callbacks=[callback])["loss"]) == 9
    assert chain.chained[1].drawn_data[0] == 1


def test_settings_are_saved():
    chain = kormos_opt.Chain(
        ["adam", kormos_opt.LBFGS(memory=7, engine="graph"), "Newton-CG"],
        epochs=[5, None, None],
        until=[None, kormos_opt.until.plateau(3, 0.1), kormos_opt.until.below(0.5, "val_loss")],
    )
    copy = kormos_opt.Chain.from_config(chain.get_config())
    assert copy.get_config() == chain.get_config()
    assert copy.chained[1].memory == 7
    assert isinstance(copy.chained[0], keras.optimizers.Adam)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"optimizers": []}, r"optimizers=\[\]"),
        ({"optimizers": "adam"}, "optimizers='adam'"),
        ({"optimizers": ["adam", "l-bfgs"]}, r"epochs=\[None, None\]"),
        ({"optimizers": ["adam", "l-bfgs"], "epochs": [1]}, r"epochs=\[1\]"),
        ({"optimizers": ["adam", "l-bfgs"], "epochs": [0, 1]}, r"epochs=\[0, 1\]"),
        ({"optimizers": ["adam", "l-bfgs"], "until": [3, None]}, r"until=\[3, None\]"),
    ],
)
def test_settings_are_checked(arguments, received):
    with pytest.raises(ValueError, match=f"Expected .*Received: .*{received}"):
        kormos_opt.Chain(**arguments)


def test_no_chain_in_a_chain():
    with pytest.raises(ValueError, match="Received: a Chain in a Chain"):
        kormos_opt.Chain([kormos_opt.Chain(["adam"]), "l-bfgs"])


def test_learning_rates_of_solvers_alone_are_refused():
    model = compiled(seeded(), kormos_opt.Chain(["l-bfgs", "newton-cg"], epochs=[1, 1]))
    with pytest.raises(ValueError, match="Received: callbacks with a LearningRateScheduler"):
        fit(model, 2, callbacks=[halving()])
