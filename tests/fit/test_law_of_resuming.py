"""The law of resuming, as a table: engine x precision x chunks x replicas x XLA x file. Stopped is never stopped.

After a stop, in the same process or from a file, the weights and all columns of History are those of one fit.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.support.helpers import flat_weights, from_file
from tests.support.problems import compiled, network, regression

X, Y = regression(rows=60)
RAW = X * np.array([1, 3000, 1, 1], "float32") + np.array([0, 40_000, 0, 0], "float32")
ENGINES = ["scipy", "graph", "tfp"]
PRECISIONS = ["model", "float64", "auto"]
TABLE = list(itertools.product(ENGINES, PRECISIONS, [None, 16], [1, 2], [False, True], ["process", "keras", "weights"]))
EPOCHS, STOP = 9, 4


def make(engine, precision, chunk, replicas, jit):
    def model():
        keras.utils.set_random_seed(0)
        optimizer = kormos_opt.LBFGS(engine=engine, precision=precision, batch_size=chunk)
        return compiled(network(), optimizer, jit_compile=jit, metrics=["mae"])

    if replicas == 1:
        return model()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return model()


def stopped(model, how, again, tmp_path):
    """The model from which the second fit goes on."""
    if how == "process":
        return model
    return from_file(model, tmp_path / ("model.keras" if how == "keras" else "model.weights.h5"), again)


@pytest.mark.slow_cases(
    "*-2-*-process",
    "*-2-*-weights",
    "*-2-True-*",
    "*-None-1-*",
    "*-True-process",
    "*-auto-*-1-*",
    "*-auto-None-*",
    "*-float64-*-2-*",
    "*-float64-*-keras",
    "*-float64-*-process",
    "*-model-*-weights",
    "graph-auto-*",
    "graph-float64-16-1-True-weights",
    "graph-model-16-1-False-keras",
    "graph-model-16-2-False-keras",
    "scipy-float64-16-1-False-weights",
    "scipy-model-*",
    "tfp-*",
)
@pytest.mark.parametrize(("engine", "precision", "chunk", "replicas", "jit", "how"), TABLE)
def test_stopped_is_never_stopped(engine, precision, chunk, replicas, jit, how, tmp_path):
    settings = engine, precision, chunk, replicas, jit
    whole, part = make(*settings), make(*settings)
    expected = whole.fit(X, Y, epochs=EPOCHS, verbose=0).history
    rows = part.fit(X, Y, epochs=STOP, verbose=0).history
    resumed = stopped(part, how, lambda: make(*settings), tmp_path)
    more = resumed.fit(X, Y, epochs=EPOCHS - STOP, verbose=0).history
    for name in expected:
        assert rows[name] + more[name] == expected[name], name
    np.testing.assert_array_equal(flat_weights(resumed), flat_weights(whole))


@pytest.mark.slow_cases("*-scipy-process", "auto-*-process", "auto-scipy-*", "model-graph-keras")
@pytest.mark.parametrize("how", ["process", "keras"])
@pytest.mark.parametrize("engine", ["scipy", "graph"])
@pytest.mark.parametrize("precision", ["model", "auto"])
def test_in_raw_units(engine, precision, how, tmp_path, caplog):
    """The units of the solver are carried too, and with "auto" that f is computed in float64 by then."""

    def model():
        keras.utils.set_random_seed(0)
        solver = kormos_opt.LBFGS(engine=engine, precision=precision)
        return compiled(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), solver)

    whole = model()
    expected = whole.fit(RAW, Y, epochs=60, verbose=0).history
    assert whole.optimizer.result.x_scale.max() / whole.optimizer.result.x_scale.min() >= 1000
    epochs = len(expected["loss"])
    for stop in (1, epochs - 1):
        part = model()
        rows = part.fit(RAW, Y, epochs=stop, verbose=0).history
        resumed = stopped(part, how, model, tmp_path)
        more = resumed.fit(RAW, Y, epochs=epochs - stop, verbose=0).history
        for name in expected:
            assert rows[name] + more[name] == expected[name], (stop, name)
        np.testing.assert_array_equal(flat_weights(resumed), flat_weights(whole))


@pytest.mark.slow_cases("scipy")
@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_escalation_is_resumed(engine, tmp_path):
    """Weights in units of 1 on raw data: float32 hides progress, and the fit goes on in float64 to its end."""

    def model():
        keras.utils.set_random_seed(0)
        solver = kormos_opt.LBFGS(engine=engine, precision="auto", x_scale=None)
        return compiled(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), solver)

    whole = model()
    expected = whole.fit(RAW, Y, epochs=60, verbose=0).history
    assert whole.train_function._progress.is_in_float64
    epochs = len(expected["loss"])
    for how, stop in itertools.product(("process", "keras"), (2, epochs - 2)):
        part = model()
        rows = part.fit(RAW, Y, epochs=stop, verbose=0).history
        resumed = stopped(part, how, model, tmp_path)
        more = resumed.fit(RAW, Y, epochs=epochs - stop, verbose=0).history
        for name in expected:
            assert rows[name] + more[name] == expected[name], (how, stop, name)


@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_a_file_beside_a_suspended_run_replaces_it(engine, tmp_path):
    def model():
        keras.utils.set_random_seed(0)
        return compiled(network(), kormos_opt.LBFGS(engine=engine))

    whole, part, path = model(), model(), tmp_path / "model.weights.h5"
    expected = whole.fit(X, Y, epochs=10, verbose=0).history
    part.fit(X, Y, epochs=4, verbose=0)
    part.save_weights(path)
    part.fit(X, Y, epochs=5, verbose=0)
    part.load_weights(path)
    rows = part.fit(X, Y, epochs=6, verbose=0).history
    assert rows["loss"] == expected["loss"][4:] and rows["fg_evals"] == expected["fg_evals"][4:]


@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_files_of_two_models_with_one_optimizer(engine, tmp_path):
    """Each model has what its own solver knows."""
    optimizer = kormos_opt.LBFGS(engine=engine)
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        model = compiled(network(), optimizer)
        model.fit(X, Y, epochs=5, verbose=0)
        model.save(tmp_path / f"{seed}.keras")
        loaded = keras.models.load_model(tmp_path / f"{seed}.keras")
        expected = model.fit(X, Y, epochs=4, verbose=0).history
        assert loaded.fit(X, Y, epochs=4, verbose=0).history == expected


def test_a_second_model_gets_an_optimizer_of_its_own():
    optimizer = kormos_opt.LBFGS(memory=7, precision="float64")
    first, second = compiled(network(), optimizer), compiled(network(), optimizer)
    assert first.optimizer is optimizer and second.optimizer is not optimizer
    assert second.optimizer.get_config() == optimizer.get_config()
    first.compile(optimizer, "mse")
    assert first.optimizer is optimizer


def test_a_tournament_belongs_to_one_model():
    many = kormos_opt.MultiStart(kormos_opt.LBFGS(), starts=3, iterations=2)
    first, second = compiled(network(), many), compiled(network(), many)
    first.fit(X, Y, epochs=1, verbose=0)
    table = second.fit(X, -3 * Y, epochs=1, verbose=0).starts
    keras.utils.set_random_seed(0)
    alone = compiled(network(), kormos_opt.MultiStart(kormos_opt.LBFGS(), starts=3, iterations=2))
    alone.set_weights(second.get_weights())
    assert len(table) == 3 and [row["loss"] for row in table] != [row["loss"] for row in first.optimizer.table]


@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_moving_statistics_after_a_tournament_are_those_of_the_start(engine):
    """A fit from the winner's weights is the same fit."""

    def model(optimizer):
        keras.utils.set_random_seed(0)
        inner = [keras.layers.Dense(3, "tanh"), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(1)]
        return compiled(keras.Sequential([keras.Input((4,)), *inner]), optimizer)

    many = model(kormos_opt.MultiStart(kormos_opt.LBFGS(engine=engine), starts=3, iterations=3))
    starts = many.fit(X, Y, epochs=2, verbose=0).starts
    plain = model(kormos_opt.LBFGS(engine=engine))
    plain.optimizer.build(plain, (X, Y))
    plain.optimizer.set_weights(starts[0]["x"])
    plain.fit(X, Y, epochs=2, verbose=0)
    for one, other in zip(many.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
