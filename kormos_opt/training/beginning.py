"""Where a stage begins: the one place that knows which kind of run a solver gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kormos_opt.objective import precision
from kormos_opt.solvers.safeguards import safeguard
from kormos_opt.training.graph_run import GraphRun
from kormos_opt.training.graph_step import GraphStep
from kormos_opt.training.solver_run import SolverRun

if TYPE_CHECKING:
    import keras

    from kormos_opt.evaluation import Evaluation
    from kormos_opt.solvers.base import Solver
    from kormos_opt.solvers.registry import Method
    from kormos_opt.training.answers import FitAnswers
    from kormos_opt.training.run import Run


class Beginning:
    """The `Context` that a stage is given to begin with.

    Args:
        model: The model.
        optimizer: The `BatchOptimizer`, which has the variables of solvers in the graph.
        answers: Who answers in this fit.
        evaluation: The one at the starting point, `None` if it is not known.
        before: The run that the new one goes on from, if there is one.

    Attributes:
        parameters: The weights as a vector.
        start: Where to start, float64 of shape `(n,)`.
    """

    def __init__(
        self, model: keras.Model, optimizer, answers: FitAnswers, evaluation: Evaluation | None, before: Run | None
    ):
        self._model = model
        self._optimizer = optimizer
        self._answers = answers
        self._objective = answers.objective.objective
        self._evaluation = evaluation
        self._before = before
        self.parameters = answers.objective.parameters
        self.start = self.parameters.ravel() if evaluation is None else evaluation.x

    def run(self, solver: Solver, ends_at_resolution: bool) -> Run:
        """A run of a solver in numpy."""
        solver = safeguard(solver, self._objective.dtype, self._resolution(ends_at_resolution))
        return SolverRun(solver, self._answers, self._evaluation, self._before)

    def run_in_graph(self, method: Method, options: Mapping, ends_at_resolution: bool) -> Run:
        """A run of a method in the graph, with the trace of an earlier one over the same variables if there was one."""
        shapes = dict(method.variables(self.parameters.size, options))
        variables = self._optimizer.variables_for(self._model, shapes)
        traces, key = self._objective.traces, (method.name, repr(options), id(variables.nit))
        if key not in traces:
            traces[key] = GraphStep(method.step, variables, options)
        resolution = self._resolution(ends_at_resolution)
        return GraphRun(self._answers, traces[key], variables, options, self._objective.dtype, resolution)

    def _resolution(self, ends_there):
        return precision.resolution(self._objective.dtype) if ends_there else None
