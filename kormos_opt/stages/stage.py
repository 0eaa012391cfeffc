"""A stage: one method with its settings. It says what speaks against it, and begins a run.

SolverStage     a method in numpy
GraphStage      a method in the graph
AutoStage       a method in the graph where it can do the job, else one in numpy
"""

import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
from scipy.optimize import Bounds

from kormos_opt.solvers.base import ArraySpec, Solver
from kormos_opt.solvers.change_of_variables import in_own_variables
from kormos_opt.solvers.registry import Method
from kormos_opt.solvers.units import Units
from kormos_opt.stages import bounds, constraints, matrices, x_scale

if TYPE_CHECKING:
    from kormos_opt.objective.flat_parameters import FlatParameters
    from kormos_opt.training.run import Run


_OF_POINTS = {"initial_simplex", "direc", "hess_inv0"}  # options that know nothing of centered inputs


class Context(Protocol):
    """What a stage is given to begin with.

    Attributes:
        parameters: The weights as a vector.
        start: Where to start, float64 of shape `(n,)`.
        is_whole: Whether the data is dense and in memory.
    """

    parameters: "FlatParameters"
    start: np.ndarray
    is_whole: bool

    def memory(self, method: Method, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """The arrays for a solver to work on: zeros, what a file has brought where that fits, or what the run before
        hands over because f has changed."""

    def units(self, method: Method, centers: bool) -> tuple[Units, float | None]:
        """The units of the weights, in which inputs may be centered; and the resolution of f where a first step is to
        be found, else `None`."""

    def run(self, solver: Solver, method: Method, ends_at_resolution: bool, units: Units) -> "Run":
        """A run of a solver in numpy, in these units."""

    def run_in_graph(self, method: Method, options: Mapping, ends_at_resolution: bool) -> "Run":
        """A run of a method in the graph."""


@dataclass(frozen=True)
class Stage:
    """One method with its settings.

    Args:
        method: The method.
        epochs: After how many epochs it ends, or `None`: when it has converged.
        pretrain_fn: Called with the model before it starts, or `None`.
        options: As the method takes them.
        tol: As in scipy.
        bounds: As `ScipyBatchOptimizer` takes them.
        constraints: A list of them.
    """

    method: Method
    epochs: int | None
    pretrain_fn: Callable[[keras.Model], Any] | None
    options: dict
    tol: float | None
    bounds: Any
    constraints: list

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name

    @property
    def has_own_tolerances(self) -> bool:
        """Whether the user gave tolerances."""
        return self.tol is not None or bool(self.options.keys() & set(self.method.tolerances))

    @property
    def has_loose_tolerances(self) -> bool:
        """Whether one of those that the user gave is larger than that of the method: it says what is good enough."""
        usual = {name: self.method.options.get(name) for name in self.method.tolerances}
        given = dict.fromkeys(usual, self.tol) if self.tol is not None else {}
        given |= {name: value for name, value in self.options.items() if name in usual}
        return any(value is not None and value > (usual[name] or 0.0) for name, value in given.items())

    @property
    def ends_at_resolution(self) -> bool:
        """Whether to stop when the loss cannot show further progress. If the user gave tolerances, only those count."""
        return self.method.ends_at_resolution and not self.has_own_tolerances and not self.constraints

    def limits(self, parameters: "FlatParameters") -> Bounds | None:
        """The bounds on all weights, or `None`."""
        return bounds.resolve(self.bounds, parameters, self.method)

    def check(self, parameters: "FlatParameters") -> None:
        """Raises what speaks against this stage, before any work."""
        limits = self.limits(parameters)
        free = parameters.size if limits is None else np.count_nonzero(limits.lb < limits.ub)
        matrices.check_matrices(self.method, free, bool(self.constraints))
        constraints.resolve(self.constraints, parameters, self.method)

    def begin(self, context: Context) -> "Run":
        """A run from the start that `context` says."""
        raise NotImplementedError

    @property
    def is_in_graph(self) -> bool:
        """Whether the solver keeps what it knows in variables of the optimizer."""
        return self.method.start is None


class SolverStage(Stage):
    """A stage of a method in numpy."""

    def begin(self, context: Context) -> "Run":
        """A run from the start that `context` says, moved between the bounds."""
        method, limits = self.method, self.limits(context.parameters)
        options = method.unlimited | self.options
        memory = None
        if method.variables is not None:
            size = context.parameters.size if limits is None else np.count_nonzero(limits.lb < limits.ub)
            memory = context.memory(method, method.variables(int(size), options))
        centers = limits is None and not self.constraints and not _OF_POINTS & options.keys()
        units, resolution = context.units(method, centers)
        if not units.are_plain:
            options = x_scale.without_own_scale(method, context.parameters.size) | options
        solver = in_own_variables(
            functools.partial(self._start, memory),
            context.start if limits is None else np.clip(context.start, limits.lb, limits.ub),
            limits,
            constraints.resolve(self.constraints, context.parameters, method),
            options,
            derivatives=method.derivatives not in ("none", "jacobian"),
            units=units,
            resolution=resolution,
        )
        return context.run(solver, method, self.ends_at_resolution, units)

    def _start(self, memory, x0, limits, constraints, options):
        problem = {} if self.tol is None else {"tol": self.tol}
        if self.method.bounds:
            problem["bounds"] = limits
        if self.method.constraints:
            problem["constraints"] = constraints
        if memory is not None:
            problem["memory"] = memory
        solver = self.method.start(x0, **problem | options)
        if not isinstance(solver, Generator):
            raise TypeError(
                f"Expected the `start` of {self.method.name} to return a generator of requests: a function with "
                f"`yield`. Received: {solver!r:.200}. See kormos_opt.solvers.base."
            )
        return solver


class GraphStage(Stage):
    """A stage of a method in the graph."""

    def begin(self, context: Context) -> "Run":
        """A run from the variables of the solver if they are those of the start, else from the start."""
        return context.run_in_graph(self.method, self._settings, self.ends_at_resolution)

    def remembered(self, size: int) -> dict[str, ArraySpec]:
        """The variables that keep what the solver knows."""
        return dict(self.method.variables(size, self._settings))

    @property
    def _settings(self):
        tolerances = {} if self.tol is None else dict.fromkeys(self.method.tolerances, self.tol)
        return {**self.method.options, **tolerances, **self.options}


@dataclass(frozen=True)
class AutoStage(GraphStage):
    """A stage of a method in the graph, with another one for bounds and for data that is streamed or cannot be joined.

    Args:
        fallback: The other one.
    """

    fallback: SolverStage

    def limits(self, parameters: "FlatParameters") -> Bounds | None:
        """Those that the other one takes."""
        return self.fallback.limits(parameters)

    def check(self, parameters: "FlatParameters") -> None:
        """Raises what speaks against both."""
        self.fallback.check(parameters)

    def begin(self, context: Context) -> "Run":
        """A run of the one that can do the job. Its result names it."""
        if context.is_whole and self.limits(context.parameters) is None and not self.constraints:
            return super().begin(context)
        return self.fallback.begin(context)
