"""Self-scaled quasi-Newton methods: the formulas of the paper, BFGS of scipy as a special case, and their state."""

import itertools

import numpy as np
import pytest
import scipy.optimize

from kormos_opt.solvers import self_scaled
from kormos_opt.solvers.base import EvaluateWithGradient, Iterate
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.solvers.testing import drive
from tests.support.helpers import quadratic, rosenbrock
from tests.unit.test_solvers import PROBLEMS

pytestmark = pytest.mark.quick

SCALINGS = {
    "SSBroyden": self_scaled.broyden,
    "SSBFGS": self_scaled.scaled_bfgs,
    "BFGS": self_scaled.plain_bfgs,
}
START = np.random.default_rng(0).normal(size=6)


def state_for(size):
    return {name: np.zeros(*spec) for name, spec in self_scaled.variables(size, {}).items()}


def full(state):
    """H, whose other triangle is not kept up."""
    upper = np.triu(state["inverse_hessian"])
    return upper + np.triu(upper, 1).T


def run(scaling, fun, x0, stop=None, state=None, **options):
    """x, its gradient and H at the start and at every iterate; the solver is left at the request behind the last."""
    state = state_for(x0.size) if state is None else state
    solver, answer, states = self_scaled.minimize(scaling, x0, state=state, **options), None, []
    for _ in range(10_000):
        try:
            request = solver.send(answer)
        except StopIteration as end:
            return states, state, end.value
        if isinstance(request, Iterate):
            answer = None
        else:
            has_begun = state["counts"][1] > 0
            if has_begun and len(states) == state["counts"][0]:
                states.append((state["x"].copy(), state["gradient"].copy(), full(state)))
            if has_begun and state["counts"][0] == stop:
                return states, state, None
            answer = fun(request.x)
    raise AssertionError("the solver does not end")


