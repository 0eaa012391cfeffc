"""What every run of a solver has in common: where it stands, how it is advanced, what it ends with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.recent_steps import RecentSteps
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.training.runs.run_state import RunState


class Oracle(Protocol):
    """Who answers requests, at points of shape `(n,)` in float64."""

    def evaluate(self, x: np.ndarray, gradient: bool) -> Evaluation:
        """f at `x`, with its gradient or without."""

    def hvps(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Hessian at `x` times every row of `p`."""

    def check_start(self, evaluation: Evaluation) -> None:
        """Raises `ValueError` if a run cannot start from this evaluation."""

    def seeds(self) -> np.ndarray:
        """The states of the model's seed generators, int64 of shape `(count, 2)`."""


class Run:
    """A run of a solver, which a fit advances by iterations. Subclasses say how.

    Args:
        oracle: Who answers its requests in the fit that runs.
        method: The name of its method, for the result. Defaults to none.

    Attributes:
        accepted: The evaluation at the last accepted iterate, at first the starting point. `None` before the first.
        position: Where the last request was answered: the model's weights are there.
        nit: Accepted iterates.
        nfev: Evaluations of f, with its gradient where the solver asks for it.
        nhev: Products of the Hessian with a vector.
        gradient_norm: The 2-norm of the gradient at the last accepted iterate, `None` without derivatives.
        result: The solver's `OptimizeResult` once it has ended, else `None`.
        steps: The last steps, `None` before the first iterate.
        arrays: The arrays that a solver in numpy works on, `None` if it has none.
        keeps_state: Whether it has begun with what the run before knew, of an f that has changed since.
        units: The units in which its solver sees the weights, `None` where none were set.
        is_in_float64: Whether f is computed in double precision by now, with `precision="auto"`.
        is_superseded: Whether a file was loaded since: the next run goes on from what it has brought.
    """

    accepted: Any
    position: Any
    gradient_norm: float | None
    result: Any
    arrays: Mapping[str, np.ndarray] | None = None
    units: Any = None
    keeps_state = is_superseded = is_in_float64 = False

    def __init__(self, oracle: Oracle, method: str = ""):
        self._oracle = oracle
        self.method = method
        self.accepted = self.position = self.gradient_norm = self.result = None
        self.nit = self.nfev = self.nhev = 0
        self._timed: tuple[float, int] | None = None
        self.steps: RecentSteps | None = None

    def attach(self, oracle: Oracle) -> None:
        """Another fit goes on with this run, and answers its requests from here on."""
        self._oracle = oracle

    def detach(self) -> None:
        """The fit is over: lets its data go."""
        self._oracle = None  # type: ignore[assignment]

    def iterate(self, at_most: int = 1) -> int:
        """Runs to the next iterate, or by more of them, and to the end of a solver that has converged there.

        Args:
            at_most: How many iterates it may be. Defaults to `1`.

        Returns:
            How many there were; with 0 the solver has ended without one.

        Raises:
            ValueError: If f or its gradient is not finite at the starting point.
        """
        begin, nfev = time.perf_counter(), self.nfev
        moved = int(self._advance(at_most))
        if self.result is not None:
            moved = int(self._settle()) or moved
        self._count_seconds(time.perf_counter() - begin, self.nfev - nfev)
        if self.result is not None:
            self.result.seconds_per_evaluation = self._seconds_per_evaluation
        return moved

    def _count_seconds(self, seconds, evaluations):
        """The first call of a run traces, so it counts for nothing."""
        if self._timed is None:
            self._timed = 0.0, 0
        else:
            self._timed = self._timed[0] + seconds, self._timed[1] + evaluations

    @property
    def _seconds_per_evaluation(self):
        return self._timed[0] / self._timed[1] if self._timed is not None and self._timed[1] else None

    def accept(self, evaluation: Evaluation) -> None:
        """Takes an iterate that the solver has not made: its run has ended."""
        result = self.result
        self._set_accepted(evaluation)
        self.nit += 1
        result.update(x=evaluation.x, fun=evaluation.fun, jac=evaluation.jac, nit=result.get("nit", 0) + 1)

    def count(self, nfev: int, nhev: int) -> None:
        """Counts what was asked after the end, in the result too."""
        self.nfev += nfev
        self.nhev += nhev
        for name, more in (("nfev", nfev), ("njev", nfev), ("nhev", nhev)):
            self.result[name] = self.result.get(name, 0) + more

    def close(self) -> None:
        """Ends the solver and frees what it holds."""

    def update_objective(self, evaluation: Evaluation) -> bool:
        """Goes on from the last accepted iterate after the objective has changed.

        Args:
            evaluation: The new one there.

        Returns:
            Whether it could. If not, a new run has to start there.
        """
        return False

    def stands_at(self, evaluation: Evaluation) -> bool:
        """Whether f and its gradient are what they were at the last accepted iterate, to the last bit."""
        accepted = self.accepted
        return evaluation.fun == accepted.fun and (
            evaluation.jac is None or np.array_equal(evaluation.jac, accepted.jac)
        )

    def prepare(self) -> None:
        """Takes what a file has brought, while the objective is still that of the file."""

    def survives_interrupt(self) -> bool:
        """Whether the run can go on from its last accepted iterate after Ctrl-C."""
        return False

    def state(self) -> RunState | None:
        """What the run has to be told to go on from a file, `None` where that is not to be had, or is in variables."""
        return None

    def interrupted(self, what_next: str, how: str = "Not converged") -> OptimizeResult:
        """A result for a run that did not end by itself."""
        where = (
            f"the loss is {self.accepted.fun:.3g}"
            if self.gradient_norm is None
            else f"the gradient's norm is {self.gradient_norm:.3g}"
        )
        return self.ended(TerminationReason.INTERRUPTED, how=how, nit=self.nit, where=where, what_next=what_next)

    def ended(self, ending: TerminationReason, **words) -> OptimizeResult:
        """A result at the last accepted iterate."""
        accepted = self.accepted
        units: dict = {} if self.units is None or self.units.are_plain else {"x_scale": self.units.scale}
        return ending.result(
            **units,
            x=accepted.x,
            fun=accepted.fun,
            jac=accepted.jac,
            nit=self.nit,
            nfev=self.nfev,
            njev=0 if accepted.jac is None else self.nfev,
            nhev=self.nhev,
            method=self.method,
            message=ending.message(**words),
            seconds_per_evaluation=self._seconds_per_evaluation,
        )

    def _advance(self, at_most: int) -> int:
        """On to the next iterate, which is handed to `_accept`. Returns how many there were."""
        raise NotImplementedError

    def _accept(self, evaluation: Evaluation | None) -> bool:
        """Takes the evaluation at an iterate. Returns whether there was one."""
        if evaluation is None:
            return False
        before = self.accepted
        self._set_accepted(evaluation)
        self.nit += 1
        self._look_for_end(before)
        return True

    def _look_for_end(self, before: Evaluation) -> None:
        """Sets `result` if the solver ends at the iterate it has just accepted after `before`."""

    def _settle(self) -> bool:
        """Completes the result. Returns whether it brought another iterate."""
        return False

    def _set_accepted(self, evaluation):
        before, self.accepted = self.accepted, evaluation
        if before is not None and not any(each is None for each in (self.units, before.jac, evaluation.jac)):
            self.steps = self.steps or RecentSteps.none(evaluation.x.size)
            step = self.units.own(evaluation.x - before.x)
            self.steps.add(step, self.units.own_gradient(evaluation.jac - before.jac))
        if evaluation.jac is not None:
            self.gradient_norm = float(np.linalg.norm(evaluation.jac))
