"""A run of a solver in numpy: has its requests answered, one iteration at a time."""

import inspect
from collections.abc import Mapping

import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.base import (
    EvaluateValue,
    EvaluateWithGradient,
    HessianProduct,
    Iterate,
    Jacobian,
    OfResiduals,
    RecentEvaluations,
    Residuals,
    Solver,
    unknown_request,
)
from kormos_opt.solvers.one_blas_thread import one_blas_thread
from kormos_opt.solvers.recent_steps import RecentSteps
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.training.runs.run import Oracle, Run
from kormos_opt.training.runs.run_state import RunState


class SolverRun(Run):
    """A solver between its first request and its result.

    Args:
        solver: The solver, not started.
        oracle: Who answers its requests.
        start: The evaluation at the starting point, if it is known. Defaults to `None`.
        before: The run that this one goes on from, whose counts go on too. Defaults to `None`.
        arrays: The arrays that the solver works on. Defaults to `None`: the run cannot be saved.
        method: The name of its method. Defaults to none.
    """

    def __init__(
        self,
        solver: Solver,
        oracle: Oracle,
        start: Evaluation | None = None,
        before: Run | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        method: str = "",
    ):
        super().__init__(oracle, method)
        self.arrays = arrays
        self._is_from_state = False
        self._solver = solver
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

    @classmethod
    def from_state(cls, solver: Solver, oracle: Oracle, start: Evaluation, state: RunState, method: str) -> "SolverRun":
        """The run that was saved, between two iterations.

        Args:
            solver: It works on the arrays of `state`.
            oracle: Who answers its requests.
            start: The evaluation at the last accepted iterate.
            state: What was saved.
            method: The name of its method.
        """
        run = cls(solver, oracle, arrays=state.arrays, method=method)
        run.position = start.x
        run._begin(start)
        run.nit, run.nfev, run.nhev = (int(count) for count in state.counts)
        run._is_from_state = True
        run.steps = RecentSteps(state.steps)
        return run

    def state(self) -> RunState | None:
        """The state of a run that waits for its next iteration, else `None`."""
        if self.arrays is None or not self._goes_on:
            return None
        counts = np.array([self.nit, self.nfev, self.nhev])
        x, fun, jac = self.accepted[:3]
        return RunState(
            x=x,
            fun=np.array(fun),
            jac=jac,
            counts=counts,
            seeds=self._seeds,
            scale=self.units.scale,
            shift=self.units.shift,
            steps=(self.steps or RecentSteps.none(x.size)).values,
            float64=np.array(int(self.is_in_float64)),
            arrays=self.arrays,
        )

    def close(self) -> None:
        """Ends the solver and frees what it holds."""
        self._solver.close()

    def survives_interrupt(self) -> bool:
        """Unless it was the solver itself that was interrupted: its generator is closed then."""
        return self._goes_on

    @property
    def _goes_on(self):
        is_alive = inspect.getgeneratorstate(self._solver) != inspect.GEN_CLOSED
        return is_alive and self.accepted is not None and self.result is None

    def _advance(self, at_most):
        """On to the next iterate. Most solvers accept a point where they have just been."""
        if self._request is None:
            self._send(None)
        moved = self._accept_if_iterate()
        while not moved and self.result is None:
            answer = self._answer(self._request)
            with one_blas_thread:  # taken once an evaluation: it costs as much as a small one
                self._send(answer)
                moved = self._accept_if_iterate()
        return moved

    def _accept_if_iterate(self):
        is_iterate = self.result is None and isinstance(self._request, Iterate)
        return is_iterate and self._accept(self._iterate_at(self._request.x))

    def _look_for_end(self, before):
        """On to the request behind the iterate, where a solver that has converged ends."""
        if self.result is None:
            self._send(None)

    def _settle(self):
        """Makes the result that of the last accepted iterate, where the weights are. It may be one more iterate."""
        result = self.result
        result.setdefault("x", self.accepted.x)
        is_elsewhere = not np.array_equal(result.x, self.accepted.x)
        moved = is_elsewhere and self._accept(self._iterate_at(result.x))
        self._complete()
        return moved

    def _complete(self):
        result, accepted = self.result, self.accepted
        if self._is_from_state:  # the solver may count from where f has last changed
            result.update(nit=self.nit, nfev=self.nfev, njev=self.nfev)
        result.update(x=accepted.x, fun=accepted.fun, method=self.method)
        unsaid = {"success": False, "status": 1, "message": "The solver has ended", "nit": self.nit, "nfev": self.nfev}
        result.update({name: value for name, value in unsaid.items() if name not in result})
        if accepted.jac is not None:
            result.jac = accepted.jac

    def _answer(self, request):
        if isinstance(request, HessianProduct):
            self.position = request.x
            self.nhev += len(np.atleast_2d(request.p))
            return self._oracle.hvps(request.x, request.p)
        if isinstance(request, OfResiduals):
            return self._answer_of_residuals(request)
        if not isinstance(request, (EvaluateWithGradient, EvaluateValue)):
            raise unknown_request(request)
        gradient = isinstance(request, EvaluateWithGradient)
        evaluation = self._evaluations.at(request.x, gradient)
        if evaluation is None:
            evaluation = self._evaluate(request.x, gradient)
        return evaluation.fun if isinstance(request, EvaluateValue) else (evaluation.fun, evaluation.jac)

    def _answer_of_residuals(self, request):
        """Counts a vector of residuals as an evaluation, and a Jacobian as a product for each of its columns."""
        if self.accepted is None:
            self._evaluate(request.x, gradient=True)
        self.position = request.x
        if isinstance(request, Residuals):
            self.nfev += 1
        else:
            self.nhev += request.x.size if isinstance(request, Jacobian) else 1
        return self._oracle.of_residuals(request)

    def _evaluate(self, x, gradient):
        evaluation = self._oracle.evaluate(x, gradient)
        self.position = x
        self.nfev += 1
        if self.accepted is None or (gradient and self.accepted.jac is None and np.array_equal(x, self.accepted.x)):
            self._oracle.check_start(evaluation)
            self._begin(evaluation)
        self._evaluations.add(evaluation)
        return evaluation

    def _iterate_at(self, x):
        """The evaluation at an iterate, made if the solver has not been there. `None` where f is NaN: that ends it."""
        gradient = self.accepted.jac is not None
        evaluation = self._evaluations.at(x, gradient)
        if evaluation is None:
            evaluation = self._evaluate(x, gradient)
        if np.isfinite(evaluation.fun) and (evaluation.jac is None or np.isfinite(evaluation.jac).all()):
            return evaluation
        self.result = self.ended(TerminationReason.WALKED_INTO_NAN)
        return None

    def _begin(self, evaluation):
        self._seeds = self._oracle.seeds()
        self._set_accepted(evaluation)

    def _set_accepted(self, evaluation):
        if evaluation is not self.accepted:
            self._evaluations.accept(evaluation)
            super()._set_accepted(evaluation)

    def _send(self, answer):
        try:
            self._request = self._solver.send(answer)
        except StopIteration as end:
            self.result = result = end.value
            if not isinstance(end.value, OptimizeResult):
                raise TypeError(
                    "Expected a solver that returns a scipy.optimize.OptimizeResult. "
                    f"Received: {end.value!r}. See kormos_opt.solvers.base."
                ) from None
            result.update({name: result[name] + count for name, count in self._before.items() if name in result})
