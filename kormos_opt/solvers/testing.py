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
    Request,
    Solver,
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
    iterates, points, reply = [], [], None
    while True:
        try:
            request = solver.send(reply)
        except StopIteration as end:
            return Driven(end.value, iterates, points)
        if isinstance(request, Iterate):
            iterates.append(request.x)
        elif isinstance(request, (EvaluateWithGradient, EvaluateValue)):
            points.append(request.x)
        reply = answer(request, fun, hessian)


def answer(request: Request, fun: Callable, hessian: Callable | None = None):
    """The answer to one request, see `drive`."""
    if isinstance(request, Iterate):
        return None
    if isinstance(request, HessianProduct):
        matrix = hessian(request.x)
        return matrix @ request.p if request.p.ndim == 1 else request.p @ matrix
    if isinstance(request, EvaluateWithGradient):
        return fun(request.x)
    if isinstance(request, EvaluateValue):
        return fun(request.x)[0]
    raise unknown_request(request)
