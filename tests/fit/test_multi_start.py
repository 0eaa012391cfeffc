"""Many starts: the best goes on, one objective, a table; interruptions, files, chains."""

import keras
import numpy as np
import pytest
from keras import layers

import kormos_opt
from kormos_opt.keras_internals import initial_weights
from tests.support.helpers import flat_weights
from tests.support.problems import Curve, compiled, network, regression

X = np.linspace(-3, 3, 40)[:, None]
Y = np.sin(3 * X)


def wave():
    """sin(b x), whose frequency has many local minima."""
    import tensorflow as tf

    return Curve(lambda x, b: tf.sin(b[0] * x), [0.5])


def anywhere(model, start):
    model.set_weights([np.array([0.5 + 0.4 * start])])


def fit(model, epochs=30, x=X, y=Y, **arguments):
    return model.fit(x, y, epochs=epochs, verbose=0, **arguments)


@pytest.mark.slow_cases("graph")
@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_finds_the_global_minimum(engine, float64):
    alone = compiled(wave(), kormos_opt.LBFGS(engine=engine))
    assert fit(alone).history["loss"][-1] > 0.1
    optimizer = kormos_opt.MultiStart(kormos_opt.LBFGS(engine=engine), starts=12, iterations=5, initialize=anywhere)
    model = compiled(wave(), optimizer)
    history = fit(model)
    np.testing.assert_allclose(np.abs(flat_weights(model)), 3, rtol=1e-4)
    table = history.starts
    assert sorted(row["number"] for row in table) == list(range(12))
    assert table[0]["loss"] == min(row["loss"] for row in table)
    assert history.history["loss"][0] <= table[0]["loss"]
    assert history.history["fg_evals"][0] > sum(row["fg_evals"] for row in table)
    assert table[-1]["iterations"] <= 5
    assert table[0]["x"].shape == (1,)
    assert "x" not in table[1]


def test_the_winner_has_the_iterates_of_a_fit_from_there(float64):
    x, y = regression(dtype="float64")
    keras.utils.set_random_seed(0)
    model = compiled(network(), kormos_opt.MultiStart("l-bfgs-b", starts=4, keep=2))
    history = fit(model, 6, x, y)
    again = compiled(network(), kormos_opt.LBFGS())
    best = history.starts[0]["x"]
    sizes = np.cumsum([weight.size for weight in again.get_weights()])[:-1]
    again.set_weights(
        [part.reshape(w.shape) for part, w in zip(np.split(best, sizes), again.get_weights(), strict=True)]
    )
    assert fit(again, 6, x, y).history["loss"] == history.history["loss"]
    assert ["x" in row for row in history.starts] == [True, True, False, False]
    assert [row["iterations"] for row in history.starts] == [10] * 4


def test_a_second_fit_goes_on(float64):
    keras.utils.set_random_seed(0)
    x, y = regression(dtype="float64")

    def make():
        keras.utils.set_random_seed(0)
        return compiled(network(), kormos_opt.MultiStart(kormos_opt.LBFGS(), starts=3))

    whole = fit(make(), 8, x, y).history["loss"]
    model = make()
    first, second = fit(model, 3, x, y), model.fit(x, y, epochs=8, initial_epoch=3, verbose=0)
    assert first.history["loss"] + second.history["loss"] == whole
    assert first.starts is second.starts


def test_a_file_goes_on_without_another_tournament(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = regression()
    model = compiled(network(), kormos_opt.MultiStart(kormos_opt.LBFGS(memory=5), starts=3))
    losses = fit(model, 3, x, y).history["loss"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    history = loaded.fit(x, y, epochs=6, initial_epoch=3, verbose=0)
    assert not hasattr(history, "starts")
    expected = model.fit(x, y, epochs=6, initial_epoch=3, verbose=0).history
    assert (history.history["loss"], history.history["fg_evals"]) == (expected["loss"], expected["fg_evals"])
    assert history.history["loss"][0] < losses[-1]


def test_in_a_chain(float64):
    chain = kormos_opt.Chain(
        [kormos_opt.MultiStart(kormos_opt.LBFGS(), starts=12, initialize=anywhere), "newton-cg"], epochs=[3, 10]
    )
    model = compiled(wave(), chain)
    assert len(fit(model, 13).starts) == 12
    np.testing.assert_allclose(np.abs(flat_weights(model)), 3, rtol=1e-8)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_the_weights(error):
    def initialize(model, start):
        model.set_weights([np.array([9.0])])
        if start == 2:
            raise error("told to")

    model = compiled(wave(), kormos_opt.MultiStart("l-bfgs-b", starts=4, initialize=initialize))
    before = flat_weights(model)
    with pytest.raises(error):
        fit(model)
    np.testing.assert_array_equal(flat_weights(model), before)


def test_a_start_that_is_not_finite_comes_last():
    def initialize(model, start):
        model.set_weights([np.array([np.nan if start == 1 else 3.2])])

    model = compiled(wave(), kormos_opt.MultiStart("l-bfgs-b", starts=4, initialize=initialize))
    table = fit(model).starts
    assert (table[-1]["number"], table[-1]["loss"], table[-1]["iterations"]) == (1, np.inf, 0)
    assert model.optimizer.result.fun < 1e-6


def test_all_starts_may_be_kept():
    model = compiled(wave(), kormos_opt.MultiStart("l-bfgs-b", starts=4, keep=4, initialize=anywhere))
    table = fit(model).starts
    assert [row["loss"] for row in table] == sorted(row["loss"] for row in table)
    assert min(row["iterations"] for row in table) > 0


def test_layers_draw_again():
    keras.utils.set_random_seed(0)
    frozen = layers.Dense(3)
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            frozen,
            layers.LSTM(4),
            layers.Dense(3, kernel_initializer=keras.initializers.HeNormal(seed=3)),
            layers.BatchNormalization(),
        ]
    )
    frozen.trainable = False
    before = [variable.numpy() for variable in model.variables]
    initial_weights.draw(model, 1)
    changed = [
        variable.name
        for variable, old in zip(model.variables, before, strict=True)
        if not np.array_equal(variable.numpy(), old)
    ]
    assert changed == ["kernel", "recurrent_kernel", "kernel"]
    np.testing.assert_array_equal(model.layers[1].cell.bias.numpy()[4:8], 1)  # of the forget gate


def test_a_model_that_cannot_be_made_again_asks_for_a_function():
    with pytest.raises(ValueError, match=r"Expected layers that can be made again.*Curve.*Pass initialize="):
        fit(compiled(wave(), kormos_opt.MultiStart("l-bfgs-b")))


@pytest.mark.parametrize(
    "arguments", [{"starts": 0}, {"iterations": 1.5}, {"keep": 17}, {"keep": 0}, {"optimizer": "adam"}]
)
def test_settings_are_checked(arguments):
    with pytest.raises(ValueError, match=r"Expected .*Received: .*" + next(iter(arguments))):
        kormos_opt.MultiStart(**{"optimizer": "l-bfgs-b", **arguments})
