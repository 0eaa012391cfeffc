"""Where a fit is among its stages."""

from scipy.optimize import OptimizeResult

from kormos_opt.stages.stage import Stage
from kormos_opt.training.solver_run import SolverRun


class Chain:
    """The stages of a fit, one after the other.

    Args:
        stages: What to do.

    Attributes:
        index: The stage that runs, or ran last.
        nfev: Evaluations of the stages before it.
        nhev: Hessian-vector products of the stages before it.
        messages: Why stages ended.
        result: The result of the stage that ended last.
    """

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = stages
        self.index = self.nfev = self.nhev = 0
        self.messages = []
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

    def end(self, result: OptimizeResult) -> None:
        """The stage that runs has ended with this result."""
        self._stage_has_ended = True
        self.result = result
        prefix = f"Stage {self.index} ({self.stage.name}): " if len(self.stages) > 1 else ""
        self.messages.append(prefix + result.message)

    def count_epoch(self, run: SolverRun) -> None:
        """An epoch is over: it may have been the last one of its stage."""
        self._epochs += 1
        if self._epochs == self.stage.epochs and not self._stage_has_ended:
            self.end(run.interrupted("the epochs of this stage are over"))

    def next(self, run: SolverRun) -> None:
        """Goes on to the next stage after that of `run`."""
        self.index += 1
        self.nfev += run.nfev
        self.nhev += run.nhev
        self._epochs = 0
        self._stage_has_ended = False
