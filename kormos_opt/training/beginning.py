"""Where a stage begins: the one place that knows which kind of run a solver gets."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.graph_solvers.variables import vector_dtype
from kormos_opt.objective import input_sizes, precision
from kormos_opt.solvers.safeguards import safeguard
from kormos_opt.solvers.units import Centered, Units, powers_of_two
from kormos_opt.stages import x_scale
from kormos_opt.training.graph_run import GraphRun
from kormos_opt.training.graph_step import GraphStep
from kormos_opt.training.memory import RunMemory, evaluation_at
from kormos_opt.training.progress import Reason
from kormos_opt.training.solver_run import SolverRun

if TYPE_CHECKING:
    import keras

    from kormos_opt.evaluation import Evaluation
    from kormos_opt.solvers.base import ArraySpec, Solver
    from kormos_opt.solvers.registry import Method
    from kormos_opt.training.answers import FitAnswers
    from kormos_opt.training.run import Run

_log = logging.getLogger("kormos_opt")


class Beginning:
    """The `Context` that a stage is given to begin with.

    Args:
        model: The model.
        optimizer: The `BatchOptimizer`, which has the variables of solvers in the graph.
        answers: Who answers in this fit.
        evaluation: The one at the starting point, `None` if it is not known.
        before: The run that the new one goes on from, if there is one.
        warn: Called with a topic and a message, which is logged once for each topic.

    Attributes:
        parameters: The weights as a vector.
        start: Where to start, float64 of shape `(n,)`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer,
        answers: FitAnswers,
        evaluation: Evaluation | None,
        before: Run | None,
        warn: Callable[[str, str], None],
    ):
        self._model = model
        self._optimizer = optimizer
        self._answers = answers
        self._objective = answers.objective.objective
        self._evaluation = evaluation
        self._before = before
        self._warn = warn
        self._loaded: tuple[Evaluation, RunMemory] | None = None
        self._arrays = None
        self._kept = {}
        self.parameters = answers.objective.parameters
        self.start = self.parameters.ravel() if evaluation is None else evaluation.x

    def units(self, method: Method, centers: bool) -> tuple[Units, float | None]:
        """The units of the weights; and the resolution of f where a first step is to be found, else `None`. To be asked
        after `memory`, which may bring those of another run."""
        if self._loaded is not None:
            memory = self._loaded[1]
            return self.units_of(memory.scale, memory.shift), None
        if self._before is not None and self._before.units is not None:
            return self._before.units, None
        return self._new_units(method, centers), None if self._optimizer.x_scale is None else self._resolution(True)

    def units_of(self, scale: np.ndarray, shift: np.ndarray) -> Units:
        """The units that a file has brought. The model says which kernels are centered."""
        kernels = self._answers.objective.input_sizes.kernels if shift.any() else ()
        return Units(scale, shift, [Centered(*kernel) for kernel in kernels])

    def _new_units(self, method, centers):
        wanted, objective, size = self._optimizer.x_scale, self._answers.objective, self.parameters.size
        if not (wanted is None or isinstance(wanted, str)):
            return Units(x_scale.of_weights(wanted, size))
        if wanted == "jac" and not x_scale.scales_itself(method):
            sizes = objective.column_sizes()
            return Units(powers_of_two(1 / np.where(sizes > 0, sizes, 1.0)))
        is_automatic = wanted == "auto" and not x_scale.scales_itself(method)
        if wanted == "inputs" or (is_automatic and objective.may_have_unlike_inputs()):
            sizes = objective.input_sizes
            if wanted == "auto" and not input_sizes.are_unlike(sizes.size):
                return Units(np.ones(size))
            if wanted == "auto":
                self._warn("x_scale", _UNLIKE_INPUTS.format(sizes.size[sizes.size > 0].min(), sizes.size.max()))
            return x_scale.of_inputs(*sizes, centers)
        return Units(np.ones(size))

    def memory(self, method: Method, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """The arrays for a solver to work on: what a file has brought if it fits these weights and data, what the run
        before hands over because f has changed, or zeros."""
        loaded = None if self._evaluation is not None else self._optimizer.take_loaded_memory()
        if loaded is not None:
            evaluation = evaluation_at(
                self._answers.objective,
                loaded.x,
                loaded.fun,
                functools.partial(np.array_equal, loaded.jac),
                loaded.seeds,
            )
            shapes = {name: array.shape for name, array in loaded.arrays.items()}
            if evaluation is not None and shapes == {name: spec.shape for name, spec in specs.items()}:
                self._loaded, self._arrays = (evaluation, loaded), loaded.arrays
                return self._arrays
            _log.warning(Reason.OTHER_MEMORY.message)
        if self._before is not None and method.renew is not None:
            self._kept = method.renew(self._before.arrays)
        missing = {name: spec for name, spec in specs.items() if name not in self._kept}
        self._arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in missing.items()} | self._kept
        return self._arrays

    @property
    def is_whole(self) -> bool:
        """Whether the data is dense and in memory."""
        return isinstance(self._answers.objective.data, WholeTensors)

    def run(self, solver: Solver, method: Method, ends_at_resolution: bool, units: Units) -> Run:
        """A run of a solver in numpy, in these units."""
        evaluation, memory = self._loaded or (None, None)
        resolution = self._resolution(ends_at_resolution)
        solver = safeguard(solver, self._objective.dtype, resolution, evaluation)
        if memory is None:
            run = SolverRun(solver, self._answers, self._evaluation, self._before, self._arrays, method.name)
        else:
            run = SolverRun.from_memory(solver, self._answers, evaluation, memory, method.name)
        run.keeps_memory = bool(self._kept)
        run.units = units
        run.is_in_float64 = self._is_in_float64
        self._optimizer.watch(run)
        return run

    def run_in_graph(self, method: Method, options: Mapping, ends_at_resolution: bool) -> Run:
        """A run of a method in the graph, with the trace of an earlier one over the same variables if there was one."""
        specs = dict(method.variables(self.parameters.size, options))
        dtype = vector_dtype(self.parameters.variables, self._optimizer.precision)
        variables = self._optimizer.variables_for(self._model, specs, dtype)
        traces, key = self._objective.traces, (method.name, repr(options), ends_at_resolution, id(variables.nit))
        if key not in traces:
            traces[key] = GraphStep(method, variables, options, self._resolution(ends_at_resolution))
        run = GraphRun(self._answers, traces[key], variables, method, options["gtol"], self)
        run.is_in_float64 = self._is_in_float64
        if self._before is not None:
            run.go_on_from(self._before, self._evaluation)
        self._optimizer.watch(run)
        return run

    @property
    def _is_in_float64(self):
        return self._optimizer.precision == "auto" and self._objective.settings.float64

    def _resolution(self, ends_there):
        return precision.resolution(self._objective.dtype) if ends_there else None


_UNLIKE_INPUTS = (
    "The inputs are of sizes from {:.2g} to {:.2g}. The solver works as if they were standardized; weights, bounds and "
    'results stay in your units. x_scale="inputs" asks for this without this line, x_scale=None switches it off.'
)
