"""The contract between a solver and whoever evaluates the objective for it.

A solver is a generator. It yields a request and is sent the answer:

    EvaluateWithGradient(x)     f and its gradient
    EvaluateValue(x)            f alone, for solvers without derivatives
    HessianProduct(x, p)        the Hessian times p
    Iterate(x)                  says that x is the next iterate

and, where f is a sum of squares:

    Residuals(x)                what is squared and added up
    Jacobian(x)                 their derivatives
    JacobianProduct(x, p)       the Jacobian times p
    TransposedProduct(x, r)     the transposed Jacobian times r

It ends by returning a `scipy.optimize.OptimizeResult`. Between two requests it is suspended and costs nothing, so one
iteration can be one Keras epoch. Closing the generator frees all that it holds.
"""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import numpy as np


class ArraySpec(NamedTuple):
    """What an array or a variable is like that a solver keeps what it knows in.

    Attributes:
        shape: Its shape.
        dtype: Its dtype. `None` is the precision of the objective: float32 for the weights of most models, float64
            with `precision="float64"`. Defaults to `"float64"`.
    """

    shape: tuple[int, ...]
    dtype: str | None = "float64"


class EvaluateWithGradient(NamedTuple):
    """Asks for `(fun, jac)` at `x`: a float and a float64 array of shape `(n,)`."""

    x: np.ndarray


class EvaluateValue(NamedTuple):
    """Asks for `fun` at `x`, a float."""

    x: np.ndarray


class HessianProduct(NamedTuple):
    """Asks for the Hessian at `x` times every row of `p`, of shape `(n,)` or `(k, n)`: float64 of the shape of `p`."""

    x: np.ndarray
    p: np.ndarray


class Residuals(NamedTuple):
    """Asks for the residuals at `x`, float64 of shape `(m,)`. Their sum of squares is f."""

    x: np.ndarray


class Jacobian(NamedTuple):
    """Asks for the derivatives of the residuals at `x`, float64 of shape `(m, n)`."""

    x: np.ndarray


class JacobianProduct(NamedTuple):
    """Asks for the Jacobian at `x` times `p` of shape `(n,)`: float64 of shape `(m,)`."""

    x: np.ndarray
    p: np.ndarray


class TransposedProduct(NamedTuple):
    """Asks for the transposed Jacobian at `x` times `r` of shape `(m,)`: float64 of shape `(n,)`."""

    x: np.ndarray
    r: np.ndarray


class Iterate(NamedTuple):
    """Says that `x` is the next iterate. Its answer is `None`."""

    x: np.ndarray


OfResiduals = Residuals | Jacobian | JacobianProduct | TransposedProduct
Request = EvaluateWithGradient | EvaluateValue | HessianProduct | OfResiduals | Iterate
Solver = Generator[Request, Any, Any]  # it returns an OptimizeResult of scipy, which solvers in the graph do not import


def run_to_end(solver: Generator, reply: Callable[[Request], Any]) -> Any:
    """What a solver returns, once all of its requests are answered.

    Args:
        solver: The solver, or a part of one.
        reply: Called with a request. Returns the answer.
    """
    answer = None
    while True:
        try:
            request = solver.send(answer)
        except StopIteration as end:
            return end.value
        answer = reply(request)


def unknown_request(request: object) -> TypeError:
    """The error for what is none of the requests above."""
    return TypeError(
        "Expected a solver that yields EvaluateWithGradient, EvaluateValue, HessianProduct, Iterate, or the requests "
        "of least squares. "
        f"Received: {request!r}. See kormos_opt.solvers.base."
    )


class Evaluated(Protocol):
    """An evaluation that has been made.

    Attributes:
        x: The point, float64 of shape `(n,)`.
        fun: f there.
        jac: Its gradient, or `None` where it was not asked for.
    """

    @property
    def x(self) -> np.ndarray: ...

    @property
    def fun(self) -> float: ...

    @property
    def jac(self) -> np.ndarray | None: ...


class RecentEvaluations:
    """The evaluations that an iterate can be the point of: the latest, the best, and that of the last iterate.

    Line searches accept their last point, direct searches their best, trust regions may stay where they are.
    """

    def __init__(self):
        self._latest = self._best = self._iterate = None

    def add(self, evaluation: Evaluated) -> None:
        """Takes an evaluation."""
        self._latest = evaluation
        if self._best is None or evaluation.fun < self._best.fun:
            self._best = evaluation

    def accept(self, evaluation: Evaluated) -> None:
        """Takes the evaluation of an iterate, from which the next best is counted."""
        self._iterate = self._best = evaluation

    def at(self, x: np.ndarray, gradient: bool = False):
        """The evaluation at exactly `x`, or `None`.

        Args:
            x: The point.
            gradient: Whether only one with a gradient will do. Defaults to `False`.
        """
        for evaluation in (self._latest, self._iterate, self._best):
            is_there = evaluation is not None and np.array_equal(evaluation.x, x)
            if is_there and (evaluation.jac is not None or not gradient):
                return evaluation
        return None
