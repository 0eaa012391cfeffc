"""The units in which a solver sees the weights: exact arithmetic, and everything else in the user's units."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import Bounds, LinearConstraint

import kormos_opt
from kormos_opt.graph_solvers.units import own_gradient_of, weights_of
from kormos_opt.optimizers import ScipyBatchOptimizer
from kormos_opt.solvers import registry
from kormos_opt.solvers.change_of_variables import in_own_variables
from kormos_opt.solvers.scipy_methods import METHODS
from kormos_opt.solvers.testing import drive
from kormos_opt.solvers.units import Centered, Units, powers_of_two
from kormos_opt.stages import x_scale
from tests.support.helpers import quadratic
from tests.support.problems import compiled, linear, network, prepared, regression

X, Y = regression()
SIZES = np.array([1, 2000, 0.001, 1], "float32")
RAW = (X * SIZES + np.array([0, 30_000, 0, 5], "float32")).astype("float32")
RNG = np.random.default_rng(0)
UNITS = Units(powers_of_two(RNG.uniform(0.1, 9, 9)), np.r_[RNG.normal(size=6), 0, 0, 0], [Centered(0, 3, 2, 6)])
MATRIX = UNITS.weights(np.eye(9)).T


def test_the_change_of_variables_is_a_matrix():
    z, k = RNG.normal(size=9), RNG.normal(size=(4, 9))
    np.testing.assert_allclose(UNITS.weights(z), MATRIX @ z, rtol=1e-13)
    np.testing.assert_allclose(UNITS.weights(k), k @ MATRIX.T, rtol=1e-13)
    np.testing.assert_allclose(UNITS.own(UNITS.weights(z)), z, rtol=1e-12)
    np.testing.assert_allclose(UNITS.own_gradient(z), MATRIX.T @ z, rtol=1e-13)
    np.testing.assert_allclose(UNITS.gradient(UNITS.own_gradient(z)), z, rtol=1e-12)


def test_in_the_graph_it_is_the_same():
    z = tf.constant(RNG.normal(size=9))
    settings = tf.constant(UNITS.scale), tf.constant(UNITS.shift), UNITS.centered
    np.testing.assert_allclose(weights_of(z, *settings), UNITS.weights(z.numpy()), rtol=1e-13)
    np.testing.assert_allclose(own_gradient_of(z, *settings), UNITS.own_gradient(z.numpy()), rtol=1e-13)


@pytest.mark.parametrize(
    "method", [each for each in METHODS.values() if each.derivatives != "none"], ids=lambda m: m.name
)
def test_every_method_sees_the_scaled_problem_and_returns_the_whole(method):
    """A quadratic of unlike curvatures is a plain one in its units; the result is that of the quadratic itself."""
    scale = np.array([2.0**-8, 1.0, 2.0**6])
    hessian, x0 = np.diag(1 / scale**2), np.array([0.01, -2.0, 100.0])
    fun = lambda x: ((x - x0) @ hessian @ (x - x0) / 2, hessian @ (x - x0))  # noqa: E731

    def make(start, bounds, constraints, options):
        return method.start(start, **{"tol": 1e-10} | options)

    units = Units(scale)
    solver = in_own_variables(make, np.zeros(3), None, [], method.unlimited, True, units)
    result, iterates, _ = drive(solver, fun, lambda x: hessian)
    np.testing.assert_allclose(result.x, x0, rtol=1e-4)
    if method.name in ("CG", "BFGS", "L-BFGS-B", "trust-exact"):
        assert len(iterates) <= 6  # it is round to the solver
    inverse = getattr(result, "hess_inv", None)
    if method.name == "BFGS":
        step = RNG.normal(size=3)
        assert step @ inverse @ step > 0
        np.testing.assert_allclose(np.diag(inverse) / scale**2, 1, rtol=0.6)


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP", "trust-constr"])
def test_bounds_and_constraints_stay_in_the_users_units(method):
    bounds = Bounds([-1.0, 0.5, -np.inf], [1.0, 0.5, 200.0])
    seen = []

    def make(start, own_bounds, constraints, options):
        seen.append((start, own_bounds))
        return METHODS[method.lower()].start(start, bounds=own_bounds, **{"tol": 1e-9} | options)

    target = np.array([5.0, 3.0, 100.0])
    fun = lambda x: ((x - target) @ (x - target) / 2, x - target)  # noqa: E731
    options = METHODS[method.lower()].unlimited
    start = np.array([0.0, 0.5, 0.0])
    solver = in_own_variables(make, start, bounds, [], options, True, Units(np.array([0.25, 2.0, 64.0])))
    result, iterates, points = drive(solver, fun, lambda x: np.eye(3))
    np.testing.assert_allclose(result.x, [1.0, 0.5, 100.0], rtol=1e-3)
    np.testing.assert_allclose(seen[0][1].ub, [4.0, 200 / 64])
    for point in (*iterates, *points):
        assert point[1] == 0.5


def test_a_linear_constraint_in_units():
    def make(start, bounds, constraints, options):
        return METHODS["slsqp"].start(start, bounds=bounds, constraints=constraints, **{"tol": 1e-10} | options)

    constraint = LinearConstraint(np.array([[1.0, 1.0]]), 3.0, 3.0)
    units = Units(np.array([4.0, 0.5]))
    solver = in_own_variables(make, np.zeros(2), None, [constraint], {}, True, units)
    result = drive(solver, quadratic, lambda x: np.eye(2)).result
    assert abs(result.x.sum() - 3) < 1e-8


SETTINGS = [None, "auto", "inputs", "jac", 2.0, [1.0, 1e-3, 1e3, 1.0, 1.0]]


@pytest.mark.slow_cases(
    "2.0-*", "None-*", "[[]1.0, 0.001, 1000.0, 1.0, 1.0]-scipy", "auto-*", "inputs-graph", "jac-scipy"
)
@pytest.mark.parametrize("engine", ["scipy", "graph"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_all_ways_to_say_it_lead_to_the_optimum(setting, engine):
    keras.utils.set_random_seed(0)
    optimizer = kormos_opt.LBFGS(x_scale=setting, engine=engine, precision="float64", options={"ftol": 1e-14})
    model = compiled(linear(), optimizer)
    model.fit(X, Y, epochs=300, verbose=0)
    best = np.linalg.lstsq(np.c_[X, np.ones(len(X))].astype("float64"), Y[:, 0], rcond=None)[0]
    np.testing.assert_allclose(model.optimizer.result.x, best, atol=1e-3)
    assert model.optimizer.from_config(model.optimizer.get_config()).x_scale == model.optimizer.x_scale


@pytest.mark.parametrize("setting", ["input", -1.0, [1.0, 0.0], np.nan, np.ones((2, 2)), {}])
def test_what_it_may_be(setting):
    with pytest.raises(ValueError, match="Received: x_scale="):
        kormos_opt.LBFGS(x_scale=setting)


def test_as_many_numbers_as_weights():
    with pytest.raises(ValueError, match=r"each of the 5 weights.*shape \(3,\)"):
        compiled(linear(), kormos_opt.LBFGS(x_scale=[1.0, 2.0, 3.0])).fit(X, Y, verbose=0)


def test_scaled_data_has_the_iterates_of_scipy():
    """Nothing is changed there: to the last bit."""
    losses = []
    for setting in ("auto", None):
        keras.utils.set_random_seed(0)
        model = compiled(network(), kormos_opt.LBFGS(x_scale=setting))
        losses.append(model.fit(X, Y, epochs=20, verbose=0).history["loss"])
        assert "x_scale" not in model.optimizer.result
    assert losses[0] == losses[1]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)

    def call(self, x):
        return self.out(self.hidden(x))


def two_inputs():
    a, b = keras.Input((2,)), keras.Input((2,))
    return keras.Model([a, b], keras.layers.Dense(1)(keras.layers.Concatenate()([a, b])))


def convolution():
    layers = [keras.Input((4, 1)), keras.layers.Conv1D(2, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def normalized():
    layer = keras.layers.Normalization()
    layer.adapt(RAW)
    return keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("make", "x", "expected"),
    [
        (linear, RAW, np.sqrt((RAW**2).mean(axis=0))),
        (Subclassed, RAW, np.repeat(np.sqrt((RAW**2).mean(axis=0)), 3)),
        (two_inputs, [RAW[:, :2], RAW[:, 2:]], np.sqrt((RAW**2).mean(axis=0))),
        (convolution, RAW[..., None], np.full(4, np.sqrt((RAW.astype("float64") ** 2).mean()))),
        (normalized, RAW, np.ones(4)),
    ],
    ids=["linear", "subclassed", "two inputs", "convolution", "normalized"],
)
def test_sizes_of_the_inputs_of_kernels_on_the_data(make, x, expected):
    model = compiled(make(), kormos_opt.LBFGS(batch_size=16))
    model(x)  # builds it
    sizes = prepared(model, x, Y).input_sizes
    np.testing.assert_allclose(sizes.size[: len(expected)], expected, rtol=1e-4)
    assert not sizes.size[-1]  # of the last bias


def ridge(penalty):
    regularizer = keras.regularizers.L2(penalty)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_regularizer=regularizer)])


def test_an_l2_penalty_counts_as_an_input():
    """Its second derivative is that of a mean square whose input has the size of the root of its factor."""
    model = compiled(ridge(0.01), kormos_opt.LBFGS())
    expected = np.sqrt((RAW.astype("float64") ** 2).mean(axis=0) + 0.01)
    np.testing.assert_allclose(prepared(model, RAW, Y).input_sizes.size, [*expected, 0.0], rtol=1e-6)


@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_small_columns_under_a_penalty_are_left_as_they_are(engine):
    """In units of such a column the penalty alone would be stiff."""
    x = X * np.array([1, 0.5, 0.001, 0.002], "float32")
    fits = []
    for setting in ("auto", None):
        model = compiled(ridge(0.01), kormos_opt.LBFGS(x_scale=setting, engine=engine))
        model.set_weights([np.zeros((4, 1)), np.zeros(1)])
        fits.append(model.fit(x, Y, epochs=20, verbose=0).history["loss"])
        assert "x_scale" not in model.optimizer.result
    assert fits[0] == fits[1]


def test_it_is_said_once_and_stands_in_the_result(caplog):
    model = compiled(linear(), kormos_opt.LBFGS())
    for _ in range(3):
        model.fit(RAW, Y, epochs=3, verbose=0)
        model.set_weights([weight + 0.1 for weight in model.get_weights()])
    assert sum("The inputs are of sizes from" in message for message in caplog.messages) == 1
    assert model.optimizer.result.x_scale.shape == (5,)


def test_the_gradient_in_the_history_is_that_of_the_users_weights():
    model = compiled(linear(), kormos_opt.LBFGS(precision="float64"))
    history = model.fit(RAW, Y, epochs=3, verbose=0).history
    residual = RAW @ model.optimizer.result.x[:4] + model.optimizer.result.x[4] - Y[:, 0]
    columns = np.c_[RAW, np.ones(len(RAW))].astype("float64")
    expected = np.linalg.norm(2 * columns.T @ residual / len(RAW))
    np.testing.assert_allclose(history["grad"][-1], expected, rtol=1e-6)


@pytest.mark.slow_cases("BFGS", "CG", "SS-*", "trust-*")
@pytest.mark.parametrize(
    "method", ["CG", "BFGS", "TNC", "SLSQP", "trust-ncg", "SS-Broyden", "Newton-CG", "trust-constr"]
)
def test_raw_data_is_solved_by_all_methods(method):
    model = compiled(linear(), ScipyBatchOptimizer(method=method, precision="float64"))
    model.fit(RAW, Y, epochs=300, verbose=0)
    columns = np.c_[RAW, np.ones(len(RAW))].astype("float64")
    best = np.linalg.lstsq(columns, Y[:, 0].astype("float64"), rcond=None)[0]
    assert model.optimizer.result.fun <= np.mean((columns @ best - Y[:, 0]) ** 2) * 1.001


def test_tnc_is_given_offsets_with_its_scales():
    """With scales alone scipy's TNC reads memory that nobody has set: 2 of 25 fits ended at their start."""
    assert x_scale.without_own_scale(registry.find("TNC"), 3).keys() == {"scale", "offset"}


@pytest.mark.parametrize("setting", ["auto", "inputs", None, [1.0, 1e-3, 1e3, 1.0, 1.0]], ids=str)
def test_levenberg_marquardt_has_units_of_its_own(setting):
    model = compiled(linear(), kormos_opt.LevenbergMarquardt(x_scale=setting, precision="float64"))
    model.fit(RAW, Y, epochs=30, verbose=0)
    columns = np.c_[RAW, np.ones(len(RAW))].astype("float64")
    best = np.linalg.lstsq(columns, Y[:, 0].astype("float64"), rcond=None)[0]
    np.testing.assert_allclose(columns @ model.optimizer.result.x, columns @ best, atol=1e-6)


def test_constant_columns_are_not_centered():
    means = np.array([5.0, 1.0, 5.0, 0.0])
    deviations = np.array([1e-15, 3.0, 1e-5, 0.0])
    for resolution, centered in (
        (2e-16, [False, True, True]),
        (1e-7, [False, True, True]),
        (1e-6, [False, True, False]),
    ):
        sizes = np.hypot(means, deviations), means, deviations
        units = x_scale.of_inputs(*sizes, [Centered(0, 3, 1, 3)], centers=True, resolution=resolution)
        assert (units.shift[:3] != 0).tolist() == centered
