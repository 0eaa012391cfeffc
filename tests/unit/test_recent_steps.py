"""The bound for the smallest curvature of a quadratic, from steps alone."""

import numpy as np
import pytest

from kormos_opt.solvers.recent_steps import FEW, RecentSteps

EPS = float(np.finfo("float64").eps)


def steps_of(hessian, count, rng, noise=0.0):
    steps = RecentSteps.none(len(hessian))
    for _ in range(count):
        s = rng.normal(size=len(hessian)) * 10.0 ** rng.uniform(-4, 0)
        steps.add(s, hessian @ s + noise * rng.normal(size=s.size))
    return steps


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_above_the_smallest_eigenvalue(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, FEW + 1))
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = 10.0 ** rng.uniform(-6, 3, n)
    hessian = basis * values @ basis.T
    bound = steps_of(hessian, 3 * n, rng).smallest_curvature(1.0, EPS)
    assert bound <= values.min() * (1 + 1e-6)
    if np.ptp(np.log10(values)) < 3:
        assert bound > 1e-3 * values.min()


@pytest.mark.parametrize("seed", range(20))
def test_rounding_of_the_gradient_is_no_curvature(seed):
    """Noise as large as the change along the flat direction would look like curvature."""
    rng = np.random.default_rng(seed)
    hessian, resolution = np.diag([1.0, 1e-12]), 1e-7
    steps = steps_of(hessian, 4, rng, noise=resolution)
    assert steps.smallest_curvature(1.0, resolution) <= 1e-4


@pytest.mark.parametrize(("n", "count"), [(3, 2), (FEW + 1, 40)], ids=["too few steps", "too many weights"])
def test_where_the_steps_do_not_span_all_weights_nothing_is_known(n, count):
    assert steps_of(np.eye(n), count, np.random.default_rng(0)).smallest_curvature(1.0, EPS) == 0


def test_steps_of_length_zero_say_nothing():
    steps = RecentSteps.none(2)
    for s in (np.zeros(2), np.array([1.0, 0.0]), np.zeros(2), np.zeros(2)):
        steps.add(s, np.ones(2))
    assert steps.smallest_curvature(1.0, EPS) == 0
