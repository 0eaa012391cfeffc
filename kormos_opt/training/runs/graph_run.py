"""A run of a solver in the graph: all iterations of an epoch are one call of a `GraphStep`.

Its state lives in Keras variables, so files and checkpoints carry it, and a run goes on from them with exactly
the same iterates.
"""

from __future__ import annotations

import logging

import numpy as np

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.graph_solvers.variables import IN_FLOAT64, RUNS, GraphSolverVariables
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.base import run_to_end
from kormos_opt.solvers.first_step import visible_length
from kormos_opt.solvers.recent_steps import RecentSteps
from kormos_opt.solvers.registry import GraphMethod
from kormos_opt.solvers.termination import TerminationReason, words_of
from kormos_opt.training.runs.graph_step import ENDINGS, GraphStep
from kormos_opt.training.runs.oracle import ObjectiveOracle
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.run import Run
from kormos_opt.training.runs.run_state import evaluation_at, rounded
from kormos_opt.training.runs.solver_units import SolverUnits

_ROUNDING = 1e-6  # of the largest component of a gradient
_log = logging.getLogger("kormos_opt")


class GraphRun(Run):
    """A run between its start and its result.

    Args:
        oracle: The oracle of the fit. The run takes its objective, whose evaluation goes into the graph.
        step: The iterations, traced over this objective and these variables.
        variables: What the solver remembers.
        method: The method.
        gtol: How small the gradient shall be.
        units: Finds the units of the weights.
    """

    def __init__(
        self,
        oracle: ObjectiveOracle,
        step: GraphStep,
        variables: GraphSolverVariables,
        method: GraphMethod,
        gtol: float,
        units: SolverUnits,
    ):
        super().__init__(oracle, method.name)
        self._oracle: ObjectiveOracle = oracle
        self._step = step
        self._variables = variables
        self._state = variables.state
        self._method = method
        self._gtol = gtol
        self._find_units: SolverUnits | None = units

    @property
    def _objective(self) -> BoundObjective:
        return self._oracle.objective

    @property
    def _dtype(self) -> str:
        return self._state["objective_gradient"].dtype

    def go_on_from(self, before: Run, evaluation: Evaluation) -> None:
        """Goes on where another run over the same variables has ended, with another f.

        Args:
            before: The other run.
            evaluation: The evaluation of the new f where `before` has ended.
        """
        self.nit, self.nfev, self.nhev, self.units = before.nit, before.nfev, before.nhev, before.units
        self.update_objective(evaluation)

    def count(self, nfev: int, nhev: int) -> None:
        """In the variables too, for a run that goes on from here in double precision."""
        super().count(nfev, nhev)
        self._variables.nfev.assign(self.nfev)
        self._variables.nhev.assign(self.nhev)

    def close(self) -> None:
        """Says in the variables that this run does not go on, unless they are those of another run by now."""
        if not self.is_superseded:
            self._variables.is_running.assign(0)

    def update_objective(self, evaluation: Evaluation) -> bool:
        """What the solver remembers stays: it says something of the new objective too."""
        variables = self._variables
        self.nfev += 1
        variables.nfev.assign_add(1)
        self._state["objective_value"].assign(evaluation.fun)
        self._state["objective_gradient"].assign(self.units.own_gradient(evaluation.jac))
        if self._method.on_objective_change is not None:
            state = {name: variable.value for name, variable in self._state.items()}
            for name, value in self._method.on_objective_change(state).items():
                self._state[name].assign(value)
        self._say_that_it_runs()
        self.result = self.steps = None
        self._set_accepted(self._as_kept(evaluation))
        return True

    def stands_at(self, evaluation: Evaluation) -> bool:
        """The gradient is compared with that of the variables, which keep it in the solver's precision and units."""
        return evaluation.fun == self.accepted.fun and self._keeps(evaluation.jac)

    def _keeps(self, jac):
        """Whether the variables have this gradient. Inside the graph a change of variables may round otherwise."""
        own, kept = rounded(self.units.own_gradient(jac), self._dtype), self._own_gradient()
        if self.units.are_plain:
            return np.array_equal(own, kept)
        return np.allclose(own, kept, rtol=0, atol=_ROUNDING * np.abs(kept).max())

    def _own_gradient(self):
        return self._state["objective_gradient"].numpy().astype("float64")

    def prepare(self) -> None:
        """Starts, where the variables may be those of a file."""
        if self.accepted is None:
            self._start()

    def detach(self) -> None:
        """Lets go too of what holds the data."""
        super().detach()
        self._find_units = None

    def survives_interrupt(self) -> bool:
        """The variables change all at once, so they are those of an iterate, maybe of one not accepted yet."""
        if self.accepted is None or self.result is not None:
            return False
        x, _, _ = self._point()
        if not np.array_equal(x, self.accepted.x):
            self._set_accepted(self._as_kept(self._objective.evaluate(x)))
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
        if self.nit == 0 and np.abs(self.units.own_gradient(self.accepted.jac)).max() <= self._gtol:
            self._end(TerminationReason.SMALL_GRADIENT, "gtol")
            return 0
        units = None if self.units.are_plain else self.units
        stepped = self._step(self._objective, self.accepted, at_most, units)
        self.nit += stepped.nit
        self.nfev += stepped.nfev
        if stepped.nit:
            self._set_accepted(self._evaluation_here(stepped.traced))
            self._variables.steps.assign(self.steps.values)
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
        at = self._state["position"] if self.units.are_plain else self._variables.point
        fun = float(self._state["objective_value"].numpy())
        return at.numpy().astype("float64"), fun, self.units.gradient(self._own_gradient())

    def _start(self):
        """From the variables if they are those of the weights and this objective, else afresh from the weights."""
        x = self._objective.parameters.ravel()
        if self._variables.is_running.numpy():
            if self._goes_on():
                return
            _log.warning(RestartReason.OTHER_MEMORY.message)
        self._start_afresh(x)

    def _start_afresh(self, x):
        evaluation = self._objective.evaluate(x)
        self._objective.check_start(evaluation)
        self.nfev = 1
        self.units = self._find_units.new(self._method, centers=True)
        if self._find_units.resolution is not None:
            self._find_first_step(evaluation, self._find_units.resolution)
        variables = self._variables
        own = evaluation._replace(x=self.units.own(x), jac=self.units.own_gradient(evaluation.jac))
        self._step.begin(own)
        for variable, value in zip(
            (variables.scale, variables.shift, variables.point), (self.units.scale, self.units.shift, x), strict=True
        ):
            variable.assign(value)
        variables.nfev.assign(self.nfev)
        variables.nhev.assign(0)
        variables.steps.assign(RecentSteps.none(x.size).values)
        self._say_that_it_runs()
        self._keep_seeds()
        self._set_accepted(self._as_kept(evaluation))

    def _say_that_it_runs(self):
        self._variables.is_running.assign(IN_FLOAT64 if self.is_in_float64 else RUNS)

    def _find_first_step(self, start, resolution):
        def reply(request):
            evaluation = self._objective.evaluate(request.x)
            return evaluation.fun, evaluation.jac

        length, tried = run_to_end(visible_length(*start[:3], self.units, resolution), reply)
        self._objective.parameters.assign(start.x)
        self.units.multiply(length)
        self.nfev += tried

    def _as_kept(self, evaluation):
        """The evaluation with its gradient as the variables keep it: in the precision and the units of the solver."""
        own = rounded(self.units.own_gradient(evaluation.jac), self._dtype)
        return evaluation._replace(jac=self.units.gradient(own))

    def _goes_on(self):
        """Whether the variables are those of a run that stands at these weights, with this f."""
        variables = self._variables
        scale = variables.scale.numpy()
        self.units = self._find_units.loaded(np.where(scale == 0, 1.0, scale), variables.shift.numpy())
        x, fun, _ = self._point()
        evaluation = evaluation_at(self._objective, x, fun, self._keeps, variables.seeds.numpy())
        if evaluation is None:
            return False
        self.nit, self.nfev, self.nhev = (
            int(counter.numpy()) for counter in (variables.nit, variables.nfev, variables.nhev)
        )
        self._set_accepted(self._as_kept(evaluation))
        self.steps = RecentSteps(variables.steps.numpy())
        return True

    def _keep_seeds(self):
        states, variable = self._oracle.seeds(), self._variables.seeds
        if len(states):
            variable.assign(np.pad(states, ((0, variable.shape[0] - len(states)), (0, 0))))

    def _set_accepted(self, evaluation):
        self.position = evaluation.x
        super()._set_accepted(evaluation)

    def _end(self, ending, option=""):
        self._variables.is_running.assign(0)
        self.result = self.ended(
            ending, option=f"options={{'{option}': ...}}", **words_of(self._objective.objective.dtype)
        )
