"""The certificate of convergence on functions of numpy: what is left to gain at a point, against closed forms."""

import numpy as np
import pytest
from scipy.optimize import Bounds

from kormos_opt.solvers.linearized import Linearized
from kormos_opt.solvers.remaining_gain import PRODUCTS, remaining_gain
from kormos_opt.solvers.testing import drive
from kormos_opt.training.verdict import LITTLE
from tests.support.constrained import SUMS, X3, Y3, best_under, mean_square

pytestmark = pytest.mark.quick


def quadratic(hessian, x0):
    return lambda x: ((x - x0) @ hessian @ (x - x0) / 2, hessian @ (x - x0))


@pytest.mark.parametrize("power", [0, 4, 8])
def test_the_certificate_on_a_quadratic_of_unlike_curvatures(power):
    """Against the closed form, with few products."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** np.linspace(0, power / 2, 30)
    base = rng.normal(size=(40, 30))
    hessian = scale[:, None] * (base.T @ base / 40 + np.eye(30)) * scale
    x0 = rng.normal(size=30)
    found = drive(remaining_gain(np.zeros(30)), quadratic(hessian, x0), lambda x: hessian).result
    exact = x0 @ hessian @ x0 / 2
    assert exact / 3 <= found.gain <= exact * (1 + 1e-9)
    assert found.nhev <= PRODUCTS
    nothing = drive(remaining_gain(x0), quadratic(hessian, x0), lambda x: hessian).result
    assert nothing.gain == 0 and nothing.nhev == 0


def test_the_certificate_believes_only_what_f_keeps():
    """The second derivative of |x| is 0 where it exists, and no step lowers it at its kink."""
    kink = drive(remaining_gain(np.array([0.0])), lambda x: (abs(x[0]), np.array([1.0])), lambda x: np.zeros((1, 1)))
    assert kink.result.gain == 0
    slope = drive(remaining_gain(np.array([1.0])), lambda x: (abs(x[0]), np.sign(x)), lambda x: np.zeros((1, 1)))
    assert slope.result.gain > 0


def test_the_certificate_stays_between_bounds():
    bounds = Bounds([0.0, -1.0], [1.0, 1.0])
    found = drive(
        remaining_gain(np.array([0.0, 0.0]), bounds), quadratic(np.eye(2), np.array([-5.0, 9.0])), lambda x: np.eye(2)
    )
    np.testing.assert_allclose(found.result.x, [0.0, 1.0])
    for point in found.points:
        assert (point >= bounds.lb).all() and (point <= bounds.ub).all()


@pytest.mark.parametrize("constraint", SUMS)
@pytest.mark.parametrize("bounds", [None, Bounds(np.zeros(3), np.array([0.4, np.inf, np.inf]))])
def test_the_certificate_under_constraints(constraint, bounds):
    """Nothing is left at the optimum; far from it, on the border of what is allowed, something is."""
    hessian = 2 * X3.T @ X3 / len(Y3)

    def gain(x):
        solver = remaining_gain(x, bounds, Linearized([SUMS[constraint]], x, bounds))
        found = drive(solver, mean_square, lambda x: hessian).result
        assert found.nhev <= 6 * PRODUCTS
        return found.gain

    best = best_under(SUMS[constraint], bounds)
    assert gain(best.x) <= LITTLE * best.fun
    elsewhere = np.array([0.3, 0.1, 0.6]) if constraint != "in a ball" else np.array([0.0, 0.3, 0.4])
    assert gain(elsewhere) > 0.1 * (mean_square(elsewhere)[0] - best.fun)
