"""An iteration of a solver in the graph: line search and all passes over the data are one `tf.function` call.

It is traced once for an objective, and serves all runs over it: tracing takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf

from kormos_opt.solvers.numerics import finite_stand_in

if TYPE_CHECKING:
    from kormos_opt.evaluation import Evaluation
    from kormos_opt.graph_solvers.variables import GraphSolverVariables
    from kormos_opt.objective.bound_objective import BoundObjective

_TRACED = 64  # evaluations of an iteration whose metrics are remembered
_AT_START = "position", "objective_value", "objective_gradient"


class Stepped(NamedTuple):
    """What an iteration has done.

    Attributes:
        failed: Whether no better point was found.
        change: By how much f was to change at the first point, by the gradient at the start.
        nfev: How many evaluations there were.
        traced: The logs and the statistics of BatchNorm at the new point, `None` if its evaluation was not kept.
    """

    failed: bool
    change: float
    nfev: int
    traced: tuple[dict, list] | None


class GraphStep:
    """One iteration, from the variables of the solver to those variables.

    Args:
        step: That of the method, see `registry.Method`.
        variables: What the solver remembers.
        options: All of the method.
    """

    def __init__(self, step: Callable, variables: GraphSolverVariables, options: Mapping):
        self._solver_step = step
        self._variables = variables
        self._options = options
        self._trace = _Trace()
        self.compiled = {}

    def __call__(self, objective: BoundObjective, accepted: Evaluation) -> Stepped:
        """Iterates once. Leaves the weights at the new point.

        Args:
            objective: f.
            accepted: The evaluation where the iteration starts.
        """
        evaluate, data = objective.inside()
        self._trace.make_room(accepted)
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tf.nest.flatten(data, expand_composites=True))
        if key not in self.compiled:
            step = self._make(evaluate, objective.parameters)
            is_eager = objective.objective.is_eager
            self.compiled = {key: step if is_eager else tf.function(step, autograph=False)}
        failed, change, nfev, matches, row = self.compiled[key](*data)
        traced = self._trace.unpack(row.numpy(), accepted) if matches else None
        return Stepped(bool(failed), float(change), int(nfev), traced)

    def _make(self, evaluate, parameters):
        variables, trace = self._variables, self._trace

        def step(*data):
            trace.clear()
            state = {name: tf.identity(variable.value) for name, variable in variables.state.items()}
            start, fun_at_start, slopes = (state[name] for name in _AT_START)

            def value_and_gradient(x):
                fun, jac, moving_statistics, logs = evaluate(x, *data)
                step = x - start
                slope = tf.reduce_sum(slopes * step)
                trace.add(fun, tf.abs(slope), logs, moving_statistics)
                squared = tf.reduce_sum(step * step)
                stand_in, back = finite_stand_in(fun_at_start, slope, step, squared, tf.minimum)
                is_finite = tf.math.is_finite(fun) & tf.reduce_all(tf.math.is_finite(jac))
                return tf.where(is_finite, fun, stand_in), tf.where(is_finite, jac, back)

            nit = tf.cast(variables.nit.value, tf.int32)
            after, failed = self._solver_step(value_and_gradient, state, nit, self._options)
            for name, value in after.items():
                variables.state[name].assign(value)
            variables.nit.assign_add(tf.cast(~failed, tf.int64))
            variables.nfev.assign_add(tf.cast(trace.count.read_value(), tf.int64))
            parameters.assign(after["position"])
            return (
                failed,
                trace.first_change.read_value(),
                trace.count.read_value(),
                *trace.of(after["objective_value"]),
            )

        return step


class _Trace:
    """What the evaluations of one iteration have seen, in rows of one tensor: f, logs and statistics of BatchNorm.

    The solver says which point it has accepted by its f alone: the row with that f has the metrics.

    Attributes:
        count: How many evaluations there were.
        first_change: By how much f was to change at the first of them, by the gradient at the start.
    """

    def __init__(self):
        self._rows = None

    def make_room(self, evaluation: Evaluation) -> None:
        """Makes the variables, for evaluations like this one. They are made once."""
        if self._rows is not None:
            return
        leaves = tf.nest.flatten((evaluation.logs, evaluation.moving_statistics))
        self._shapes = [(tf.convert_to_tensor(leaf).shape, tf.convert_to_tensor(leaf).dtype) for leaf in leaves]
        width = 1 + sum(shape.num_elements() for shape, _ in self._shapes)
        self._rows = tf.Variable(tf.zeros((_TRACED, width), tf.float64), trainable=False)
        self.count = tf.Variable(0, trainable=False)
        self.first_change = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def clear(self) -> None:
        """Forgets all rows."""
        self._rows.assign(tf.fill(self._rows.shape, tf.constant(np.inf, tf.float64)))
        self.count.assign(0)

    def add(self, fun, change, logs, moving_statistics) -> None:
        """Takes an evaluation."""
        leaves = tf.nest.flatten((logs, moving_statistics))
        row = [tf.reshape(tf.cast(leaf, tf.float64), (-1,)) for leaf in (fun, *leaves)]
        slot = tf.math.floormod(self.count, _TRACED)
        self.first_change.assign(tf.where(self.count == 0, change, self.first_change))
        self._rows.scatter_nd_update([[slot]], [tf.concat(row, axis=0)])
        self.count.assign_add(1)

    def of(self, fun) -> tuple[tf.Tensor, tf.Tensor]:
        """Whether there is a row with this f, and what stands behind it in the nearest one."""
        differences = tf.abs(self._rows[:, 0] - fun)
        best = tf.argmin(tf.where(tf.math.is_nan(differences), tf.constant(np.inf, tf.float64), differences))
        return differences[best] == 0, self._rows[best, 1:]

    def unpack(self, row: np.ndarray, like: Evaluation) -> tuple[dict, list]:
        """The logs and statistics of a row."""
        values = []
        for shape, dtype in self._shapes:
            values.append(tf.constant(row[: shape.num_elements()].reshape(shape), tf.float64))
            values[-1] = tf.cast(values[-1], dtype)
            row = row[shape.num_elements() :]
        return tf.nest.pack_sequence_as((like.logs, like.moving_statistics), values)
