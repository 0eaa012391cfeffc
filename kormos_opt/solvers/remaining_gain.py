"""How much of f is left to gain at a point: a certificate of convergence that costs about thirty gradients.

    s ~ -H^-1 g,    gain = f(x) - f(x + s)

s comes from a few steps of conjugate gradients on exact Hessian products, so it is a truncated Newton step (Nocedal and
Wright, Numerical Optimization, 2006, section 7.1), and the gain that the quadratic model predicts is half of Newton's
decrement (Boyd and Vandenberghe, Convex Optimization, 2004, section 9.5.1). What counts is what f shows: a prediction
that f does not keep at x + s, nor at a quarter or a sixteenth of s, is no gain. Then, and where there is no positive
curvature, ever shorter steps down the gradient are tried.

The conjugate gradients are preconditioned with a diagonal that makes the rows of H alike, from a few products with
random signs (after Bradley and Murray, Matrix-free approximate equilibration, 2011). Without it ten steps see next to
nothing where the weights are of unlike units.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct, Request

_PROBES = 5
_STEPS = 10  # of conjugate gradients
_SMALLEST = 1e-3  # a factor of the diagonal, in one probe
_ARMIJO = 1e-4
_COMPLETE = 1e-4  # of the gain, in one step: the others would add no more
_LENGTHS = 1.0, 0.25, 0.0625
_KEPT = 0.1  # of the predicted gain: enough to believe the step
_SHORTER = 0.25 ** np.arange(16)  # of a step down the gradient
PRODUCTS = _PROBES + _STEPS
"""Hessian products at most."""


def remaining_gain(x: np.ndarray, bounds: Bounds | None = None) -> Generator[Request, Any, Any]:
    """Looks for a better point near `x`, which may be the end of a run.

    Args:
        x: The point, float64 of shape `(n,)`, between the bounds.
        bounds: Weights at a bound that the gradient pushes against stay there. Defaults to `None`.

    Yields:
        Requests, to be answered in double precision.

    Returns:
        A result whose `x` and `fun` are those of the best point, `gain` what f gains there, 0 where `x` is the best,
        `nhev` the products, and `is_blind`: whether all second derivatives are zero and no better point was found.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.remaining_gain import remaining_gain
    >>> from kormos_opt.solvers.testing import drive
    >>> hessian = np.diag([2.0, 2e8])
    >>> found = drive(remaining_gain(np.ones(2)), lambda x: (x @ hessian @ x / 2, hessian @ x), lambda x: hessian)
    >>> round(float(found.result.gain))
    100000001
    """
    fun, jac = yield EvaluateWithGradient(x)
    is_free = np.ones(x.size, bool)
    if bounds is not None:
        is_free = ~(((x <= bounds.lb) & (jac > 0)) | ((x >= bounds.ub) & (jac < 0)))
    best, products, has_curvature = OptimizeResult(x=x, fun=fun, gain=0.0), 0, True
    gradient = np.where(is_free, jac, 0.0)
    if np.isfinite(fun) and np.isfinite(jac).all() and gradient.any():
        diagonal, has_curvature = yield from _diagonal(x, is_free)
        step, predicted, products = yield from _newton_step(x, gradient, is_free, diagonal)
        best = (yield from _lower(x, fun, step, _LENGTHS, _KEPT * predicted, bounds)) if predicted > 0 else best
        if not best.gain:
            down = -gradient / diagonal
            best = yield from _lower(x, fun, down, _SHORTER, -_ARMIJO * (gradient @ down), bounds)
    best.update(nhev=products, is_blind=not (has_curvature or best.gain))
    return best


def _lower(x, fun, step, lengths, expected, bounds):
    """The first point along a step that lowers f by as much as is expected of it, else `x` with a gain of 0."""
    for length in lengths:
        point = x + length * step
        point = point if bounds is None else np.clip(point, bounds.lb, bounds.ub)
        value = yield EvaluateValue(point)
        if value < fun - length * expected:
            return OptimizeResult(x=point, fun=value, gain=fun - value)
    return OptimizeResult(x=x, fun=fun, gain=0.0)


def _newton_step(x, gradient, is_free, diagonal):
    """The step, the gain that the quadratic model predicts, and how many products it took."""
    step, residual = np.zeros_like(x), -gradient
    direction = scaled = residual / diagonal
    size, gain, count = residual @ scaled, 0.0, 0
    for _ in range(_STEPS):
        product = np.where(is_free, (yield HessianProduct(x, direction)), 0.0)
        count += 1
        curvature = direction @ product
        if not (np.isfinite(curvature) and curvature > 0):
            break
        length = size / curvature
        step, residual = step + length * direction, residual - length * product
        gain += length * size / 2
        if length * size / 2 <= _COMPLETE * gain:
            break
        scaled = residual / diagonal
        size, before = residual @ scaled, size
        if not size > 0:
            break
        direction = scaled + size / before * direction
    return step, gain, _PROBES + count


def _diagonal(x, is_free):
    """A scaling, and whether there is any curvature."""
    rng, diagonal = np.random.default_rng(0), np.ones_like(x)
    for _ in range(_PROBES):
        root = np.sqrt(diagonal)
        signs = rng.choice([-1.0, 1.0], x.size)
        product = yield HessianProduct(x, np.where(is_free, signs / root, 0.0))
        rows = np.abs(np.nan_to_num(product, posinf=0.0, neginf=0.0)) / root
        largest = rows.max()
        diagonal = diagonal * np.maximum(rows, _SMALLEST * largest) if largest > 0 else diagonal
    return diagonal, bool((diagonal != 1).any())
