"""L-BFGS in the graph: its line search against the Wolfe conditions, its directions against the two-loop recursion."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from kormos_opt.graph_solvers import lbfgs
from kormos_opt.graph_solvers.line_search import Found, search
from tests.support.helpers import two_loop_direction

pytestmark = pytest.mark.quick

LINES = {
    "parabola": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    "far minimum": (lambda t: (t / 500 - 1) ** 2, lambda t: (t / 500 - 1) / 250),
    "near minimum": (lambda t: (t * 500 - 1) ** 2, lambda t: 1000 * (t * 500 - 1)),
    "quartic": (lambda t: t**4 - 8 * t, lambda t: 4 * t**3 - 8),
    "wiggly": (lambda t: np.cos(5 * t) - t, lambda t: -5 * np.sin(5 * t) - 1),
    "More and Thuente's first, beta 2": (lambda t: -t / (t**2 + 2), lambda t: (t**2 - 2) / (t**2 + 2) ** 2),
    "log barrier": (lambda t: -np.log(2 - t) - 3 * t, lambda t: 1 / (2 - t) - 3),
}


def along(fun, slope):
    """f and its gradient of one variable, NaN as a stand-in says where f is none."""

    def value_and_gradient(x):
        t = float(x[0])
        with np.errstate(invalid="ignore"):
            values = fun(t), slope(t)
        value, gradient = values if np.isfinite(values).all() else (fun(0.0) - t * slope(0.0), -3 * slope(0.0))
        return tf.constant(value, tf.float64), tf.constant([gradient], tf.float64)

    return value_and_gradient


def started(fun, slope):
    zero = tf.zeros((1,), tf.float64)
    return Found(tf.zeros((), tf.float64), zero, *along(fun, slope)(zero))


@pytest.mark.parametrize("length", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("name", LINES)
def test_the_strong_wolfe_conditions_hold(name, length):
    fun, slope = LINES[name]
    start = started(fun, slope)
    first = tf.constant(length, tf.float64)
    found = search(along(fun, slope), start, tf.ones((1,), tf.float64), start.gradient[0], first, 30)
    t = float(found.length)
    assert t > 0
    assert float(found.fun) == fun(t)
    assert fun(t) <= fun(0.0) + 1e-4 * t * slope(0.0)
    assert abs(slope(t)) <= 0.9 * abs(slope(0.0))
    np.testing.assert_array_equal(found.x, [t])
    np.testing.assert_array_equal(found.gradient, [slope(t)])


def test_no_lower_point_is_no_step():
    """The gradient is wrong: f grows along its negative."""
    fun, slope = (lambda t: t**2 + t), (lambda t: -1.0)
    start = started(fun, slope)
    found = search(along(fun, slope), start, tf.ones((1,), tf.float64), start.gradient[0], start.fun * 0 + 1, 20)
    assert float(found.length) == 0
    np.testing.assert_array_equal(found.x, start.x)


def begin(fun_and_jac, x0, memory=4):
    specs = lbfgs.variables(x0.size, {"memory": memory})
    state = {name: tf.zeros(spec.shape, spec.dtype or "float64") for name, spec in specs.items()}
    fun, jac = fun_and_jac(tf.constant(x0))
    return {**state, "position": tf.constant(x0), "objective_value": fun, "objective_gradient": jac}


def rosenbrock(x):
    x = x.numpy()
    return tf.constant(scipy.optimize.rosen(x), tf.float64), tf.constant(scipy.optimize.rosen_der(x))


def test_directions_are_those_of_the_two_loop_recursion():
    """While the memory fills, and while the newest pair takes the place of the oldest."""
    state = begin(rosenbrock, np.array([-1.2, 1.0, 0.5, -0.3, 0.8, 1.3]))
    pairs = []
    for nit in range(12):
        small = {name: state[name] for name in lbfgs._SMALL}
        direction = lbfgs._direction(state["objective_gradient"], state["pairs"], small)
        gradient = state["objective_gradient"].numpy()
        expected = two_loop_direction(*np.swapaxes(pairs[-4:], 0, 1), gradient) if pairs else -gradient
        np.testing.assert_allclose(direction, expected, rtol=1e-7, atol=1e-9 * np.linalg.norm(expected))
        after, failed = lbfgs.step(rosenbrock, state, tf.constant(nit), {"memory": 4, "maxls": 20})
        assert not failed
        changes = [(after[name] - state[name]).numpy() for name in ("position", "objective_gradient")]
        assert changes[0] @ changes[1] > 0
        pairs.append(changes)
        state = after


def test_where_the_memory_leads_uphill_it_is_forgotten():
    x0 = np.array([-1.2, 1.0, 0.5])
    state = begin(rosenbrock, x0)
    for nit in range(3):
        state, _ = lbfgs.step(rosenbrock, state, tf.constant(nit), {"memory": 4, "maxls": 20})
    spoilt = {**state, "scale": -state["scale"], "inverse_r": -state["inverse_r"], "diagonal": -state["diagonal"]}
    after, failed = lbfgs.step(rosenbrock, spoilt, tf.constant(3), {"memory": 4, "maxls": 20})
    assert not failed
    assert float(after["objective_value"]) < float(state["objective_value"])
    assert int(after["pair_count"]) == 1


def test_products_follow_an_objective_that_has_changed():
    state = begin(rosenbrock, np.array([-1.2, 1.0, 0.5]))
    for nit in range(3):
        state, _ = lbfgs.step(rosenbrock, state, tf.constant(nit), {"memory": 4, "maxls": 20})
    changed = {**state, "objective_gradient": 2 * state["objective_gradient"]}
    np.testing.assert_allclose(lbfgs.on_objective_change(changed)["products"], 2 * state["products"], rtol=1e-12)
