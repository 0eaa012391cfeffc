"""A stage: one method with its settings. It checks whether it can run, and makes its solver.

SolverStage     a method in numpy
GraphStage      a method in the graph
AutoStage       a method in the graph where it can do the job, else one in numpy
"""

import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from scipy.optimize import Bounds

from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.base import ArraySpec, Solver
from kormos_opt.solvers.change_of_variables import in_own_variables
from kormos_opt.solvers.registry import GraphMethod, Method, NumpyMethod
from kormos_opt.solvers.units import Units
from kormos_opt.stages import bounds, constraints, matrices, x_scale

_OF_POINTS = {"initial_simplex", "direc", "hess_inv0"}  # options that know nothing of centered inputs


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

    is_in_graph: ClassVar[bool] = False  # where the solver keeps what it knows in variables of the optimizer

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
        given = {name: value for name, value in self.settings.items() if name in usual}
        return any(value is not None and value > (usual[name] or 0.0) for name, value in given.items())

    @property
    def settings(self) -> dict:
        """The options of the method that are not left to it."""
        return self.method.settings(self.tol, self.options)

    @property
    def stops_at_precision(self) -> bool:
        """Whether to stop when the loss cannot show further progress. If the user gave tolerances, only those count."""
        return self.method.stops_at_precision and not self.has_own_tolerances and not self.constraints

    def limits(self, parameters: "FlatParameters") -> Bounds | None:
        """The bounds on all weights, or `None`."""
        return bounds.resolve(self.bounds, parameters, self.method)

    def check(self, parameters: "FlatParameters") -> None:
        """Raises an error if this stage cannot run, before any work."""
        limits = self.limits(parameters)
        free = parameters.size if limits is None else int(np.count_nonzero(limits.lb < limits.ub))
        matrices.check_matrices(self.method, free, bool(self.constraints))
        constraints.resolve(self.constraints, parameters, self.method)

    def chosen(self, parameters: "FlatParameters", is_whole: bool) -> "Stage":
        """The stage that does the job: this one.

        Args:
            parameters: The weights as a vector.
            is_whole: Whether the data is dense and in memory.
        """
        del parameters, is_whole
        return self


class SolverStage(Stage):
    """A stage of a method in numpy."""

    method: NumpyMethod

    def remembered(self, parameters: "FlatParameters") -> dict[str, ArraySpec] | None:
        """The arrays that its solver works on and a file keeps, `None` if it has none."""
        if self.method.variables is None:
            return None
        limits = self.limits(parameters)
        size = parameters.size if limits is None else np.count_nonzero(limits.lb < limits.ub)
        return dict(self.method.variables(int(size), self.settings))

    def centers(self, parameters: "FlatParameters") -> bool:
        """Whether the means of inputs may be taken up by biases."""
        is_free = self.limits(parameters) is None and not self.constraints
        return is_free and not _OF_POINTS & self.settings.keys()

    def solver(
        self,
        parameters: "FlatParameters",
        start: np.ndarray,
        arrays: Mapping[str, np.ndarray] | None,
        units: Units,
        resolution: float | None,
    ) -> Solver:
        """The solver, not started.

        Args:
            parameters: The weights as a vector.
            start: Where it starts, moved between the bounds, float64 of shape `(n,)`.
            arrays: The arrays that `remembered` describes, or `None`.
            units: The units in which the solver sees the weights.
            resolution: Of f, where a first step is to be found that it can show; else `None`.
        """
        method, limits, options = self.method, self.limits(parameters), self.settings
        if not units.are_plain:
            options = x_scale.without_own_scale(method, parameters.size) | options
        return in_own_variables(
            functools.partial(self._start, arrays),
            start if limits is None else np.clip(start, limits.lb, limits.ub),
            limits,
            constraints.resolve(self.constraints, parameters, method),
            options,
            derivatives=method.derivatives not in ("none", "jacobian"),
            units=units,
            resolution=resolution,
        )

    def _start(self, arrays, x0, limits, constraints, options):
        problem = {}
        if self.method.bounds:
            problem["bounds"] = limits
        if self.method.constraints:
            problem["constraints"] = constraints
        if arrays is not None:
            problem["state"] = arrays
        solver = self.method.start(x0, **problem | options)
        if not isinstance(solver, Generator):
            raise TypeError(
                f"Expected the `start` of {self.method.name} to return a generator of requests: a function with "
                f"`yield`. Received: {solver!r:.200}. See kormos_opt.solvers.base."
            )
        return solver


class GraphStage(Stage):
    """A stage of a method in the graph."""

    method: GraphMethod
    is_in_graph = True

    def remembered(self, size: int) -> dict[str, ArraySpec]:
        """The variables that keep what the solver knows."""
        return dict(self.method.variables(size, self.settings))

    @property
    def settings(self) -> dict:
        """All options of the method."""
        return {**self.method.options, **super().settings}


@dataclass(frozen=True)
class AutoStage(GraphStage):
    """A stage of a method in the graph, with another one for bounds and for data that is streamed or cannot be joined.

    Args:
        fallback: The other one.
    """

    fallback: SolverStage

    def limits(self, parameters: "FlatParameters") -> Bounds | None:
        """The bounds of the fallback."""
        return self.fallback.limits(parameters)

    def check(self, parameters: "FlatParameters") -> None:
        """Raises an error if neither can run."""
        self.fallback.check(parameters)

    def chosen(self, parameters: "FlatParameters", is_whole: bool) -> Stage:
        """This stage where it can run, else the fallback. The result names it."""
        can_do = is_whole and self.limits(parameters) is None and not self.constraints
        return self if can_do else self.fallback
