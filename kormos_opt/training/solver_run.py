"""One run of a solver: has its requests answered, one iteration at a time.

While the solver computes, BLAS is held to one thread: idle OpenBLAS workers go on spinning for a while on the cores
that TensorFlow needs for the next evaluation, which can double its time (scipy issues 22438 and 23191).
"""

import functools
import inspect
import threading
from typing import Protocol

import numpy as np
import threadpoolctl

from kormos_opt.evaluation import Evaluation
from kormos_opt.solvers.base import Evaluate, HessianProduct, Iterate, RecentEvaluations, Solver, Value
from kormos_opt.solvers.endings import SHORT_STEPS
from kormos_opt.training.run import Run


class Answers(Protocol):
    """Who answers requests, at points of shape `(n,)` in float64."""

    def evaluate(self, x: np.ndarray, gradient: bool) -> Evaluation:
        """f at `x`, with its gradient or without."""

    def products(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Hessian at `x` times every row of `p`."""

    def check_start(self, evaluation: Evaluation) -> None:
        """Raises `ValueError` if a run cannot start from this evaluation."""


_SMALL_GRADIENT = 1e-3  # of the smaller one of f and the gradient at the start, or below it in absolute terms


class SolverRun(Run):
    """A solver between its first request and its result.

    Args:
        solver: The solver, not started.
        answers: Who answers its requests.
        start: The evaluation at the starting point, if it is known. Defaults to `None`.
        before: The run that this one goes on from, whose counts go on too. Defaults to `None`.
    """

    def __init__(self, solver: Solver, answers: Answers, start: Evaluation | None = None, before: "Run | None" = None):
        super().__init__()
        self._solver = solver
        self._answers = answers
        self._request = None
        self._evaluations = RecentEvaluations()
        self._before = {}
        if before is not None:
            self.nit, self.nfev, self.nhev = before.nit, before.nfev, before.nhev
            self._before = {"nit": before.nit, "nfev": before.nfev, "njev": before.nfev, "nhev": before.nhev}
        if start is not None:
            self.nfev += 1
            self.position = start.x
            self._begin(start)

    def awaited(self) -> Evaluate | Value | None:
        """The evaluation that the solver waits for, unless it is known already."""
        if self._request is None:
            self._send(None)
        is_evaluation = self.result is None and isinstance(self._request, (Evaluate, Value))
        return self._request if is_evaluation and self._evaluations.at(self._request.x) is None else None

    def iterate(self) -> bool:
        """Runs to the next iterate and on to the request behind it, where a solver that has converged ends."""
        moved = self._run_to_iterate()
        if self.result is not None:
            if not np.array_equal(self.result.x, self.accepted.x):
                moved = self._accept(self.result.x) or moved
            self._settle()
        return moved

    def _run_to_iterate(self):
        if self._request is None:
            self._send(None)
        if self._accept_if_iterate():
            return True
        while self.result is None:
            answer = self._answer(self._request)
            with _one_blas_thread:
                self._send(answer)
                if self._accept_if_iterate():
                    return True
        return False

    def close(self) -> None:
        """Ends the solver and frees what it holds."""
        self._solver.close()

    def survives_interrupt(self) -> bool:
        """Unless it was the solver itself that was interrupted: its generator is closed then."""
        is_alive = inspect.getgeneratorstate(self._solver) != inspect.GEN_CLOSED
        return is_alive and self.accepted is not None and self.result is None

    def _answer(self, request):
        if isinstance(request, HessianProduct):
            self.position = request.x
            self.nhev += len(np.atleast_2d(request.p))
            return self._answers.products(request.x, request.p)
        evaluation = self._evaluations.at(request.x)
        if evaluation is None:
            evaluation = self._evaluate(request.x, gradient=isinstance(request, Evaluate))
        return evaluation.fun if isinstance(request, Value) else (evaluation.fun, evaluation.jac)

    def _evaluate(self, x, gradient):
        evaluation = self._answers.evaluate(x, gradient)
        self.position = x
        self.nfev += 1
        if self.accepted is None:
            self._answers.check_start(evaluation)
            self._begin(evaluation)
        self._evaluations.add(evaluation)
        return evaluation

    def _accept_if_iterate(self):
        if self.result is not None or not isinstance(self._request, Iterate):
            return False
        if self._accept(self._request.x):
            self._send(None)
            return True
        return False

    def _accept(self, x):
        """Most solvers accept a point where they have just been; the others are followed there. Not to NaN, though."""
        evaluation = self._evaluations.at(x)
        if evaluation is None:
            evaluation = self._evaluate(x, gradient=self.accepted.jac is not None)
        if not (np.isfinite(evaluation.fun) and (evaluation.jac is None or np.isfinite(evaluation.jac).all())):
            self.result = self.outcome(False, 3, _WALKED_INTO_NAN)
            return False
        self._take(evaluation)
        self.nit += 1
        return True

    def _begin(self, evaluation):
        self._take(evaluation)
        self._first_largest = 0.0 if evaluation.jac is None else float(np.abs(evaluation.jac).max())

    def _take(self, evaluation):
        if evaluation is not self.accepted:
            self._evaluations.accept(evaluation)
            self.accepted = evaluation
            if evaluation.jac is not None:
                self.gradient_norm = float(np.linalg.norm(evaluation.jac))

    def _settle(self):
        """Makes the result that of the last accepted iterate, where the weights are."""
        result, accepted = self.result, self.accepted
        rests_on_step = result.pop("rests_on_step", False)
        result.update(x=accepted.x, fun=accepted.fun)
        result.update({name: result[name] + count for name, count in self._before.items() if name in result})
        if accepted.jac is not None:
            result.jac = accepted.jac
            largest = np.abs(accepted.jac).max()
            scale = max(1.0, min(abs(accepted.fun), self._first_largest))
            if rests_on_step and largest > _SMALL_GRADIENT * scale:
                result.update(success=False, status=2, message=SHORT_STEPS.format(self.gradient_norm))

    def _send(self, answer):
        try:
            self._request = self._solver.send(answer)
        except StopIteration as end:
            self.result = end.value


_WALKED_INTO_NAN = (
    "Stopped: the method accepts a point where the loss is NaN or infinite; the weights are those before it. Keep the "
    "weights away from there with bounds=, or take a method that backs off, such as L-BFGS-B"
)


class _OneBlasThread:
    """Inside, BLAS has one thread. It is a setting of the whole process: the last run that leaves puts it back."""

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._limiter = None

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._limiter = _blas().limit(limits=1)
            self._inside += 1

    def __exit__(self, *_):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limiter.restore_original_limits()


_one_blas_thread = _OneBlasThread()


@functools.cache
def _blas():
    """The BLAS libraries of numpy and scipy. Finding them takes 6 ms."""
    return threadpoolctl.ThreadpoolController().select(user_api="blas")
