"""Weights with equal bounds: every method sees only the others, and constraints see all of them."""

import numpy as np
import pytest
import scipy
import scipy.optimize
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint

import kormos_opt
from kormos_opt.solvers.base import Iterate
from kormos_opt.solvers.change_of_variables import in_own_variables
from kormos_opt.solvers.scipy_methods import METHODS
from kormos_opt.solvers.testing import drive
from tests.support.helpers import COBYLA_TAKES_EQUALITIES, quadratic, rosenbrock
from tests.support.problems import compiled, linear, regression

pytestmark = pytest.mark.quick

BOUNDED = [method for method in METHODS.values() if method.bounds]
CONSTRAINED = [method for method in METHODS.values() if method.constraints]
X0 = np.array([0.0, 0.5, 0.0, -1.0])
BOUNDS = Bounds([-np.inf, 0.5, -3, -1.0], [np.inf, 0.5, 2, -1.0])


def solver(method, bounds=BOUNDS, constraints=(), options=None):
    def make(x0, bounds, constraints, options):
        problem = {"tol": 1e-9, "bounds": bounds, "constraints": constraints}
        return method.start(x0, **problem | options)

    return in_own_variables(
        make, X0, bounds, constraints, method.unlimited | (options or {}), method.derivatives != "none"
    )


@pytest.mark.parametrize("method", BOUNDED, ids=lambda method: method.name)
def test_minimum_over_the_free_weights(method, capfd):
    result, iterates, points = drive(solver(method), rosenbrock, scipy.optimize.rosen_hess)
    whole = lambda x: np.array([x[0], 0.5, x[1], -1.0])  # noqa: E731
    expected = scipy.optimize.minimize(lambda x: rosenbrock(whole(x))[0], result.x[[0, 2]], method="BFGS", tol=1e-10)
    assert result.fun <= expected.fun + 1e-6
    np.testing.assert_array_equal(result.x[[1, 3]], [0.5, -1.0])
    for x in (*iterates, *points):
        np.testing.assert_array_equal(x[[1, 3]], [0.5, -1.0])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("method", BOUNDED, ids=lambda method: method.name)
def test_all_weights_fixed(method):
    result, iterates, points = drive(solver(method, Bounds(X0, X0)), rosenbrock)
    assert len(points) == 1 and iterates == []
    assert result.success and result.message.startswith("Converged: the bounds leave every weight")
    np.testing.assert_array_equal(result.x, X0)


CONSTRAINTS = {
    "linear": LinearConstraint(np.ones((1, 4)), 1.0, 1.0),
    "nonlinear": NonlinearConstraint(lambda x: x.sum(), 1.0, 1.0, jac=lambda x: np.ones((1, 4))),
    "dict": {"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": lambda x: np.ones(4)},
    "with hessian": NonlinearConstraint(
        lambda x: x.sum(), 1.0, 1.0, jac=lambda x: np.ones((1, 4)), hess=lambda x, v: np.zeros((4, 4))
    ),
}


@pytest.mark.filterwarnings("ignore:delta_grad|Constraint option")  # scipy's, of linear constraints and of `hess`
@pytest.mark.parametrize("kind", CONSTRAINTS)
@pytest.mark.parametrize("method", CONSTRAINED, ids=lambda method: method.name)
def test_constraints_see_all_weights(method, kind):
    """The quadratic with scales 1 and 3 under a + b = 1.5: a = 1.125, b = 0.375."""
    if method.name == "COBYLA" and not COBYLA_TAKES_EQUALITIES:
        pytest.skip("COBYLA takes equalities since scipy 1.16")
    options = {"tol": 1e-8} if method.name == "COBYLA" else {}
    result, *_ = drive(
        solver(method, constraints=[CONSTRAINTS[kind]], options=options),
        quadratic,
        lambda x: np.diag(np.arange(1.0, 5)),
    )
    np.testing.assert_allclose(result.x, [1.125, 0.5, 0.375, -1.0], atol=1e-4)


def test_options_over_all_weights_keep_the_free_ones():
    method = METHODS["powell"]
    result, *_ = drive(solver(method, options={"direc": np.eye(4)[[2, 1, 0, 3]]}), rosenbrock)
    assert result.fun < rosenbrock(X0)[0]


def test_closing_closes_the_inner_solver():
    closed = []

    def make(x0, *_):
        try:
            yield Iterate(x0)
        finally:
            closed.append(True)

    outer = in_own_variables(make, X0, BOUNDS, [], {}, True)
    assert next(outer).x.shape == (4,)
    outer.close()
    assert closed == [True]


@pytest.mark.parametrize("method", [method.name for method in BOUNDED])
def test_in_a_fit(method):
    x, y = regression()
    model = compiled(
        linear(kernel_initializer="ones"),
        kormos_opt.ScipyBatchOptimizer(method=method, bounds={"bias": (0.25, 0.25)}, precision="float64"),
    )
    history = model.fit(x, y, epochs=3, verbose=0).history
    assert len(history["loss"]) >= 1
    assert float(model.layers[0].bias.numpy()[0]) == 0.25
    assert model.optimizer.result.x.shape == (5,)
    if METHODS[method.lower()].derivatives != "none":
        assert model.optimizer.result.jac.shape == (5,)


def test_fewer_evaluations_without_derivatives():
    """COBYQA builds its first model from 2 n + 1 evaluations, of the free weights now."""
    method = METHODS["cobyqa"]
    counts = []
    for bounds in (BOUNDS, Bounds(BOUNDS.lb, BOUNDS.ub + 1e-3)):
        counts.append(len(drive(solver(method, bounds), rosenbrock)[2]))
    assert counts[0] < counts[1]
