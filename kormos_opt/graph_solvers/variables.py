"""The Keras variables in which a solver in the graph keeps what it knows, so that files and checkpoints carry it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras

from kormos_opt.solvers.base import ArraySpec
from kormos_opt.solvers.recent_steps import RecentSteps

POINT = "position", "objective_value", "objective_gradient"  # what every solver in the graph remembers: x, f, gradient
SEEDS = 64  # seed generators whose states there is room for at first: Keras's files do not keep them
RUNS, IN_FLOAT64 = 1, 2  # `is_running`
OPTIONS = {"gtol": 1e-5, "ftol": 2.2e-9, "xtol": 0.0, "maxiter": None, "maxfun": None}
"""What every solver in the graph takes: how small the gradient, the last reduction of f and the last step shall be, and
how many iterations and evaluations there may be."""


class GraphSolverVariables(NamedTuple):
    """The variables of a run: what its solver remembers, counters, whether it can go on, and the seeds of f.

    Attributes:
        state: The variables of the solver by name.
        nit: How many iterations there were.
        nfev: How many evaluations.
        is_running: 1 while a run can go on from here, 2 where its f is computed in double precision by then.
        seeds: The states of the seed generators, of shape `(room, 2)`.
        nhev: How many Hessian-vector products.
        steps: The last steps, as `RecentSteps` keeps them.
        scale: Of the units in which the solver sees the weights, of shape `(n,)`; zeros for 1.
        shift: For centered inputs their means in these units, else 0; of shape `(n,)`.
        point: The weights themselves, of shape `(n,)`, where the solver has others.
    """

    state: dict[str, keras.Variable]
    nit: keras.Variable
    nfev: keras.Variable
    is_running: keras.Variable
    seeds: keras.Variable
    nhev: keras.Variable
    steps: keras.Variable
    scale: keras.Variable
    shift: keras.Variable
    point: keras.Variable

    @classmethod
    def make(
        cls, add_variable: Callable, specs: Mapping[str, ArraySpec], dtype: str, seeds: int = 0
    ) -> GraphSolverVariables:
        """New ones, made by `add_variable(shape, dtype=, name=)`.

        Args:
            add_variable: Makes one.
            specs: What the solver remembers.
            dtype: The precision of the objective.
            seeds: How many seed generators there are. Defaults to `0`: nobody knows yet.
        """
        state = {name: add_variable(spec.shape, dtype=spec.dtype or dtype, name=name) for name, spec in specs.items()}
        counters = {name: add_variable((), dtype="int64", name=name) for name in ("nit", "nfev", "is_running")}
        seeds = add_variable((max(seeds, SEEDS), 2), dtype="int64", name="seeds")
        nhev, shape = add_variable((), dtype="int64", name="nhev"), specs["position"].shape
        steps = add_variable(RecentSteps.shape(*shape), dtype="float64", name="steps")
        units = {
            name: add_variable(shape, dtype="float64", name=f"unit_{name}") for name in ("scale", "shift", "point")
        }  # a solver may have a variable of such a name too
        return cls(state, **counters, seeds=seeds, nhev=nhev, steps=steps, **units)

    def fit(self, specs: Mapping[str, ArraySpec], dtype: str) -> bool:
        """Whether they are for a solver that remembers this, in this precision."""
        mine = {name: (tuple(variable.shape), variable.dtype) for name, variable in self.state.items()}
        return mine == {name: (spec.shape, spec.dtype or dtype) for name, spec in specs.items()}

    @property
    def all(self) -> list[keras.Variable]:
        """All of them."""
        return [
            *self.state.values(),
            self.nit,
            self.nfev,
            self.is_running,
            self.seeds,
            self.nhev,
            self.steps,
            self.scale,
            self.shift,
            self.point,
        ]


def vector_dtype(variables, precision: str) -> str:
    """The dtype of vectors of a solver in the graph: as fine as the weights, or as the objective.

    Args:
        variables: The trainable variables.
        precision: The `precision` of the optimizer.
    """
    is_fine = precision in ("float64", "auto") or any(variable.dtype == "float64" for variable in variables)
    return "float64" if is_fine else "float32"
