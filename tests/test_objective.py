"""The objective: its gradient against finite differences, and the laws that make it a function of x alone."""

import keras
import numpy as np
import pytest

from kormos_opt.optimizers import LBFGS
from tests.layer_kinds import LAYERS, model_and_data
from tests.problems import compiled, finite_differences, network, prepared, regression

layers = keras.layers
KERAS = tuple(int(number) for number in keras.__version__.split(".")[:2])


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_is_that_of_finite_differences(kind, float64):
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model), x, y)
    rng = np.random.default_rng(2)
    x0 = objective.parameters.ravel() + 0.01 * rng.normal(size=objective.parameters.size)
    evaluation = objective.evaluate(x0)
    for _ in range(3):
        direction = rng.normal(size=x0.size)
        slope = finite_differences(lambda x: objective.evaluate(x).fun, x0, direction)
        np.testing.assert_allclose(evaluation.jac @ direction, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["Dense", "Dropout", "GaussianNoise", "RandomTranslation", "BatchNormalization"])
def test_two_evaluations_at_one_point_agree_to_the_last_bit(kind):
    model, x, y = model_and_data(kind)
    objective = prepared(compiled(model, LBFGS(batch_size=7), metrics=["mae"]), x, y)
    here = objective.parameters.ravel()
    first = objective.evaluate(here)
    elsewhere = objective.evaluate(here + 0.1)
    again = objective.evaluate(here)
    assert first.fun == again.fun != elsewhere.fun
    np.testing.assert_array_equal(first.jac, again.jac)
    assert float(first.logs["mae"]) == float(again.logs["mae"])
    for one, other in zip(first.moving_statistics, again.moving_statistics, strict=True):
        np.testing.assert_array_equal(one, other)


def masked_network():
    """A recurrent network over sequences of different lengths, padded with zeros; the mask reaches the loss."""
    return keras.Sequential(
        [keras.Input((5, 2)), layers.Masking(), layers.SimpleRNN(3, return_sequences=True), layers.Dense(1)]
    )


def masked_data(rows):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5, 2))
    x[np.arange(5) >= rng.integers(1, 6, rows)[:, None]] = 0
    return x, rng.normal(size=(rows, 5, 1))


def with_penalties():
    return network(kernel_regularizer="l2")


LOSSES = {
    "mean": (with_penalties, regression, "mse", None),
    "sum": (with_penalties, regression, ("MeanSquaredError", "sum"), None),
    "weighted": (with_penalties, regression, "mse", np.linspace(0, 2, 60)),
    "weighted sum": (with_penalties, regression, ("Huber", "sum"), np.linspace(0, 2, 60)),
    "mean with sample weight": (
        with_penalties,
        regression,
        ("MeanSquaredError", "mean_with_sample_weight"),
        np.linspace(0, 2, 60),
    ),
    "masked": (masked_network, masked_data, "mse", None),
    "masked, weighted": (masked_network, masked_data, "mse", np.linspace(0, 2, 60)[:, None]),
    "masked, mean with sample weight": (
        masked_network,
        masked_data,
        ("MeanSquaredError", "mean_with_sample_weight"),
        np.linspace(0, 2, 60)[:, None],
    ),
    "masked sum": (masked_network, masked_data, ("MeanSquaredError", "sum"), None),
}


def made(loss):
    """A loss by its name, or by the name of its class and its reduction. Made in the test: a loss keeps floatx()."""
    return loss if isinstance(loss, str) else getattr(keras.losses, loss[0])(reduction=loss[1])


@pytest.mark.parametrize("batch_size", [1, 7, 30, 59])
@pytest.mark.parametrize("kind", LOSSES)
def test_rebatching_leaves_the_objective_alone(kind, batch_size, float64):
    make, data, loss, sample_weight = LOSSES[kind]
    model, (x, y), loss = make(), data(60), made(loss)
    x0 = None
    evaluations = []
    for size in (60, batch_size):
        objective = prepared(compiled(model, LBFGS(batch_size=size), loss), x, y, sample_weight)
        x0 = objective.parameters.ravel() if x0 is None else x0
        evaluations.append(objective.evaluate(x0))
    whole, cut = evaluations
    # Before 3.13, Keras adds 1e-7 to the number of valid entries of a mask.
    added = 2e-7 if "masked" in kind and KERAS < (3, 13) else 0
    np.testing.assert_allclose(cut.fun, whole.fun, rtol=1e-13 + added)
    np.testing.assert_allclose(cut.jac, whole.jac, rtol=1e-10 + added, atol=1e-13 + added)


