"""A run of a solver in the graph: every iteration is one call of a `GraphStep`.

Its state lives in Keras variables, so files and checkpoints carry it, and a run goes on from them with the very same
iterates.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.evaluation import Evaluation
from kormos_opt.solvers.endings import Ending, words_of
from kormos_opt.solvers.numerics import NEGLIGIBLE_FACTOR, is_hidden
from kormos_opt.training.run import Run

if TYPE_CHECKING:
    from kormos_opt.graph_solvers.variables import GraphSolverVariables
    from kormos_opt.objective.bound_objective import BoundObjective
    from kormos_opt.training.answers import FitAnswers
    from kormos_opt.training.graph_step import GraphStep

_log = logging.getLogger("kormos_opt")


class GraphRun(Run):
    """A run between its start and its result.

    Args:
        answers: Those of the fit. The objective itself is asked, whose evaluation goes into the graph.
        step: The iteration, traced over this objective and these variables.
        variables: What the solver remembers.
        options: All of the method.
        dtype: Name of the precision f is computed in, for the message.
        resolution: Relative resolution of f, or `None`: no end there.
    """

    def __init__(
        self,
        answers: FitAnswers,
        step: GraphStep,
        variables: GraphSolverVariables,
        options: Mapping,
        dtype: str,
        resolution: float | None,
    ):
        super().__init__(answers)
        self._step = step
        self._variables = variables
        self._state = variables.state
        self._options = options
        self._resolution = resolution
        self._dtype = dtype

    @property
    def _objective(self) -> BoundObjective:
        return self._answers.objective

    def close(self) -> None:
        """Says in the variables that this run does not go on."""
        self._variables.is_running.assign(0)

    def takes_anew(self, evaluation: Evaluation) -> bool:
        """What the solver remembers stays: it says something of the new objective too."""
        variables = self._variables
        self.nfev += 1
        variables.nfev.assign_add(1)
        self._state["objective_value"].assign(evaluation.fun)
        self._state["objective_gradient"].assign(evaluation.jac)
        variables.is_running.assign(1)
        self.result = None
        self._take(evaluation)
        return True

    def survives_interrupt(self) -> bool:
        """The variables change all at once, so they are those of an iterate, maybe of one not accepted yet."""
        if self.accepted is None or self.result is not None:
            return False
        x = self._state["position"].numpy()
        if not np.array_equal(x, self.accepted.x):
            self._take(self._objective.evaluate(x))
            self.nit, self.nfev = int(self._variables.nit.numpy()), int(self._variables.nfev.numpy())
        return True

    def _advance(self):
        """One iteration, or the start and one."""
        if not isinstance(self._objective.data, WholeTensors):
            raise ValueError(
                'Expected dense training data in memory for engine="tfp", whose loops are inside the graph. '
                "Received: batches that cannot be joined or are streamed. Use engine='scipy'."
            )
        if self.accepted is None:
            self._start()
            if np.abs(self.accepted.jac).max() <= self._options["gtol"]:
                self._end(Ending.SMALL_GRADIENT, "gtol")
                return False
        failed, change, nfev, traced = self._step(self._objective, self.accepted)
        self.nfev += nfev
        if failed:
            self._end(Ending.RESOLUTION if self._hides(change, NEGLIGIBLE_FACTOR) else Ending.NO_BETTER_POINT)
            return False
        x, jac = self._state["position"].numpy(), self._state["objective_gradient"].numpy()
        fun = float(self._state["objective_value"].numpy())
        if traced is None:
            return self._accept(self._objective.evaluate(x)._replace(fun=fun, jac=jac))
        return self._accept(Evaluation(x, fun, jac, *traced))

    def _start(self):
        """From the variables if they are those of the weights and this objective, else afresh from the weights."""
        x = self._objective.parameters.ravel()
        was_running = bool(self._variables.is_running.numpy())
        if self._goes_on(x):
            return
        if was_running:
            _log.warning(
                "The memory of L-BFGS that came with the model is of other weights or another objective: the solver "
                "starts afresh from the weights."
            )
        evaluation = self._objective.evaluate(x)
        self._objective.check_start(evaluation)
        self.nfev = 1
        for variable in self._variables.all:
            variable.assign(tf.zeros(variable.shape, variable.dtype))
        self._state["position"].assign(x)
        self._state["objective_value"].assign(evaluation.fun)
        self._state["objective_gradient"].assign(evaluation.jac)
        self._variables.nfev.assign(1)
        self._variables.seeds.assign(self._seeds())
        self._variables.is_running.assign(1)
        self._take(evaluation)

    def _goes_on(self, x):
        """Whether the variables are those of a run that stands at these weights, with this f."""
        variables, state = self._variables, self._objective.state
        usual = state.save()
        here = self._objective.parameters.round(self._state["position"].numpy())
        if not (variables.is_running.numpy() and np.array_equal(here, x)):
            return False
        for seed, value in zip(state.seeds, variables.seeds.numpy(), strict=False):
            seed.assign(value)
        evaluation = self._objective.evaluate(self._state["position"].numpy())
        same = evaluation.fun == float(self._state["objective_value"].numpy())
        if not (same and np.array_equal(evaluation.jac, self._state["objective_gradient"].numpy())):
            state.restore(usual)
            return False
        self.nit, self.nfev = int(variables.nit.numpy()), int(variables.nfev.numpy())
        self._take(evaluation)
        return True

    def _seeds(self):
        states, room = [seed.numpy() for seed in self._objective.state.seeds], self._variables.seeds.shape[0]
        return np.reshape(states + [[0, 0]] * (room - len(states)), (room, 2)).astype("int64")

    def _take(self, evaluation):
        self.position = evaluation.x
        super()._take(evaluation)

    def _look_for_end(self, before):
        after, options = self.accepted, self._options
        step = after.x - before.x
        reduction = (before.fun - after.fun) / max(abs(before.fun), abs(after.fun), 1.0)
        if np.abs(after.jac).max() <= options["gtol"]:
            self._end(Ending.SMALL_GRADIENT, "gtol")
        elif self._hides(abs(before.jac @ step)):
            self._end(Ending.RESOLUTION)
        elif reduction <= options["ftol"]:
            self._end(Ending.SMALL_REDUCTION, "ftol")
        elif np.linalg.norm(step) < options["xtol"]:
            self._end(Ending.SHORT_STEP, "xtol")
        elif options["maxiter"] is not None and self.nit >= options["maxiter"]:
            self._end(Ending.LIMIT, "maxiter")
        elif options["maxfun"] is not None and self.nfev >= options["maxfun"]:
            self._end(Ending.LIMIT, "maxfun")

    def _hides(self, change, factor=1):
        return self._resolution is not None and is_hidden(change, self.accepted.fun, self._resolution, factor)

    def _end(self, ending, option=""):
        self._variables.is_running.assign(0)
        self.result = self.ended(ending, option=f"options={{'{option}': ...}}", **words_of(self._dtype))
