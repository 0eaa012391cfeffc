"""One `Model.fit` from its first step on: an epoch is one iteration of the solver, which is started, resumed, ended.

Whatever interrupts an epoch, the model's weights are the last accepted iterate.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import keras
import numpy as np

from kormos_opt.objective import precision
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.termination import SEES_MORE, TerminationReason
from kormos_opt.stages.stage import Stage
from kormos_opt.training import columns, model_warnings
from kormos_opt.training.progress import Progress, restart_reason
from kormos_opt.training.runs.host_optimizer import HostOptimizer
from kormos_opt.training.runs.multi_start import best_of_many
from kormos_opt.training.runs.oracle import ObjectiveOracle
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.run import Run
from kormos_opt.training.verdict import left_to_gain, needs_certificate, tell

_SAME = 10  # times the resolution of f: two values that differ by less are the same
_log = logging.getLogger("kormos_opt")


class Fit:
    """What changes from epoch to epoch in one fit.

    Args:
        model: The model.
        optimizer: The optimizer that the model is compiled with.
        bind: Returns the objective of the model as it is then, bound to the data of the fit.
        begin: Begins a run of a stage, with these answers, the evaluation at the start if it is known, and the run
            whose counts go on.
        progress: Where the solver stands.
        epochs: How many there will be at most, 0 where nobody knows.
        warn: Called with a topic and a message, which is logged once for each topic.
        is_first_epoch: Whether no epoch of this `Model.fit` has begun. Defaults to `True`.

    Attributes:
        has_no_row: Whether the solver has ended in this epoch without an iterate: it would repeat the row before.
        is_pretraining: Whether a `pretrain_fn` runs.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: HostOptimizer,
        bind: Callable[[], BoundObjective],
        begin: Callable[[Stage, ObjectiveOracle, Evaluation | None, Run | None], Run],
        progress: Progress,
        epochs: int,
        warn: Callable[[str, str | None], None],
        is_first_epoch: bool = True,
    ):
        self._model = model
        self._optimizer = optimizer
        self._bind = bind
        self._begin = begin
        self._progress = progress
        self._epochs = epochs
        self._warn = warn
        self._is_first_epoch = is_first_epoch
        self._is_new_epoch = True
        self._changed_at = -1  # the iteration before which f was last seen to have changed
        self.has_no_row = self.is_pretraining = self._has_rows = False
        if progress.run is None or progress.run.is_superseded:
            progress.is_in_float64 = optimizer.loads_float64()
        self._bind_objective()
        self._weights = self._objective.parameters.ravel()

    def epoch(self, iterations: int) -> dict:
        """So many iterations of the solver, as logs."""
        progress = self._progress
        self._begin_epoch()
        moved = 0
        while moved < iterations and not progress.has_ended:
            self._begin_stage()
            moved += self._iterate(iterations - moved)
            if progress.run.result is not None and not self._goes_on_elsewhere():
                moved += self._judge()
                if progress.run.result is not None:
                    self._complete(progress.run)
                    progress.end_stage(progress.run.result)
        progress.count_epoch()
        self._optimizer.iterations.assign_add(moved)
        if progress.has_ended:
            self._optimizer.record(progress.result)
            self._model.stop_training = True
            self.has_no_row = not moved and progress.run.nit > 0 and self._has_rows
        self._is_new_epoch = self._has_rows = True
        self._objective.objective.captured.remember()  # a train step may count its calls in a variable of its own
        return columns.row(progress, self._optimizer.evaluations_of_starts())

    def change_data(self, change: Callable[[], None]) -> None:
        """Between two epochs: the run goes on from where it stands, with the data that `change` puts in place."""
        progress = self._progress
        self._begin_epoch()
        if progress.run is not None:
            progress.run.prepare()
        change()
        self._bind_objective()
        if progress.run is None:
            self._start(pretrain=False)
        elif progress.run.accepted is not None and not progress.is_between_stages:
            self._update_objective("new training data", self._evaluate_again())

    def abandon(self, is_interrupt: bool) -> None:
        """After an error: puts the model back to the last accepted iterate. After Ctrl-C the run stays where it can."""
        progress, run = self._progress, self._progress.run
        survives = is_interrupt and run is not None and run.survives_interrupt()
        if run is not None and run.accepted is not None:
            self._objective.parameters.assign(run.accepted.x)
            self._optimizer.record(run.interrupted(GOES_ON) if survives else run.interrupted(*AFTER_AN_ERROR))
        else:
            self._objective.parameters.assign(self._weights)
            self._optimizer.record(None)
        if not self._is_outdated:
            self._objective.state.restore(self._state)
        self._is_new_epoch = True
        if not survives:
            progress.close_after_error()

    def _bind_objective(self):
        self._objective = self._bind()
        self._is_outdated = False  # it is while a pretrain_fn may freeze layers
        self._oracle = ObjectiveOracle(self._objective)
        self._state = self._objective.state.save()
        self._objective.objective.captured.remember()
        if self._progress.run is not None:
            self._progress.run.attach(self._oracle)
        columns.check(self._model, self._objective.objective.log_names)
        iterations = int(self._optimizer.iterations.numpy()) + self._epochs * self._optimizer.iterations_per_epoch
        captured = self._objective.objective.captured
        for topic, message in model_warnings.collect(self._model, iterations if self._epochs else 0, captured).items():
            self._warn(topic, message)

    def _begin_epoch(self):
        if not self._is_new_epoch:
            return
        progress = self._progress
        stages = self._optimizer.stages
        reason = restart_reason(progress, stages, self._is_first_epoch, self._same_weights, self._same_objective)
        if reason is not None:
            if self._optimizer.loaded_state is None:
                self._warn(reason.name, reason.message)
            if progress.is_in_float64 and progress.run is not None and not progress.run.is_superseded:
                progress.is_in_float64 = False
                self._bind_objective()
            progress.reason = RestartReason.FIRST
            begins = self._is_first_epoch or progress.has_ended
            if begins:
                progress.begin(stages)
            self._start(pretrain=begins)
            if self._optimizer.has_starts():
                self._try_starts()
        elif not self._is_first_epoch:
            self._notice_changes()
        self._is_first_epoch = self._is_new_epoch = False

    def _begin_stage(self):
        if self._progress.is_between_stages:
            self._progress.next_stage()
            self._start(pretrain=True)

    def _iterate(self, at_most):
        run = self._progress.run
        starts = run.accepted is None
        moved = run.iterate(at_most)
        if run.position is not run.accepted.x:
            self._objective.parameters.assign(run.accepted.x)
        advances = moved and bool(run.accepted.moving_statistics)
        if advances:
            self._objective.state.assign_moving_statistics(run.accepted.moving_statistics)
        if advances or starts:
            self._state = self._objective.state.save()
        return moved

    def _start(self, pretrain, start=None, before=None):
        """A new run of the stage; with `start`, the evaluation there, it goes on counting after `before`."""
        progress = self._progress
        if start is not None and before is None:
            before = progress.run
        progress.close()
        if pretrain and progress.stage.pretrain_fn is not None:
            self._pretrain(progress.stage.pretrain_fn)
        progress.stage.check(self._objective.parameters)
        progress.run = self._begin(progress.stage, self._oracle, start, before)
        self._state = self._objective.state.save()  # a run that goes on from a file brings its seeds

    def _try_starts(self):
        """Goes on from the best of many initial weights."""
        progress = self._progress
        begin = functools.partial(self._begin, progress.stage, self._oracle, None, None)
        progress.report_starts(best_of_many(self._model, self._optimizer, self._objective, self._state, begin))
        self._start(pretrain=False)

    def _pretrain(self, pretrain_fn):
        """The function may freeze layers, so the objective is made anew; it may not take this fit's own place."""
        model, train_function = self._model, self._model.train_function
        self.is_pretraining = self._is_outdated = True
        try:
            pretrain_fn(model)
        finally:
            self.is_pretraining = False
        if model.train_function is not train_function:  # `compile` lets it go
            raise ValueError(
                "Expected a pretrain_fn that leaves the model compiled as it is: this fit goes on after it. "
                f"Received: {getattr(pretrain_fn, '__name__', pretrain_fn)}, which compiled the model again. "
                "Freezing and unfreezing layers needs no compile here; pretrain with another optimizer before fit."
            )
        self._bind_objective()

    def _same_weights(self):
        parameters = self._objective.parameters
        return np.array_equal(parameters.ravel(), parameters.round(self._progress.run.accepted.x))

    def _same_objective(self):
        return self._progress.run.stands_at(self._evaluate_again())

    def _evaluate_again(self):
        accepted = self._progress.run.accepted
        return self._objective.evaluate(accepted.x, accepted.jac is not None)

    def _notice_changes(self):
        """A callback may have assigned what f reads beside the weights."""
        captured = self._objective.objective.captured
        self._objective.state.put_seeds_back(self._state)
        changed = captured.changed()
        if changed:
            captured.remember()
            self._state = self._objective.state.save()
            self._update_objective(", ".join(changed), self._evaluate_again())

    def _update_objective(self, changed, evaluation):
        """f is another function from here on: the solver goes on from its new value and gradient."""
        self._objective.check_start(evaluation)
        keeps = self._progress.run.update_objective(evaluation)
        if not keeps:
            self._start(pretrain=False, start=evaluation)
            keeps = self._progress.run.keeps_state
        what_next = "keeps its state" if keeps else "starts afresh"
        self._warn("anew", _ANEW.format(changed, self._progress.stage.name, what_next))

    def _goes_on_elsewhere(self):
        """Before an end is reported: whether f has changed where nobody could see it. Then the end is none."""
        run = self._progress.run
        if not self._objective.objective.captured.may_change_unseen:
            return False
        fun, again = run.accepted.fun, self._evaluate_again()
        if abs(again.fun - fun) <= _SAME * precision.resolution(self._objective.objective.dtype) * abs(fun):
            return False
        if self._changed_at == run.nit or self._objective.objective.captured.random_operations:
            run.result = run.ended(TerminationReason.NOT_A_FUNCTION, before=fun, now=again.fun)
            return False
        self._changed_at = run.nit
        self._update_objective("a Python value that it reads", again)
        return True

    def _judge(self):
        """A run has ended: it is called "Converged" only where little is left to gain. Else it goes on, if it may.

        Returns how many iterates that has brought.
        """
        run, stage, dtype = self._progress.run, self._progress.stage, self._objective.objective.dtype
        may_escalate = self._optimizer.precision == "auto" and dtype != "float64"
        polish = self._optimizer.polish and not stage.constraints  # which such a step keeps to first order only
        if not needs_certificate(stage, run, self._objective, may_escalate or polish):
            return 0
        limits = stage.limits(self._objective.parameters)
        found, moved = self._left_to_gain(run, limits), 0
        while polish and not (may_escalate or found.is_little) and moved < POLISHING:
            run.accept(self._objective.evaluate(found.x))
            moved += 1
            found = self._left_to_gain(run, limits)
        if moved and found.is_little:
            run.result = run.ended(TerminationReason.POLISHED, steps=moved)
        tell(run, found, dtype)
        if may_escalate and not found.is_little:
            self._go_on_in_float64(run, dtype)
        return moved

    def _complete(self, run):
        """The result says in which units the solver worked; nothing of float64 where f is computed in it."""
        result = run.result
        if run.units is not None and not run.units.are_plain:
            result.x_scale = run.units.scale
        if self._objective.objective.dtype == "float64" and "message" in result:
            result.message = result.message.replace(SEES_MORE, "")

    def _left_to_gain(self, run, limits):
        found = left_to_gain(self._objective, run, limits, self._progress.stage)
        self._objective.parameters.assign(run.accepted.x)
        run.count(found.nfev, found.nhev)
        return found

    def _go_on_in_float64(self, run, dtype):
        self._warn("float64", _IN_FLOAT64.format(dtype, run.nit))
        self._progress.is_in_float64 = True
        self._bind_objective()
        self._start(pretrain=False, start=self._objective.evaluate(run.accepted.x), before=run)


GOES_ON = "fit goes on from here"
POLISHING = 10  # truncated Newton steps at most
_IN_FLOAT64 = (
    "{} hides progress that can still be made after {} iterations: the fit goes on in float64 from here, which takes "
    "longer for each evaluation."
)
AFTER_AN_ERROR = "another fit starts afresh", "Interrupted by an error"
_ANEW = (
    "The objective was changed in the middle of the fit ({}). The loss and its gradient are computed again at the "
    "weights as they are; {} {} there. Further changes in this fit are not reported."
)