def as_published(matrix, s, y, gradient, length, scaling):
    """H after a pair, transcribed: Urban, Stefanou and Pons (2025), equations 13 to 23. `gradient` is the old one."""
    n = len(s)
    rho = 1 / (y @ s)
    h = (y @ matrix @ y) * rho
    b = -length * rho * (s @ gradient)
    a = b * h - 1
    if scaling == "BFGS" or abs(a) < 1e-12 * b * h:
        tau = phi = 1.0
    elif scaling == "SSBFGS":
        tau, phi = min(1, 1 / b), 1.0
    else:
        c = np.sqrt(np.abs(a) / (1 + a))
        rho_minus = min(1, h * (1 - c))
        theta_minus = (rho_minus - 1) / a
        theta_plus = 1 / rho_minus
        theta = max(theta_minus, min(theta_plus, (1 - b) / b))
        sigma = 1 + theta * a
        sigma_n = np.abs(sigma) ** (1 / (1 - n))
        tau_1 = min(1, 1 / b)
        tau = min(tau_1 * sigma_n, sigma) if theta <= 0 else tau_1 * min(sigma_n, 1 / theta)
        phi = (1 - theta) / sigma
    y_h_y = y @ matrix @ y
    v = np.sqrt(y_h_y) * (s * rho - matrix @ y / y_h_y)
    without = matrix - np.outer(matrix @ y, y @ matrix) / y_h_y + phi * np.outer(v, v)
    return without / tau + np.outer(s, s) * rho


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_update_is_the_published_one(problem, scaling):
    """Also H y = s, and H stays positive definite."""
    fun, _, x0 = PROBLEMS[problem]
    states, _, result = run(SCALINGS[scaling], fun, x0 + 0.3)
    assert result.success
    for (x, gradient, matrix), (new_x, new_gradient, new_matrix) in itertools.pairwise(states):
        s, y = new_x - x, new_gradient - gradient
        direction = -matrix @ gradient
        length = (s @ direction) / (direction @ direction)
        expected = as_published(matrix, s, y, gradient, length, scaling)
        np.testing.assert_allclose(new_matrix, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
        np.testing.assert_allclose(new_matrix @ y, s, rtol=1e-6, atol=1e-7 * np.abs(s).max())
        assert np.linalg.eigvalsh(new_matrix).min() > 0


@pytest.mark.parametrize("problem", PROBLEMS)
def test_without_scaling_it_is_bfgs_of_scipy(problem):
    fun, _, x0 = PROBLEMS[problem]
    seen = []
    expected = scipy.optimize.minimize(
        fun, x0 + 0.3, jac=True, method="BFGS", callback=lambda x: seen.append(x.copy()), options={"gtol": 1e-8}
    )
    mine = drive(self_scaled.minimize(self_scaled.plain_bfgs, x0 + 0.3, gtol=1e-8), fun)
    first = slice(8)  # later ones have grown apart from the last digit, on a path that bends as that of Rosenbrock
    np.testing.assert_allclose(mine.iterates[first], seen[first], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mine.result.x, expected.x, rtol=1e-6, atol=1e-6)
    if problem == "quadratic":
        assert (mine.result.nit, mine.result.nfev) == (expected.nit, expected.nfev)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_reaches_the_minimum(scaling):
    result = drive(self_scaled.minimize(SCALINGS[scaling], START, gtol=1e-10), rosenbrock).result
    assert result.ending is TerminationReason.SMALL_GRADIENT
    np.testing.assert_allclose(result.x, 1, atol=1e-9)
    fun, jac = rosenbrock(result.x)
    assert result.fun == fun
    np.testing.assert_array_equal(result.jac, jac)


def test_one_weight():
    result = drive(self_scaled.minimize(self_scaled.broyden, np.array([3.0])), quadratic).result
    np.testing.assert_allclose(result.x, 0, atol=1e-8)


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_a_copy_of_the_arrays_goes_on(stop):
    whole = drive(self_scaled.minimize(self_scaled.broyden, START), rosenbrock)
    _, state, _ = run(self_scaled.broyden, rosenbrock, START, stop)
    copy = {name: array.copy() for name, array in state.items()}
    rest = drive(self_scaled.minimize(self_scaled.broyden, np.full(6, np.nan), state=copy), rosenbrock)
    np.testing.assert_array_equal(rest.iterates, whole.iterates[stop:])
    assert (rest.result.nit, rest.result.nfev) == (whole.result.nit, whole.result.nfev)


def test_the_first_trial_goes_as_far_down_as_the_step_before():
    """Lengths of min(1, 2.02 (f - f_before) / slope)."""
    state, answer = state_for(6), None
    solver = self_scaled.minimize(self_scaled.broyden, START, state=state)
    is_first, funs = False, []
    for _ in range(60):
        request = solver.send(answer)
        if is_first:
            slope = state["gradient"] @ state["direction"]
            length = min(1, 2.02 * (funs[-1] - funs[-2]) / slope)
            np.testing.assert_allclose(request.x, state["x"] + length * state["direction"], rtol=1e-12)
        is_first = isinstance(request, Iterate)
        answer = None if is_first else rosenbrock(request.x)
        funs += [rosenbrock(request.x)[0]] if is_first or not funs else []


def test_the_initial_matrix_is_scaled_by_the_first_pair():
    states, _, _ = run(self_scaled.plain_bfgs, quadratic, START, initial_scale=True)
    (x, gradient, _), (new_x, new_gradient, matrix) = states[:2]
    s, y = new_x - x, new_gradient - gradient
    scaled = (y @ s) / (y @ y) * np.eye(6)
    np.testing.assert_allclose(matrix, as_published(scaled, s, y, gradient, 1, "BFGS"), rtol=1e-9, atol=1e-12)


def test_a_wrong_gradient_ends_the_run():
    """First H begins anew, then the run ends at the last iterate."""
    count = itertools.count()

    def turning(x):
        fun, jac = rosenbrock(x)
        return fun, jac if next(count) < 20 else -jac

    driven = drive(self_scaled.minimize(self_scaled.broyden, START), turning)
    assert len(driven.points) > 30
    assert driven.result.ending is TerminationReason.NO_BETTER_POINT
    assert driven.result.message.startswith("Stopped")
    np.testing.assert_array_equal(driven.result.x, driven.iterates[-1])


@pytest.mark.parametrize(("limit", "count"), [("maxiter", "nit"), ("maxfun", "nfev")])
def test_limits(limit, count):
    result = drive(self_scaled.minimize(self_scaled.broyden, START, **{limit: 7}), rosenbrock).result
    assert (result.ending, limit in result.message) == (TerminationReason.LIMIT, True)
    assert 7 <= result[count] < 10


def test_another_function_keeps_the_matrix_if_it_is_positive_definite():
    _, state, _ = run(self_scaled.broyden, rosenbrock, START, 15)
    before = full(state)
    kept = self_scaled.on_objective_change(state)
    np.testing.assert_array_equal(kept["inverse_hessian"], before)
    moved = state_for(6) | kept
    _, state, _ = run(self_scaled.broyden, lambda x: rosenbrock(x + 0.1), START, 0, state=moved)
    np.testing.assert_allclose(state["direction"], -before @ rosenbrock(START + 0.1)[1], rtol=1e-12)
    state["inverse_hessian"][2, 2] = -1
    assert self_scaled.on_objective_change(state) == {}


def test_an_evaluation_is_asked_for_with_its_gradient():
    assert isinstance(next(self_scaled.minimize(self_scaled.broyden, START)), EvaluateWithGradient)
