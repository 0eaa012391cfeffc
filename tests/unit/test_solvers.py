"""The solvers without Keras: scipy in its thread against scipy itself, and the safeguards."""

import threading
import traceback

import numpy as np
import pytest
import scipy.optimize

from kormos_opt.solvers import scipy_minimize
from kormos_opt.solvers.base import EvaluateValue
from kormos_opt.solvers.safeguards import safeguard
from kormos_opt.solvers.scipy_methods import METHODS
from kormos_opt.solvers.testing import answer, drive
from tests.support.helpers import quadratic, rosenbrock

pytestmark = pytest.mark.quick

FEATURES = np.random.default_rng(0).normal(size=(40, 4))


def logistic(x):
    """Regularized logistic loss of fixed data."""
    margins = FEATURES @ x * np.sign(FEATURES[:, 0])
    sigmoid = 1 / (1 + np.exp(margins))
    slope = -FEATURES.T @ (sigmoid * np.sign(FEATURES[:, 0])) / 40
    return np.log1p(np.exp(-margins)).mean() + 0.01 * x @ x, slope + 0.02 * x


def logistic_hessian(x):
    sigmoid = 1 / (1 + np.exp(FEATURES @ x))
    return FEATURES.T @ ((sigmoid * (1 - sigmoid))[:, None] * FEATURES) / 40 + 0.02 * np.eye(x.size)


# f and its gradient, its Hessian, where to start, which methods need more than a few thousand evaluations.
PROBLEMS = {
    "rosenbrock": (rosenbrock, scipy.optimize.rosen_hess, np.zeros(3)),
    "quadratic": (quadratic, lambda x: np.diag(np.arange(1.0, x.size + 1)), np.ones(5)),
    "logistic": (logistic, logistic_hessian, np.zeros(4)),
}
NAMES = [method.name for method in METHODS.values()]


def derivatives(name, fun, hessian):
    """What scipy is given by hand for a method."""
    kind = METHODS[name.lower()].derivatives
    if kind == "none":
        return {"fun": lambda x: fun(x)[0]}
    second = {"hvp": {"hessp": lambda x, p: hessian(x) @ p}, "hessian": {"hess": hessian}}
    return {"fun": fun, "jac": True, **second.get(kind, {})}


@pytest.mark.slow_cases("rosenbrock-COBYLA", "rosenbrock-COBYQA")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_is_scipy(problem, name):
    fun, hessian, x0 = PROBLEMS[problem]
    seen = []
    expected = scipy.optimize.minimize(
        x0=x0,
        method=name,
        callback=lambda x, *_: seen.append(np.array(x)),
        **derivatives(name, fun, hessian),
    )
    result, iterates, points = drive(METHODS[name.lower()].start(x0), fun, hessian)
    np.testing.assert_array_equal(result.x, expected.x)
    np.testing.assert_array_equal(iterates, seen)
    assert result.get("nit") == expected.get("nit")
    assert result.nfev == expected.nfev
    assert len(points) >= expected.nfev
    assert result.message.endswith(f"[scipy: {expected.message}]")
    assert result.message.startswith("Converged" if expected.success else "Stopped")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "L-BFGS-B"])
def test_suspended_between_requests_and_gone_when_closed(name):
    before = threading.active_count()
    solver = METHODS[name.lower()].start(np.zeros(6))
    request = next(solver)
    assert threading.active_count() == before + 1
    solver.send(rosenbrock(request.x)[0] if isinstance(request, EvaluateValue) else rosenbrock(request.x))
    solver.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("name", NAMES)
def test_gone_when_closed_in_the_middle(name):
    """Closed at every request up to the twentieth: scipy is unwound wherever it waits."""
    before = threading.active_count()
    fun, hessian, x0 = PROBLEMS["rosenbrock"]
    for requests in range(1, 20):
        solver, reply = METHODS[name.lower()].start(x0), None
        for _ in range(requests):
            reply = answer(solver.send(reply), fun, hessian)
        solver.close()
        assert threading.active_count() == before