@pytest.mark.parametrize("kind", LOSSES)
def test_objective_of_one_batch_is_the_loss_that_keras_reports(kind, float64):
    make, data, loss, sample_weight = LOSSES[kind]
    model, (x, y) = compiled(make(), loss=made(loss)), data(60)
    objective = prepared(model, x, y, sample_weight)
    fun = objective.evaluate(objective.parameters.ravel()).fun
    np.testing.assert_allclose(fun, model.test_on_batch(x, y, sample_weight), rtol=1e-12)


def test_sum_is_a_plain_sum_with_penalties_once(float64):
    x, y = regression(dtype="float64")
    model = compiled(with_penalties(), LBFGS(batch_size=8), keras.losses.MeanSquaredError(reduction="sum"))
    objective = prepared(model, x, y)
    penalty = 0.01 * np.sum(model.layers[0].kernel.numpy() ** 2)
    expected = np.sum((model.predict(x, verbose=0) - y) ** 2) + penalty
    np.testing.assert_allclose(objective.evaluate(objective.parameters.ravel()).fun, expected, rtol=1e-12)


def test_mixed_reductions_of_two_outputs(float64):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(1, name="a")(inputs), layers.Dense(2, name="b")(inputs)]
    model = keras.Model(inputs, outputs)
    mse = keras.losses.MeanSquaredError
    x, y = regression(dtype="float64")
    objective = prepared(
        compiled(model, LBFGS(batch_size=6), [mse(reduction="sum"), mse()], loss_weights=[0.5, 2.0]), x, [y, x[:, :2]]
    )
    a, b = model.predict(x, verbose=0)
    expected = 0.5 * np.sum((a - y) ** 2) + 2 * np.mean((b - x[:, :2]) ** 2)
    evaluation = objective.evaluate(objective.parameters.ravel())
    np.testing.assert_allclose(evaluation.fun, expected, rtol=1e-12)
    np.testing.assert_allclose(float(evaluation.logs["a_loss"]), np.sum((a - y) ** 2), rtol=1e-12)


def test_batchnorm_averages_advance_once_per_accepted_iterate():
    x, y = regression()
    model = compiled(keras.Sequential([keras.Input((4,)), layers.BatchNormalization(momentum=0.9), layers.Dense(1)]))
    history = model.fit(x, y, epochs=3, verbose=0).history
    assert history["fg_evals"][-1] > 3
    mean = (1 - 0.9**3) * x.mean(axis=0)
    np.testing.assert_allclose(model.layers[0].moving_mean.numpy(), mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("eager", [False, True])
def test_seeds_are_where_they_were_after_fit(eager):
    model, x, y = model_and_data("Dropout")
    before = [variable.numpy() for variable in model.non_trainable_variables]
    compiled(model, run_eagerly=eager).fit(x, y, epochs=3, verbose=0)
    for old, new in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_one_evaluation_is_one_function_call():
    """The whole pass over many chunks is one concrete function with a loop over slices inside."""
    x, y = regression()
    objective = prepared(compiled(network(), LBFGS(batch_size=7)), x, y)
    objective.evaluate(objective.parameters.ravel())
    calls = []
    whole = objective._over_whole["gradient"]
    objective._over_whole["gradient"] = lambda point: calls.append(1) or whole(point)
    objective.evaluate(objective.parameters.ravel())
    assert calls == [1]


def test_eager_and_compiled_agree():
    x, y = regression()
    model = network()
    evaluations = []
    for eager in (False, True):
        compiled(model, LBFGS(batch_size=7), run_eagerly=eager, metrics=["mae"])
        objective = prepared(model, x, y)
        evaluations.append(objective.evaluate(objective.parameters.ravel()))
    graph, eager = evaluations
    np.testing.assert_allclose(graph.fun, eager.fun, rtol=1e-6)
    np.testing.assert_allclose(graph.jac, eager.jac, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(float(graph.logs["mae"]), float(eager.logs["mae"]), rtol=1e-6)


def test_unused_variables_get_a_zero_gradient():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(1, name="used")(inputs), layers.Dense(1, name="unused")(inputs)])
    x, y = regression()
    objective = prepared(compiled(model, loss=["mse", None]), x, [y, y])
    jac = objective.evaluate(objective.parameters.ravel()).jac
    assert np.all(jac[:5] != 0)
    np.testing.assert_array_equal(jac[5:], np.zeros(5))
