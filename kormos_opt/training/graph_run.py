"""A run of a solver in the graph: all iterations of an epoch are one call of a `GraphStep`.

Its state lives in Keras variables, so files and checkpoints carry it, and a run goes on from them with the very same
iterates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.evaluation import Evaluation
from kormos_opt.graph_solvers.variables import IN_FLOAT64, POINT, RUNS
from kormos_opt.solvers.endings import Ending, words_of
from kormos_opt.solvers.first_step import visible_length
from kormos_opt.training.graph_step import ENDINGS
from kormos_opt.training.memory import evaluation_at, rounded
from kormos_opt.training.progress import Reason
from kormos_opt.training.run import Run

if TYPE_CHECKING:
    from kormos_opt.graph_solvers.variables import GraphSolverVariables
    from kormos_opt.objective.bound_objective import BoundObjective
    from kormos_opt.solvers.registry import Method
    from kormos_opt.training.answers import FitAnswers
    from kormos_opt.training.graph_step import GraphStep

_log = logging.getLogger("kormos_opt")


class GraphRun(Run):
    """A run between its start and its result.

    Args:
        answers: Those of the fit. The objective itself is asked, whose evaluation goes into the graph.
        step: The iterations, traced over this objective and these variables.
        variables: What the solver remembers.
        method: The method.
        gtol: How small the gradient shall be.
        units: Returns the units of the weights for a run that begins, and the resolution of f where its first step is
            to be found, else `None`.
    """

    def __init__(
        self,
        answers: FitAnswers,
        step: GraphStep,
        variables: GraphSolverVariables,
        method: Method,
        gtol: float,
        units: Callable[[], tuple[np.ndarray, float | None]],
    ):
        super().__init__(answers, method.name)
        self._step = step
        self._variables = variables
        self._state = variables.state
        self._method = method
        self._gtol = gtol
        self._units = units

    @property
    def _objective(self) -> BoundObjective:
        return self._answers.objective

    @property
    def _dtype(self) -> str:
        return self._state["objective_gradient"].dtype

    def go_on_from(self, before: Run, evaluation: Evaluation) -> None:
        """Goes on where another run over the same variables has ended, with another f.

        Args:
            before: The other run.
            evaluation: That of the new f where `before` has ended.
        """
        self.nit, self.nfev, self.nhev, self.scale = before.nit, before.nfev, before.nhev, before.scale
        self.takes_anew(evaluation)

    def count(self, nfev: int, nhev: int) -> None:
        """In the variables too, for a run that goes on from here in double precision."""
        super().count(nfev, nhev)
        self._variables.nfev.assign(self.nfev)
        self._variables.nhev.assign(self.nhev)

    def close(self) -> None:
        """Says in the variables that this run does not go on, unless they are those of another run by now."""
        if not self.is_superseded:
            self._variables.is_running.assign(0)

    def takes_anew(self, evaluation: Evaluation) -> bool:
        """What the solver remembers stays: it says something of the new objective too."""
        variables = self._variables
        self.nfev += 1
        variables.nfev.assign_add(1)
        self._state["objective_value"].assign(evaluation.fun)
        self._state["objective_gradient"].assign(evaluation.jac)
        if self._method.renew is not None:
            state = {name: variable.value for name, variable in self._state.items()}
            state["objective_gradient"] = state["objective_gradient"] * self._scale_of_gradient
            for name, value in self._method.renew(state).items():
                self._state[name].assign(value)
        self._say_that_it_runs()
        self.result = None
        self._take(evaluation._replace(jac=rounded(evaluation.jac, self._dtype)))
        return True

    def stands_at(self, evaluation: Evaluation) -> bool:
        """The gradient is compared in the precision of the variables, which keep it."""
        return super().stands_at(evaluation._replace(jac=rounded(evaluation.jac, self._dtype)))

    def prepare(self) -> None:
        """Starts, where the variables may be those of a file."""
        if self.accepted is None:
            self._start()

    def survives_interrupt(self) -> bool:
        """The variables change all at once, so they are those of an iterate, maybe of one not accepted yet."""
        if self.accepted is None or self.result is not None:
            return False
        x, _, _ = self._point()
        if not np.array_equal(x, self.accepted.x):
            self._take(self._objective.evaluate(x))
            self.nit, self.nfev = int(self._variables.nit.numpy()), int(self._variables.nfev.numpy())
        return True

    def _advance(self, at_most):
        """All iterations in one call. The start too, if there was none."""
        if not isinstance(self._objective.data, WholeTensors):
            raise ValueError(
                "Expected dense training data in memory for a solver whose loops are inside the graph. "
                "Received: batches that cannot be joined or are streamed. Use engine='scipy'."
            )
        if self.accepted is None:
            self._start()
        if self.nit == 0:
            if np.abs(self.accepted.jac * self.scale).max() <= self._gtol:
                self._end(Ending.SMALL_GRADIENT, "gtol")
                return 0
        scale = None if (self.scale == 1).all() else self.scale
        stepped = self._step(self._objective, self.accepted, at_most, scale)
        self.nit += stepped.nit
        self.nfev += stepped.nfev
        if stepped.nit:
            self._take(self._evaluation_here(stepped.traced))
        ending, option = ENDINGS[stepped.ending]
        if ending is not None:
            self._end(ending, option)
        return stepped.nit

    def _evaluation_here(self, traced):
        x, fun, jac = self._point()
        if traced is None:
            return self._objective.evaluate(x)._replace(fun=fun, jac=jac)
        return Evaluation(x, fun, jac, *traced)

    def _point(self):
        """x, f and its gradient in the variables, float64."""
        x, fun, jac = (self._state[name].numpy().astype("float64") for name in POINT)
        return x, float(fun), jac

    def _start(self):
        """From the variables if they are those of the weights and this objective, else afresh from the weights."""
        x = self._objective.parameters.ravel()
        if self._variables.is_running.numpy():
            if self._goes_on():
                return
            _log.warning(Reason.OTHER_MEMORY.message)
        evaluation = self._objective.evaluate(x)
        self._objective.check_start(evaluation)
        self.nfev = 1
        self.scale, resolution = self._units()
        if resolution is not None:
            self._find_first_step(x, resolution)
        self._variables.scale.assign(self.scale)
        self._step.begin(evaluation)
        self._variables.nfev.assign(self.nfev)
        self._variables.nhev.assign(0)
        self._say_that_it_runs()
        self._keep_seeds()
        self._take(evaluation._replace(jac=rounded(evaluation.jac, self._dtype)))

    def _say_that_it_runs(self):
        self._variables.is_running.assign(IN_FLOAT64 if self.is_in_float64 else RUNS)

    def _find_first_step(self, x, resolution):
        search = visible_length(x, self.scale, resolution)
        answer = None
        try:
            while True:
                request = search.send(answer)
                evaluation = self._objective.evaluate(request.x)
                answer = evaluation.fun, evaluation.jac
        except StopIteration as end:
            length, tried = end.value
        if tried:
            self._objective.parameters.assign(x)
        self.scale = self.scale * length
        self.nfev += tried

    @property
    def _scale_of_gradient(self):
        return tf.constant(self.scale, self._dtype)

    def _goes_on(self):
        """Whether the variables are those of a run that stands at these weights, with this f."""
        variables = self._variables
        evaluation = evaluation_at(self._objective, *self._point(), variables.seeds.numpy(), self._dtype)
        if evaluation is None:
            return False
        self.nit, self.nfev, self.nhev = (
            int(counter.numpy()) for counter in (variables.nit, variables.nfev, variables.nhev)
        )
        scale = variables.scale.numpy().astype("float64")
        self.scale = np.where(scale == 0, 1.0, scale)  # files that had none
        self._take(evaluation._replace(jac=rounded(evaluation.jac, self._dtype)))
        return True

    def _keep_seeds(self):
        states, variable = self._answers.seeds(), self._variables.seeds
        if len(states):
            variable.assign(np.pad(states, ((0, variable.shape[0] - len(states)), (0, 0))))

    def _take(self, evaluation):
        self.position = evaluation.x
        super()._take(evaluation)

    def _end(self, ending, option=""):
        self._variables.is_running.assign(0)
        self.result = self.ended(
            ending, option=f"options={{'{option}': ...}}", **words_of(self._objective.objective.dtype)
        )
