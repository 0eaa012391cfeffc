"""One run of a solver: answers its requests with evaluations, one iteration at a time.

While the solver computes, BLAS is held to one thread: idle OpenBLAS workers go on spinning for a while on the cores
that TensorFlow needs for the next evaluation, which can double its time (scipy issues 22438 and 23191).
"""

import functools
from collections.abc import Callable

import numpy as np
import threadpoolctl
from scipy.optimize import OptimizeResult

from kormos_opt.objective import Evaluation
from kormos_opt.solvers.base import Iterate, Solver


class SolverRun:
    """A solver between its first request and its result.

    Args:
        solver: The solver, not started.

    Attributes:
        accepted: The evaluation at the last accepted iterate, at first the starting point. `None` before the first.
        latest: The last evaluation; the model's weights are at its `x`.
        nit: Accepted iterates.
        nfev: Evaluations of f and its gradient.
        gradient_norm: The 2-norm of the gradient at the last accepted iterate.
        result: The solver's `OptimizeResult` once it has ended, else `None`.
    """

    def __init__(self, solver: Solver):
        self._solver = solver
        self._request = None
        self.accepted = self.latest = self.result = None
        self.nit = self.nfev = 0
        self.gradient_norm = None

    def iterate(self, evaluate: Callable[[np.ndarray], Evaluation]) -> bool:
        """Runs to the next iterate and on to the request behind it, where a solver that has converged ends.

        Args:
            evaluate: Gives the evaluation at a point.

        Returns:
            Whether there was a next iterate; if not, the solver has ended without one.

        Raises:
            ValueError: If f or its gradient is not finite at the starting point.
        """
        if self._request is None:
            self._send(None)
        if self._accept_if_iterate():
            return True
        while self.result is None:
            self.latest = evaluate(self._request.x)
            self.nfev += 1
            if self.accepted is None:
                _check_finite(self.latest)
            with _one_blas_thread():
                if self.accepted is None:
                    self._accept_latest()
                self._send((self.latest.fun, self.latest.jac))
                if self._accept_if_iterate():
                    return True
        return False

    def interrupted(self, what_next: str) -> OptimizeResult:
        """A result for a run that did not end by itself."""
        return OptimizeResult(
            x=self.accepted.x,
            fun=self.accepted.fun,
            jac=self.accepted.jac,
            nit=self.nit,
            nfev=self.nfev,
            njev=self.nfev,
            success=False,
            status=1,
            message=(
                f"Suspended after {self.nit} iterations, not converged: the gradient's norm is "
                f"{self.gradient_norm:.3g}. {what_next}"
            ),
        )

    def close(self) -> None:
        """Ends the solver and frees what it holds."""
        self._solver.close()

    def _accept_if_iterate(self):
        if self.result is not None or not isinstance(self._request, Iterate):
            return False
        self._accept_latest()
        self.nit += 1
        self._send(None)
        return True

    def _accept_latest(self):
        self.accepted = self.latest
        self.gradient_norm = float(np.linalg.norm(self.latest.jac))

    def _send(self, answer):
        try:
            self._request = self._solver.send(answer)
        except StopIteration as end:
            self.result = end.value


def _one_blas_thread():
    return _blas().limit(limits=1)


@functools.cache
def _blas():
    """The BLAS libraries of numpy and scipy. Finding them takes 6 ms."""
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def _check_finite(start):
    if not np.isfinite(start.fun):
        raise ValueError(
            "Expected a finite loss at the starting point. "
            f"Received: loss={start.fun}. Look for NaN or inf in the data or the weights, or start from other weights."
        )
    if not np.isfinite(start.jac).all():
        raise ValueError(
            "Expected a finite gradient at the starting point. "
            f"Received: {np.count_nonzero(~np.isfinite(start.jac))} entries of {start.jac.size} that are NaN or inf. "
            "Look for a square root or a logarithm at 0 in the model or its loss, or start from other weights."
        )
