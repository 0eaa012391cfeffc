"""Runs a solver on a function of numpy, without a model: for the tests of a solver."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt.solvers.base import (
    EvaluateValue,
    EvaluateWithGradient,
    HessianProduct,
    Iterate,
    Jacobian,
    JacobianProduct,
    Request,
    Residuals,
    Solver,
    TransposedProduct,
    run_to_end,
    unknown_request,
)


class Driven(NamedTuple):
    """What a solver did.

    Attributes:
        result: What it returned.
        iterates: The points it said were iterates.
        points: The points it asked f for.
    """

    result: OptimizeResult
    iterates: list[np.ndarray]
    points: list[np.ndarray]


def drive(solver: Solver, fun: Callable, hessian: Callable | None = None) -> Driven:
    """Answers a solver to its end.

    Args:
        solver: The solver.
        fun: Called with x, float64 of shape `(n,)`. Returns f and its gradient.
        hessian: Called with x. Returns the Hessian, of shape `(n, n)`. Defaults to `None`: the solver needs none.

    Raises:
        TypeError: For a request that is none of `solvers/base.py`.

    Example:

    >>> from kormos_opt.solvers.registry import find
    >>> import kormos_opt, numpy as np
    >>> solver = find("L-BFGS-B").start(np.ones(2))
    >>> drive(solver, lambda x: (x @ x, 2 * x)).result.success
    True
    """
    return _driven(solver, lambda request: answer(request, fun, hessian))


def drive_residuals(solver: Solver, residuals: Callable) -> Driven:
    """Answers a solver of least squares to its end.

    Args:
        solver: The solver.
        residuals: Called with x, float64 of shape `(n,)`. Returns the residuals, of shape `(m,)`, and their Jacobian.

    Example:

    >>> from kormos_opt.solvers.registry import find
    >>> import kormos_opt, numpy as np
    >>> solver = find("Levenberg-Marquardt").start(np.ones(2))
    >>> drive_residuals(solver, lambda x: (x - 3, np.eye(2))).result.success
    True
    """

    def reply(request):
        if isinstance(request, Iterate):
            return None
        values, jacobian = residuals(request.x)
        if isinstance(request, JacobianProduct):
            return jacobian @ request.p
        if isinstance(request, TransposedProduct):
            return jacobian.T @ request.r
        return jacobian if isinstance(request, Jacobian) else values

    return _driven(solver, reply)


def _driven(solver, reply):
    iterates, points = [], []

    def noted(request):
        if isinstance(request, Iterate):
            iterates.append(np.array(request.x))
        elif isinstance(request, (EvaluateWithGradient, EvaluateValue, Residuals)):
            points.append(np.array(request.x))
        return reply(request)

    return Driven(run_to_end(solver, noted), iterates, points)


def answer(request: Request, fun: Callable, hessian: Callable | None = None):
    """The answer to one request, see `drive`."""
    if isinstance(request, Iterate):
        return None
    if isinstance(request, HessianProduct) and hessian is not None:
        matrix = hessian(request.x)
        return matrix @ request.p if request.p.ndim == 1 else request.p @ matrix
    if isinstance(request, EvaluateWithGradient):
        return fun(request.x)
    if isinstance(request, EvaluateValue):
        return fun(request.x)[0]
    raise unknown_request(request)
