"""What survives between two fits: where the solver stands among the stages, its run, and why it has to start afresh."""

from __future__ import annotations

from collections.abc import Callable

from scipy.optimize import OptimizeResult

from kormos_opt.stages.stage import Stage
from kormos_opt.training.runs.multi_start import Start
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.run import Run


class Progress:
    """The stages of a fit, one after the other, and the run of the one that is at work.

    Attributes:
        stages: What to do.
        index: The stage that runs, or ran last.
        run: Its run, `None` if there is none to go on with.
        reason: Why there is none.
        nfev: Evaluations of the stages before it.
        nhev: Hessian-vector products of the stages before it.
        messages: Why stages ended.
        result: The result of the stage that ended last.
        is_in_float64: Whether f is computed in double precision by now, with `precision="auto"`.
    """

    def __init__(self, reason: RestartReason = RestartReason.FIRST):
        self.run: Run | None = None
        self.is_in_float64 = False
        self.reason = reason
        self.begin(())

    def begin(self, stages: tuple[Stage, ...]) -> None:
        """Starts with the first of these stages."""
        self.stages = stages
        self.index = self.nfev = self.nhev = 0
        self.messages: list[str] = []
        self.result = None
        self._epochs = 0
        self._stage_has_ended = False

    @property
    def stage(self) -> Stage:
        """The stage that runs."""
        return self.stages[self.index]

    @property
    def has_ended(self) -> bool:
        """Whether the last stage has ended."""
        return self._stage_has_ended and self.index == len(self.stages) - 1

    @property
    def is_between_stages(self) -> bool:
        """Whether a stage has ended and another one follows."""
        return self._stage_has_ended and not self.has_ended

    @property
    def is_suspended(self) -> bool:
        """Whether a run waits for the next fit."""
        return self.run is not None and not self.has_ended

    def report_starts(self, starts: list[Start]) -> None:
        """The fit goes on from the first of these starts."""
        best, worst = starts[0], starts[-1]
        self.messages.append(
            f"{len(starts)} starts: number {best.number} was the best, with a loss of {best.loss:.6g}; the worst was "
            f"left at {worst.loss:.6g}."
        )

    def end_stage(self, result: OptimizeResult) -> None:
        """The stage that runs has ended with this result."""
        self._stage_has_ended = True
        self.result = result
        prefix = f"Stage {self.index} ({self.stage.name}): " if len(self.stages) > 1 else ""
        self.messages.append(prefix + result.message)

    def count_epoch(self) -> None:
        """An epoch is over: it may have been the last one of its stage."""
        self._epochs += 1
        if self._epochs == self.stage.epochs and not self._stage_has_ended:
            self.end_stage(self.run.interrupted("the epochs of this stage are over"))

    def next_stage(self) -> None:
        """Goes on to the next stage."""
        self.index += 1
        self.nfev += self.run.nfev
        self.nhev += self.run.nhev
        self._epochs = 0
        self._stage_has_ended = False

    def close(self, reason: RestartReason = RestartReason.FIRST) -> None:
        """Ends the run and frees what it holds.

        Args:
            reason: Why the next one starts afresh. Defaults to `RestartReason.FIRST`: nothing to speak of.
        """
        if self.run is not None:
            self.run.close()
        self.run = None
        self.reason = reason

    def close_after_error(self) -> None:
        """Ends the run. If it had begun, the next one is told of the error; else of what kept it from going on."""
        has_begun = self.run is not None and self.run.accepted is not None
        self.close(RestartReason.AFTER_AN_ERROR if has_begun else self.reason)


def restart_reason(
    progress: Progress,
    stages: tuple[Stage, ...],
    is_first_epoch: bool,
    same_weights: Callable[[], bool],
    same_objective: Callable[[], bool],
) -> RestartReason | None:
    """Why the next epoch needs a new run; `None` if the one there is goes on.

    Args:
        progress: Where the solver stands.
        stages: The stages of the optimizer now.
        is_first_epoch: Whether it is the first epoch of a fit.
        same_weights: Whether the model has the weights of the last accepted iterate.
        same_objective: Whether f and its gradient are there what they were.
    """
    if progress.run is None or progress.run.is_superseded:
        return progress.reason
    if progress.has_ended:
        return RestartReason.ENDED
    if progress.stages is not stages:
        return RestartReason.OTHER_PLAN
    if progress.is_between_stages and not is_first_epoch:
        return None
    if not same_weights():
        return RestartReason.OTHER_WEIGHTS
    if is_first_epoch and not same_objective():
        return RestartReason.OTHER_OBJECTIVE
    return None
