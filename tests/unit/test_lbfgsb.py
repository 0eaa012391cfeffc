"""L-BFGS-B without a thread: bit for bit the iterates of `scipy.optimize.minimize`, also from a copy of its arrays."""

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import Bounds

from kormos_opt.solvers import scipy_lbfgsb
from kormos_opt.solvers.base import EvaluateWithGradient, Iterate
from kormos_opt.solvers.scipy_minimize import minimize
from kormos_opt.solvers.testing import drive

pytestmark = [pytest.mark.quick, pytest.mark.skipif(not scipy_lbfgsb.is_known(), reason="another routine of scipy")]

START = np.random.default_rng(0).normal(size=6)
BOUNDS = Bounds([-2, -np.inf, 0.0, -1, 0.2, -np.inf], [0.5, np.inf, 3, np.inf, 0.3, 0.7])
CASES = {
    "free": (None, {}),
    "bounds": (BOUNDS, {}),
    "memory": (None, {"maxcor": 3, "ftol": 0.0}),
    "tolerance": (BOUNDS, {"ftol": 1e-3, "gtol": 1e-3}),
    "few iterations": (None, {"maxiter": 4}),
    "few evaluations": (None, {"maxfun": 9}),
    "short line searches": (None, {"maxls": 2}),
}


def rosenbrock(x):
    return float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)


def start_of(bounds):
    return START if bounds is None else np.clip(START, bounds.lb, bounds.ub)


@pytest.mark.parametrize("case", CASES)
def test_iterates_are_those_of_scipy(case):
    bounds, options = CASES[case]
    x0, seen = start_of(bounds), []
    settings = dict(options)
    expected = scipy.optimize.minimize(
        lambda x: seen.append(x.copy()) or rosenbrock(x),
        x0,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        tol=settings.pop("tol", None),
        options=settings,
    )
    mine = drive(scipy_lbfgsb.minimize(x0, bounds=bounds, **options), rosenbrock)
    np.testing.assert_array_equal(mine.points, seen)
    np.testing.assert_array_equal(mine.iterates[-1], expected.x)
    for name in ("x", "fun", "jac", "nit", "nfev", "njev", "success", "status"):
        np.testing.assert_array_equal(mine.result[name], expected[name])
    np.testing.assert_array_equal(mine.result.hess_inv.todense(), expected.hess_inv.todense())
    assert expected.message in mine.result.message


def test_the_result_is_that_of_the_thread():
    mine, thread = (
        drive(solver, rosenbrock).result for solver in (scipy_lbfgsb.minimize(START), minimize(START, "L-BFGS-B"))
    )
    assert mine.keys() == thread.keys()
    assert (mine.message, mine.ending) == (thread.message, thread.ending)


@pytest.mark.parametrize("stop", [1, 5, 12])
@pytest.mark.parametrize("bounds", [None, BOUNDS])
def test_a_copy_of_the_arrays_goes_on(stop, bounds):
    x0 = start_of(bounds)
    memory = {name: np.zeros(*spec) for name, spec in scipy_lbfgsb.variables(x0.size, {}).items()}
    solver, answer = scipy_lbfgsb.minimize(x0, bounds=bounds, state=memory), None
    iterates = 0
    while True:
        request = solver.send(answer)
        iterates += isinstance(request, Iterate)
        if iterates == stop and isinstance(request, EvaluateWithGradient):
            break
        answer = rosenbrock(request.x) if isinstance(request, EvaluateWithGradient) else None
    copy = {name: array.copy() for name, array in memory.items()}
    whole = drive(scipy_lbfgsb.minimize(x0, bounds=bounds), rosenbrock)
    rest = drive(scipy_lbfgsb.minimize(np.full(6, np.nan), bounds=bounds, state=copy), rosenbrock)
    np.testing.assert_array_equal(rest.iterates, whole.iterates[stop:])
    assert (rest.result.nit, rest.result.nfev) == (whole.result.nit, whole.result.nfev)


def test_other_arguments_of_the_routine_are_noticed(monkeypatch):
    """The thread serves then."""
    monkeypatch.setattr(scipy_lbfgsb._lbfgsb_py._lbfgsb, "setulb", lambda m, x: None, raising=False)
    scipy_lbfgsb.is_known.cache_clear()
    try:
        assert not scipy_lbfgsb.is_known()
    finally:
        monkeypatch.undo()
        scipy_lbfgsb.is_known.cache_clear()
    assert scipy_lbfgsb.is_known()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="maxls must be positive"):
        drive(scipy_lbfgsb.minimize(START, maxls=0), rosenbrock)
