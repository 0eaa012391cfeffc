"""What every solver is given on top: an end where rounding hides all progress, a way back from NaN, arrays of its own.

Both look only at the requests and answers that pass by, so they serve any solver.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kormos_opt.solvers.base import (
    Evaluated,
    EvaluateValue,
    EvaluateWithGradient,
    HessianProduct,
    Iterate,
    RecentEvaluations,
    Solver,
    unknown_request,
)
from kormos_opt.solvers.numerics import NEGLIGIBLE_FACTOR, finite_stand_in, is_hidden
from kormos_opt.solvers.termination import TerminationReason, words_of

_HUGE = 1e100


def safeguard(
    solver: Solver, dtype: str = "float64", resolution: float | None = None, iterate: Evaluated | None = None
) -> Solver:
    """Passes requests through, ends at the resolution of f, and backs off from points where f is not finite.

    **Resolution.** Between an iterate x and the first trial point x + d after it the loss changes by about
    `|jac @ d|`, twice the Newton decrement's estimate of what is left to gain (Boyd and Vandenberghe, Convex
    Optimization, section 9.5.1). Once that is below `resolution * |fun|`, no line search can see the change
    in an f of that precision: the solver is closed as converged instead of burning its evaluations. The same where
    there is little left to gain and the line search asks for two points in a row that f cannot tell apart.

    **Not finite.** A trial point with NaN or inf is answered as `numerics.finite_stand_in` says. Solvers without
    derivatives are told a value above all others. A request at a point that is not finite itself ends the run at the
    last iterate: no answer could help a method whose own step is NaN.

    **Arrays.** Requests are copies of the solver's arrays and answers are copies for it, so it may change both.

    Args:
        solver: The solver to watch over. It is closed with this one.
        dtype: Name of the precision f is computed in, for the message.
        resolution: Relative resolution of f, such as `numpy.finfo("float32").eps`. Defaults to `None`: no such end.
        iterate: The evaluation at the iterate from which the solver goes on. Defaults to `None`: it begins.

    Returns:
        A solver.
    """
    evaluations = RecentEvaluations()
    nit = nfev = 0
    worst = -np.inf
    watch = None  # over the trial points of an iteration whose first point is known
    if iterate is not None:
        evaluations.accept(iterate)
        watch = None if resolution is None else _Watch(iterate, resolution)
    answer = x = None
    try:
        while True:
            try:
                request = solver.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if not isinstance(request, tuple) or not hasattr(request, "x"):
                raise unknown_request(request)
            request = _own(request, None if x is None else x.shape)
            if x is not None and not all(np.isfinite(part).all() for part in request):
                return TerminationReason.NEXT_STEP_IS_NAN.result(x=x, nit=nit, nfev=nfev, njev=nfev)
            if x is None or isinstance(request, Iterate):
                x = request.x
            if isinstance(request, Iterate):
                nit += 1
                accepted = evaluations.at(request.x)
                watch = None
                if accepted is not None:
                    iterate = accepted
                    evaluations.accept(accepted)
                    watch = None if resolution is None else _Watch(iterate, resolution)
            elif watch is not None and isinstance(request, EvaluateWithGradient) and watch.sees_the_end_at(request.x):
                return _converged(iterate, nit, nfev, dtype)
            answer = yield request
            if isinstance(request, EvaluateWithGradient):
                nfev += 1
                fun, jac = answer
                if not (np.isfinite(fun) and np.isfinite(jac).all()):
                    fun, jac = answer = _stand_in(request.x, iterate)
                    watch = None  # the points that follow are close to each other because of the stand-in
                evaluations.add(_Point(request.x, fun, jac))
                if iterate is None:
                    iterate = evaluations.at(request.x)
                answer = fun, np.array(jac)
            elif isinstance(request, EvaluateValue):
                worst = max(worst, answer) if np.isfinite(answer) else worst
                answer = answer if np.isfinite(answer) else worst + abs(worst) + 1
            elif isinstance(request, HessianProduct) and not np.isfinite(answer).all():
                answer = yield from _scaled(request)
    finally:
        solver.close()


def _own(request, shape):
    """A copy of a request, in float64.

    Raises:
        ValueError: For a point of another shape than the first one.
    """
    request = request._replace(**{name: np.array(value, "float64") for name, value in request._asdict().items()})
    if shape is not None and request.x.shape != shape:
        raise ValueError(
            f"Expected a solver that asks at points of shape {shape}. Received: a request at shape {request.x.shape}."
        )
    return request


def _scaled(request):
    """The product with `p / |p|`, times `|p|`: a long vector overflows in float32.

    Raises:
        ValueError: If that is not finite either.
    """
    length = np.linalg.norm(request.p, axis=-1, keepdims=True)
    length = np.where(length == 0, 1.0, length)
    product = length * (yield HessianProduct(request.x, request.p / length))
    if not np.isfinite(product).all():
        raise ValueError(
            "Expected finite second derivatives. Received: a Hessian-vector product with "
            f"{np.count_nonzero(~np.isfinite(product))} entries of {product.size} that are NaN or inf. "
            "Look for a square root, a norm or a power at 0 in the model or its loss, or take a method that "
            "needs only gradients, such as L-BFGS-B."
        )
    return product


class _Point(NamedTuple):
    x: np.ndarray
    fun: float
    jac: np.ndarray


class _Watch:
    """Over the trial points of one iteration: whether f can show what they change."""

    def __init__(self, iterate, resolution):
        self._jac = iterate.jac
        self._fun = iterate.fun
        self._resolution = resolution
        self._last = iterate.x
        self._first_change = None

    def sees_the_end_at(self, x):
        if np.array_equal(x, self._last):
            return False
        change = abs(self._jac @ (x - self._last))
        self._last = x
        if self._first_change is None:
            self._first_change = change
        return is_hidden(change, self._fun, self._resolution) and is_hidden(
            self._first_change, self._fun, self._resolution, NEGLIGIBLE_FACTOR
        )


def _converged(iterate, nit, nfev, dtype):
    message = TerminationReason.RESOLUTION.message(**words_of(dtype))
    return TerminationReason.RESOLUTION.result(
        x=iterate.x, fun=iterate.fun, jac=iterate.jac, nit=nit, nfev=nfev, njev=nfev, message=message
    )


def _stand_in(x, iterate):
    with np.errstate(over="ignore", invalid="ignore"):  # of steps that are longer than the root of what float64 holds
        step = x - iterate.x
        fun, jac = finite_stand_in(iterate.fun, iterate.jac @ step, step, step @ step)
    return float(np.nan_to_num(fun, nan=_HUGE, posinf=_HUGE)), np.nan_to_num(jac, posinf=_HUGE, neginf=-_HUGE)
