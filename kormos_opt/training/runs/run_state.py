"""What a suspended run of a solver in numpy knows, as arrays: files carry them, and a run goes on from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.recent_steps import RecentSteps

_OF_SOLVER = "array_"


class RunState(NamedTuple):
    """Where a run stands between two iterations.

    Attributes:
        x: Its last accepted iterate, float64 of shape `(n,)`.
        fun: f there.
        jac: The gradient there.
        counts: Iterates, evaluations and Hessian-vector products so far.
        seeds: The states of the model's seed generators, of shape `(count, 2)`.
        scale: The units in which the solver sees the weights, float64 of shape `(n,)`.
        shift: For centered inputs their means in these units, else 0; float64 of shape `(n,)`.
        steps: The last steps, as `RecentSteps` keeps them.
        float64: 1 where f was computed in double precision by then, else 0.
        arrays: The arrays of the solver.
    """

    x: np.ndarray
    fun: np.ndarray
    jac: np.ndarray
    counts: np.ndarray
    seeds: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    steps: np.ndarray
    float64: np.ndarray
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RunState:
        """The inverse of `to_arrays`."""
        ones = np.ones_like(arrays["x"])
        none = RecentSteps.none(ones.size).values
        before = {"scale": ones, "shift": 0 * ones, "steps": none, "float64": np.array(0)}  # files that had none
        arrays = before | dict(arrays)
        own = {name: arrays[name] for name in cls._fields if name != "arrays"}
        solvers = {
            name.removeprefix(_OF_SOLVER): array for name, array in arrays.items() if name.startswith(_OF_SOLVER)
        }
        return cls(**own, arrays=solvers)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        own = self._asdict()
        return {_OF_SOLVER + name: array for name, array in own.pop("arrays").items()} | own

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(array.nbytes for array in self.to_arrays().values())


def evaluation_at(
    objective: BoundObjective, x: np.ndarray, fun: float, has_gradient: Callable[[np.ndarray], bool], seeds
) -> Evaluation | None:
    """The evaluation from which a run goes on that a file has brought, if the model and its data are still those.

    The weights have to be those of `x`, and f and its gradient what they were. The seed generators are then in the
    states that the file has brought; else they stay as they are.

    Args:
        objective: f.
        x: Where the run stands.
        fun: f there, as it was.
        has_gradient: Called with a gradient. Returns whether it is the one that was there.
        seeds: The states of the seed generators, of shape `(count, 2)`.
    """
    state, parameters = objective.state, objective.parameters
    if x.shape != (parameters.size,) or not np.array_equal(parameters.round(x), parameters.ravel()):
        return None
    usual = state.save()
    for seed, value in zip(state.seeds, seeds, strict=False):
        seed.assign(value)
    evaluation = objective.evaluate(x)
    if evaluation.fun == fun and evaluation.jac is not None and has_gradient(evaluation.jac):
        return evaluation
    state.restore(usual)
    return None


def rounded(vector: np.ndarray, dtype: str) -> np.ndarray:
    """A float64 vector as a variable of `dtype` holds it."""
    return vector.astype(tf.as_dtype(dtype).as_numpy_dtype).astype("float64")
