"""What people are told: once, in numbers that are there, and of what ended a fit."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.support.problems import compiled, linear, network, regression

X, Y = regression()


def shown(capsys, optimizer, verbose):
    model = compiled(network(), optimizer)
    model.fit(X, Y, epochs=3, verbose=verbose)
    return re.sub(r"\x1b\[[0-9;]*m|\x08", "", capsys.readouterr().out)


@pytest.mark.skipif(
    "convert_to_numpy" in inspect.getsource(keras.utils.Progbar.update), reason="this Keras shows every number so"
)
@pytest.mark.parametrize("verbose", [1, 2])
def test_counts_are_integers_in_the_progress_bar(verbose, capsys):
    out = shown(capsys, kormos_opt.NewtonCG(), verbose)
    assert re.search(r"fg_evals: \d+ ", out) and re.search(r"hessp_evals: \d+ ", out)
    assert "e+0" not in out.split("hessp_evals")[1][:8]


@pytest.mark.parametrize("verbose", [1, 2])
def test_nothing_is_shown_where_there_is_nothing(verbose, capsys):
    out = shown(capsys, kormos_opt.LBFGS(), verbose)
    assert "hessp_evals" not in out and "grad: " in out
    chain = kormos_opt.Chain([keras.optimizers.Adam(), kormos_opt.LBFGS()], epochs=[1, None])
    assert "nan" not in shown(capsys, chain, verbose)


def test_an_end_by_a_callback_is_said():
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 2))
    model = compiled(network())
    model.fit(X, Y, epochs=50, callbacks=[stop], verbose=0)
    assert model.optimizer.result.message.startswith("A callback has ended the fit after 3 iterations")
    model = compiled(network())
    model.fit(X, Y, epochs=3, verbose=0)
    assert model.optimizer.result.message.startswith("Not converged after 3 iterations")


def test_lower_and_upper_bounds_as_in_curve_fit():
    lower, upper = np.full(5, -1.0), np.full(5, 1.5)
    for bounds in ((lower, upper), (-1.0, 1.5), [(-1.0, 1.5)] * 5):
        keras.utils.set_random_seed(0)
        model = compiled(linear(), kormos_opt.LBFGS(bounds=bounds))
        model.fit(X, Y, epochs=30, verbose=0)
        weights = np.concatenate([weight.ravel() for weight in model.get_weights()])
        assert weights.max() == 1.5 and weights.min() >= -1


def test_normalization_is_no_frozen_layer(caplog):
    layer = keras.layers.Normalization()
    layer.adapt(np.repeat(X, 20, axis=1))
    model = compiled(keras.Sequential([keras.Input((80,)), layer, keras.layers.Dense(1)]))
    model.fit(np.repeat(X, 20, axis=1), Y, epochs=1, verbose=0)
    assert "frozen" not in caplog.text


def test_random_augmentation_stands_still(caplog):
    images = np.random.default_rng(0).random((20, 8, 8, 1)).astype("float32")
    layers = [keras.layers.RandomFlip(), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = compiled(keras.Sequential([keras.Input((8, 8, 1)), *layers]))
    history = model.fit(images, images[:, 0, 0], epochs=4, verbose=0).history
    assert "Random augmentation in random_flip" in caplog.text
    assert all(np.diff(history["loss"]) <= 0)


class OwnNoise(keras.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)


def test_numbers_of_a_generator_of_the_model_stand_still(caplog):
    model = compiled(keras.Sequential([keras.Input((4,)), OwnNoise(), keras.layers.Dense(1)]))
    history = model.fit(X, Y, epochs=4, verbose=0).history
    assert sum("generator with a state, which stands still" in each for each in caplog.messages) == 1
    assert all(np.diff(history["loss"]) <= 0)


def test_many_models_are_no_retracing(caplog):
    for engine in ("scipy", "graph"):
        for _ in range(6):
            keras.utils.set_random_seed(1)
            model = linear()
            model.compile(kormos_opt.LBFGS(engine=engine), loss="mse")
            model.fit(X, Y, epochs=1, verbose=0)
    assert "retracing" not in caplog.text


def test_a_trainable_variable_of_nobody_is_named_once(caplog):
    viscosity = tf.Variable(0.5, name="viscosity")

    def loss(y, p):
        return keras.ops.mean((viscosity * p - y) ** 2, axis=-1)

    model = compiled(network(), loss=loss)
    for _ in range(2):
        model.fit(X, Y, epochs=1, verbose=0)
    assert sum("viscosity, a trainable tf.Variable that is no weight" in each for each in caplog.messages) == 1
    quiet = tf.Variable(0.5, name="quiet", trainable=False)
    compiled(network(), loss=lambda y, p: keras.ops.mean((quiet * p - y) ** 2, axis=-1)).fit(X, Y, epochs=1, verbose=0)
    assert "quiet" not in caplog.text


def test_equal_warnings_are_said_once(caplog):
    model = compiled(network(), kormos_opt.BFGS())
    for i in range(5):
        model.fit(X, Y + i, epochs=1, verbose=0)
    assert len(caplog.messages) == len(set(caplog.messages)) == 1


def test_the_result_of_a_stage_of_adam():
    chain = kormos_opt.Chain([keras.optimizers.Adam(name="adam"), kormos_opt.LBFGS()], epochs=[3, None])
    model = compiled(network(), chain)
    history = model.fit(X, Y, epochs=2, verbose=0).history
    result = model.optimizer.result
    assert (result.method, result.nit, result.success) == ("adam", 2, False)
    assert result.fun == history["loss"][-1]
    assert "stage 0 of 2" in result.message


def test_a_fit_that_ends_before_a_draw_says_so(caplog):
    draw = kormos_opt.callbacks.ResampleData(every=500, sample=lambda model, rng: (X, Y))
    compiled(linear(), kormos_opt.TrustExact(precision="float64")).fit(X, Y, epochs=50, callbacks=[draw], verbose=0)
    assert "before the first draw of ResampleData after 500" in caplog.text


def test_drawn_data_belongs_to_one_fit_of_one_model():
    """Other data that fit is given counts; the same goes on with what was drawn."""

    def sample(model, rng):
        x = rng.normal(size=(50, 4)).astype("float32")
        return x, x[:, :1] ** 2

    def draw(every):
        return kormos_opt.callbacks.ResampleData(every, sample)

    optimizer = kormos_opt.LBFGS()
    first, second = compiled(network(), optimizer), compiled(network(), optimizer)
    first.fit(X, Y, epochs=5, callbacks=[draw(3)], verbose=0)
    for model in (second, first):
        history = model.fit(X, Y + 5, epochs=1, callbacks=[draw(1000)], verbose=0).history
        np.testing.assert_allclose(history["loss"][-1], model.evaluate(X, Y + 5, verbose=0), rtol=1e-4)


def test_a_finished_chain_goes_on_in_its_last_stage(caplog):
    chain = kormos_opt.Chain([keras.optimizers.Adam(0.1), kormos_opt.LBFGS(precision="float64")], epochs=[3, None])
    model = compiled(linear(), chain)
    first = model.fit(X, Y, epochs=100, verbose=0).history
    again = model.fit(X, Y, epochs=100, verbose=0).history
    assert set(again["stage"]) <= {1}
    assert model.optimizer.result.fun <= first["loss"][-1] * (1 + 1e-6)
    assert sum("All stages of the chain were over" in message for message in caplog.messages) == 1
    model.optimizer.reset()
    assert model.fit(X, Y, epochs=2, verbose=0).history["stage"] == [0, 0]


class CtrlC(keras.callbacks.Callback):
    """In the validation of an epoch, behind its training."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_test_begin(self, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("first", [kormos_opt.LBFGS, lambda: keras.optimizers.SGD(0.01)], ids=["LBFGS", "SGD"])
def test_ctrl_c_between_an_iteration_and_the_end_of_its_epoch(first):
    """The stage has had that iteration."""

    def make():
        keras.utils.set_random_seed(0)
        return compiled(network(), kormos_opt.Chain([first(), kormos_opt.SSBroyden()], epochs=[4, None]))

    settings = {"validation_data": (X, Y), "verbose": 0, "shuffle": False}
    whole, part = make(), make()
    whole.fit(X, Y, epochs=10, **settings)
    with pytest.raises(KeyboardInterrupt):
        part.fit(X, Y, epochs=10, callbacks=[CtrlC(3)], **settings)
    part.fit(X, Y, epochs=7, **settings)
    for one, other in zip(part.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
