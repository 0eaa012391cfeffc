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

Under constraints the steps stay where the equalities do not change, to first order. A constraint that ends such a step
is kept equal too, and the next step is looked for (an active-set method: Nocedal and Wright, section 16.5). What counts
is then the Lagrange function, so that a step along a curved constraint is judged by its tangent.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from scipy.optimize import Bounds, OptimizeResult

from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct, Request
from kormos_opt.solvers.linearized import ActiveSet, Linearized

_PROBES = 5
_STEPS = 10  # of conjugate gradients
_SMALLEST = 1e-3  # a factor of the diagonal, in one probe
_ARMIJO = 1e-4
_COMPLETE = 1e-4  # of the gain, in one step: the others would add no more
_LENGTHS = 1.0, 0.25, 0.0625
_KEPT = 0.1  # of the predicted gain: enough to believe the step
_SHORTER = 0.25 ** np.arange(16)  # of a step down the gradient
_ROUNDS = 6  # of constraints that are kept equal
_NEAR = 1e-6  # of the largest weight: at a bound
PRODUCTS = _PROBES + _STEPS
"""Hessian products at most, for each set of constraints that is looked at."""
EVALUATIONS = 1 + len(_LENGTHS) + len(_SHORTER)
"""Evaluations at most, likewise."""


def remaining_gain(
    x: np.ndarray, bounds: Bounds | None = None, constraints: Linearized | None = None
) -> Generator[Request, Any, Any]:
    """Looks for a better point near `x`, which may be the end of a run.

    Args:
        x: The point, float64 of shape `(n,)`, between the bounds.
        bounds: Weights at a bound that the gradient pushes against stay there. Defaults to `None`.
        constraints: At `x`, the bounds among them. Defaults to `None`: there are none beside the bounds.

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
    lower, upper = (-np.inf, np.inf) if bounds is None else (bounds.lb, bounds.ub)
    near = 0.0 if constraints is None else _NEAR * np.abs(x).max()
    is_low, is_high = x <= lower + near, x >= upper - near
    slope = jac
    if constraints is not None and np.isfinite(jac).all():
        slope = constraints.reduced(jac, ~(is_low | is_high))
    is_free = ~((is_low & (slope > 0)) | (is_high & (slope < 0)))
    best, products, has_curvature = OptimizeResult(x=x, fun=fun, gain=0.0), 0, True
    gradient = np.where(is_free, jac, 0.0)
    if np.isfinite(fun) and np.isfinite(jac).all() and gradient.any():
        diagonal, has_curvature = yield from _diagonal(x, is_free)
        kept, products = ActiveSet(constraints, gradient, is_free, np.sqrt(diagonal)), _PROBES
        for _ in range(_ROUNDS):
            found, count, ends = yield from _along_tangent(
                x, fun, gradient, is_free, bounds if constraints is None else None, kept
            )
            products += count
            best = found if found.gain > best.gain else best
            if ends is None:
                break
            kept.add(ends)
    best.update(nhev=products, is_blind=not (has_curvature or best.gain))
    return best


def _along_tangent(x, fun, gradient, is_free, bounds, kept):
    """The best point along two steps, how many products they took, and the constraint that ends both, if there is."""
    best, ends = OptimizeResult(x=x, fun=fun, gain=0.0), None
    step, predicted, count = yield from _newton_step(x, gradient, is_free, kept)
    if predicted > 0:
        limit, ends = kept.longest(step)
        best = yield from _lower(x, fun, step, limit * np.array(_LENGTHS), _KEPT * predicted, bounds, kept)
    if not best.gain:
        down = -kept.tangent(gradient / kept.root) / kept.root
        limit, ends_here = kept.longest(down)
        ends = ends_here if ends is None else ends
        best = yield from _lower(x, fun, down, limit * _SHORTER, -_ARMIJO * (gradient @ down), bounds, kept)
    return best, count, ends


def _lower(x, fun, step, lengths, expected, bounds, kept):
    """The first point along a step that lowers f by as much as is expected of it, else `x` with a gain of 0."""
    for length in lengths if lengths[0] > 0 else ():
        point = x + length * step
        point = point if bounds is None else np.clip(point, bounds.lb, bounds.ub)
        value = kept.lagrange((yield EvaluateValue(point)), point)
        if value < fun - length * expected:
            return OptimizeResult(x=point, fun=value, gain=fun - value)
    return OptimizeResult(x=x, fun=fun, gain=0.0)


def _newton_step(x, gradient, is_free, kept):
    """The step, the gain that the quadratic model predicts, and how many products it took."""
    root = kept.root
    step, residual = np.zeros_like(x), kept.tangent(-gradient / root)  # in scaled variables
    direction, size, gain, count = residual, residual @ residual, 0.0, 0
    for _ in range(_STEPS if size > 0 else 0):
        product = kept.tangent(np.where(is_free, (yield HessianProduct(x, direction / root)), 0.0) / root)
        count += 1
        curvature = direction @ product
        if not (np.isfinite(curvature) and curvature > 0):
            break
        length = size / curvature
        step, residual = step + length * direction, residual - length * product
        gain += length * size / 2
        if length * size / 2 <= _COMPLETE * gain:
            break
        size, before = residual @ residual, size
        if not size > 0:
            break
        direction = residual + size / before * direction
    return step / root, gain, count


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
