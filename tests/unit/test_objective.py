"""The objective: its gradient against finite differences, and the laws that make it a function of x alone."""

import keras
import numpy as np
import pytest
from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

from kormos_opt.objective.build import bind
from kormos_opt.optimizers import LBFGS
from tests.support.layer_kinds import model_and_data
from tests.support.problems import compiled, linear, network, prepared, regression

layers = keras.layers
KERAS = tuple(int(number) for number in keras.__version__.split(".")[:2])


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


@pytest.mark.slow_cases(
    "masked sum", "masked, mean with sample weight", "masked, weighted", "sum", "weighted", "weighted sum"
)
@pytest.mark.parametrize("kind", LOSSES)
def test_the_objective_is_the_loss_that_keras_reports_however_it_is_cut(kind, float64):
    make, data, loss, sample_weight = LOSSES[kind]
    model, (x, y) = compiled(make(), LBFGS(batch_size=60), made(loss)), data(60)
    objective = prepared(model, x, y, sample_weight)
    x0 = objective.parameters.ravel()
    whole = objective.evaluate(x0)
    np.testing.assert_allclose(whole.fun, model.test_on_batch(x, y, sample_weight), rtol=1e-12)
    # Before 3.13, Keras adds 1e-7 to the number of valid entries of a mask.
    added = 2e-7 if "masked" in kind and KERAS < (3, 13) else 0
    for rows in (1, 7, 59):
        objective.objective.rows_per_chunk = rows
        cut = bind(objective.objective, objective.data).evaluate(x0)
        np.testing.assert_allclose(cut.fun, whole.fun, rtol=1e-13 + added, err_msg=f"{rows} rows")
        np.testing.assert_allclose(cut.jac, whole.jac, rtol=1e-10 + added, atol=1e-13 + added)


def test_rows_of_a_chunk_are_those_that_were_asked_for():
    x, y = regression()
    for rows in (1, 7, 60, 100):
        assert prepared(compiled(linear(), LBFGS(batch_size=rows)), x, y).objective.rows_per_chunk == rows


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


def test_one_evaluation_is_one_function_call(monkeypatch):
    """The whole pass over many chunks is one concrete function with a loop over slices inside."""
    calls, stock = [], ConcreteFunction._call_flat

    def counting(function, *arguments, **more):
        calls.append(function)
        return stock(function, *arguments, **more)

    monkeypatch.setattr(ConcreteFunction, "_call_flat", counting)
    x, y = regression()
    objective = prepared(compiled(network(), LBFGS(batch_size=7)), x, y)
    objective.evaluate(objective.parameters.ravel())
    calls.clear()
    objective.evaluate(objective.parameters.ravel())
    (function,) = calls
    assert [node for node in function.graph.as_graph_def().node if node.op in ("While", "StatelessWhile")]


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