@pytest.mark.parametrize("name", NAMES)
def test_two_suspended_solvers_do_not_mix(name):
    """Two runs take turns at every request, as two models do that are fitted in turns."""
    fun, hessian, _ = PROBLEMS["logistic"]
    starts = [np.full(4, start) for start in (0.0, 1.0)]
    alone = [drive(METHODS[name.lower()].start(x0), fun, hessian)[0].x for x0 in starts]
    solvers = [METHODS[name.lower()].start(x0) for x0 in starts]
    answers, results = [None, None], [None, None]
    while None in results:
        for i, solver in enumerate(solvers):
            if results[i] is None:
                try:
                    answers[i] = answer(solver.send(answers[i]), fun, hessian)
                except StopIteration as end:
                    results[i] = end.value
    for result, expected in zip(results, alone, strict=True):
        np.testing.assert_array_equal(result.x, expected)


def test_overflow_within_scipy_is_no_warning():
    steep = 1e160 * np.ones(3)
    driven = drive(
        scipy_minimize.minimize(np.ones(3), "trust-krylov", "hvp"),
        lambda x: (steep @ x + x @ x / 2, steep + x),
        lambda x: np.eye(3),
    )
    assert not driven.result.success
    assert np.isfinite(driven.result.x).all()


def test_error_keeps_its_traceback():
    with pytest.raises(ValueError, match="maxls must be positive") as raised:
        drive(scipy_minimize.minimize(np.zeros(6), "L-BFGS-B", maxls=0), rosenbrock)
    assert "_minimize_lbfgsb" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_safeguard_changes_nothing_on_a_smooth_problem(problem):
    fun, _, x0 = PROBLEMS[problem]
    plain, plain_iterates, _ = drive(METHODS["l-bfgs-b"].start(x0), fun)
    guarded, iterates, _ = drive(safeguard(METHODS["l-bfgs-b"].start(x0), resolution=2**-52), fun)
    np.testing.assert_array_equal(iterates, plain_iterates)
    np.testing.assert_array_equal(guarded.x, plain.x)


def test_ends_at_the_resolution_of_float32():
    """f in float32, gtol out of reach: scipy alone burns a line search, the safeguard ends before it."""

    def coarse(x):
        fun, jac = logistic(x)
        return float(np.float32(fun)), jac.astype("float32").astype("float64")

    options = {"ftol": 0, "gtol": 0}
    burnt, *_ = drive(METHODS["l-bfgs-b"].start(np.zeros(4), **options), coarse)
    solver = METHODS["l-bfgs-b"].start(np.zeros(4), **options)
    result, iterates, points = drive(safeguard(solver, "float32", 2**-23), coarse)
    assert result.success
    assert 'precision="float64"' in result.message
    assert result.nfev == len(points) < burnt.nfev - 10
    assert result.nit == len(iterates)
    np.testing.assert_array_equal(result.x, iterates[-1])
    np.testing.assert_allclose(result.fun, burnt.fun, rtol=1e-6)


def test_does_not_end_on_a_plateau_before_the_first_iterate():
    """A tiny gradient at the start says nothing about the steps to come."""

    def plateau(x):
        return 1 + 1e-9 * float(x @ x), 2e-9 * x

    result, iterates, _ = drive(
        safeguard(METHODS["l-bfgs-b"].start(np.ones(2), gtol=0, ftol=0), "float32", 2**-23),
        plateau,
    )
    assert len(iterates) >= 1
    assert result.fun < plateau(np.ones(2))[0]


@pytest.mark.parametrize("bad", [(np.nan, "nan"), (np.inf, "inf"), (1.0, "gradient")])
def test_backs_off_from_a_wall(bad):
    """-log(1 - x) - log(1 + x) is NaN outside (-1, 1); so is the gradient, or only the gradient."""
    value, kind = bad

    def barrier(x):
        if np.abs(x).max() >= 1:
            return value, np.full(x.size, np.nan if kind == "gradient" else 1.0)
        return float(-np.log1p(-(x**2)).sum() + 30 * (0.99 - x).sum()), 2 * x / (1 - x**2) - 30

    result, iterates, points = drive(safeguard(METHODS["l-bfgs-b"].start(np.zeros(3))), barrier)
    assert max(np.abs(point).max() for point in points) >= 1
    assert all(np.abs(x).max() < 1 for x in iterates)
    exact = (np.sqrt(1 + 900) - 1) / 30
    np.testing.assert_allclose(result.x, exact, atol=1e-4)
    assert result.success
