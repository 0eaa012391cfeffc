"""One test for each private name of scipy and TensorFlow Probability that the solvers rely on."""

import inspect
import threading

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from scipy.optimize import _cobyla_py, _cobyqa_py, _minimize, _trustregion
from scipy.optimize._dcsrch import DCSRCH

from kormos_opt.solvers import scipy_options
from kormos_opt.solvers.scipy_methods import METHODS
from kormos_opt.solvers.scipy_minimize import _lock
from tests.support.helpers import SCIPY, two_loop_direction

pytestmark = pytest.mark.quick


def test_minimize_knows_the_fifteen_methods():
    assert [name.lower() for name in _minimize.MINIMIZE_METHODS] == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_function_whose_arguments_are_its_options(name):
    function = getattr(_minimize, scipy_options._FUNCTIONS[name])
    parameters = inspect.signature(function).parameters
    assert {"fun", "func"} & parameters.keys() and "x0" in parameters
    assert (
        set(METHODS[name].options)
        <= parameters.keys() | inspect.signature(_trustregion._minimize_trust_region).parameters.keys()
    )


def test_some_trust_regions_hand_their_options_on():
    assert "trust_region_options" in inspect.signature(_minimize._minimize_trust_ncg).parameters
    assert "gtol" in inspect.signature(_trustregion._minimize_trust_region).parameters


def is_held(lock):
    """Whether another thread would have to wait for the lock."""
    free = []

    def attempt():
        free.append(lock.acquire(blocking=False))
        if free[0]:
            lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return not free[0]


@pytest.mark.parametrize(("method", "module", "name"), [
    ("COBYQA", _cobyqa_py, "COBYQA_LOCK"), ("COBYLA", _cobyla_py, "_module_lock"),
])  # fmt: skip
def test_scipy_holds_its_lock_while_it_runs(method, module, name):
    """COBYQA has a lock until scipy 1.17, COBYLA until 1.15. Where there is none, none is let go."""
    lock, held = getattr(module, name, None), []
    assert _lock(method) is lock
    if lock is None:
        first_without = (1, 16) if method == "COBYLA" else (1, 18)
        assert first_without <= SCIPY
        return
    scipy.optimize.minimize(lambda x: held.append(is_held(lock)) or x @ x, np.ones(2), method=method)
    assert held and all(held)
    assert not is_held(lock)


def test_what_is_taken_from_tfp():
    """Its results have these names, which files of models carry; its direction is that of the two-loop recursion."""
    from kormos_opt.graph_solvers.tfp_lbfgs import _tfp
    from kormos_opt.solvers.registry import find

    lbfgs, linesearch, point = _tfp()
    state = find("L-BFGS-TFP").variables(3, {"memory": 2})
    assert list(state) == [
        "position",
        "objective_value",
        "objective_gradient",
        "position_deltas",
        "gradient_deltas",
    ]
    others = {"converged", "failed", "num_iterations", "num_objective_evaluations"}
    assert set(lbfgs.LBfgsOptimizerResults._fields) == {*state, *others}
    arguments = list(inspect.signature(linesearch.hager_zhang).parameters)
    assert arguments[1:4] == ["initial_step_size", "value_at_initial_step", "value_at_zero"]
    assert point._fields == ("x", "f", "df", "full_gradient")

    rng = np.random.default_rng(0)
    s, gradient = rng.normal(size=(2, 3)), rng.normal(size=3)
    y = s * [1.0, 2.0, 5.0]
    results = lbfgs.LBfgsOptimizerResults(False, False, tf.constant(7), 0, None, None, gradient, s, y)
    np.testing.assert_allclose(lbfgs._get_search_direction(results), two_loop_direction(s, y, gradient), rtol=1e-12)


@pytest.mark.parametrize("first", [0.1, 1.0, 30.0])
def test_the_line_search_of_minpack_is_reverse_communication(first):
    """`DCSRCH._iterate` says where to evaluate next, and asks for the same points as scipy's own loop around it."""
    asked = {"mine": [], "scipy": []}

    def phi(t, who):
        asked[who].append(t)
        return (t - 2) ** 4 + 0.1 * np.sin(5 * t)

    def slope(t):
        return 4 * (t - 2) ** 3 + 0.5 * np.cos(5 * t)

    settings = {"xtol": 1e-14, "stpmin": 1e-100, "stpmax": 1e100}
    expected, *_ = DCSRCH(lambda t: phi(t, "scipy"), slope, 1e-4, 0.9, **settings)(first, phi(0.0, "scipy"), slope(0.0))
    search, t, value, derivative = DCSRCH(None, None, 1e-4, 0.9, **settings), first, phi(0.0, "mine"), slope(0.0)
    task = b"START"
    while True:
        t, value, derivative, task = search._iterate(t, value, derivative, task)
        if task[:2] != b"FG":
            break
        value, derivative = phi(t, "mine"), slope(t)
    assert task[:4] == b"CONV"
    assert t == expected
    assert asked["mine"] == asked["scipy"]
