"""What a fit and its runs ask of the optimizer that the model is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import keras
from scipy.optimize import OptimizeResult

from kormos_opt.graph_solvers.variables import GraphSolverVariables
from kormos_opt.solvers.base import ArraySpec
from kormos_opt.stages.stage import Stage
from kormos_opt.training.runs.run import Run
from kormos_opt.training.runs.run_state import RunState


@runtime_checkable
class HostOptimizer(Protocol):
    """A `BatchOptimizer`, or a double of it in a test.

    Attributes:
        iterations: The iterations so far, a variable that files carry.
        iterations_per_epoch: Solver iterations that make one epoch.
        precision: `"model"`, `"float64"` or `"auto"`.
        polish: Whether truncated Newton steps finish a fit that stops early.
        x_scale: The units in which the solver sees the weights.
    """

    iterations: Any
    iterations_per_epoch: int
    precision: str
    polish: bool
    x_scale: Any

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What a fit does, one stage after the other."""

    @property
    def loaded_state(self) -> RunState | None:
        """What a file has brought and no run has taken yet."""

    def take_loaded_state(self) -> RunState | None:
        """What a file has brought, which is then gone here."""

    def loads_float64(self) -> bool:
        """Whether a file has brought a run whose f is computed in double precision by then."""

    def variables_for(self, model: keras.Model, specs: Mapping[str, ArraySpec], dtype: str) -> GraphSolverVariables:
        """The variables of a solver in the graph."""

    def watch(self, run: Run) -> None:
        """Files carry the state of this run, from here on."""

    def record(self, result: OptimizeResult | None) -> None:
        """Keeps the result of a fit."""

    def has_starts(self) -> bool:
        """Whether a fit has to try several initial weights first."""

    def evaluations_of_starts(self) -> tuple[int, int]:
        """What that has taken: evaluations and Hessian-vector products."""
