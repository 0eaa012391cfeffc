"""Iterations of a solver in the graph: all of an epoch, with all passes over the data, are one `tf.function` call.

It is traced once for an objective, and serves all runs over it: tracing takes seconds. Under XLA, where the model asks
for it and its data is one chunk, all of it is one program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kormos_opt.graph_solvers.line_search import dot
from kormos_opt.graph_solvers.units import own_gradient_of, weights_of
from kormos_opt.graph_solvers.variables import POINT, GraphSolverVariables
from kormos_opt.keras_internals.graphs import traced
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.numerics import NEGLIGIBLE_FACTOR, finite_stand_in, is_hidden
from kormos_opt.solvers.registry import GraphMethod
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.solvers.units import Units

_TRACED = 64  # evaluations of an iteration whose metrics are remembered

# Why the iterations end: the ending, and the option that continues. The first one is that they go on.
ENDINGS = (
    (None, ""),
    (TerminationReason.RESOLUTION, ""),
    (TerminationReason.NO_BETTER_POINT, ""),
    (TerminationReason.SMALL_GRADIENT, "gtol"),
    (TerminationReason.SMALL_REDUCTION, "ftol"),
    (TerminationReason.SHORT_STEP, "xtol"),
    (TerminationReason.LIMIT, "maxiter"),
    (TerminationReason.LIMIT, "maxfun"),
)
_GOES_ON, _RESOLUTION, _NO_BETTER_POINT, _GRADIENT, _REDUCTION, _SHORT_STEP, _MAXITER, _MAXFUN = range(len(ENDINGS))


class Stepped(NamedTuple):
    """What a call has done.

    Attributes:
        nit: How many iterates there were.
        nfev: How many evaluations.
        ending: Where in `ENDINGS` it says why there will be no more.
        traced: The logs and the statistics of BatchNorm at the last iterate, `None` if its evaluation was not kept.
    """

    nit: int
    nfev: int
    ending: int
    traced: tuple[dict, list] | None


class GraphStep:
    """Iterations, from the variables of the solver to those variables.

    Args:
        method: The method, for its `step`.
        variables: What the solver remembers.
        options: All of the method.
        resolution: Relative resolution of f, or `None`: no end there.
    """

    def __init__(
        self, method: GraphMethod, variables: GraphSolverVariables, options: Mapping, resolution: float | None = None
    ):
        self._method = method
        self._variables = variables
        self._options = options
        self._resolution = resolution
        self._trace = _Trace()
        self._begin = traced(self._assign_beginning)
        self.compiled: dict = {}

    def begin(self, evaluation: Evaluation) -> None:
        """Makes the variables of the solver those of a run that begins at this evaluation."""
        self._begin(*(tf.constant(value, tf.float64) for value in evaluation[:3]))

    def _assign_beginning(self, *point):
        known, variables = dict(zip(POINT, point, strict=True)), self._variables
        for name, variable in variables.state.items():
            value = known.get(name, tf.zeros(variable.shape, variable.dtype))
            variable.assign(tf.cast(value, variable.dtype))
        variables.nit.assign(0)

    def __call__(
        self, objective: BoundObjective, accepted: Evaluation, iterations: int, units: Units | None = None
    ) -> Stepped:
        """Iterates. Leaves the weights at the last iterate.

        Args:
            objective: f.
            accepted: The evaluation where the first iteration starts.
            iterations: How many there are, unless the solver ends.
            units: The units in which the solver sees the weights. Defaults to `None`: 1.
        """
        evaluate, data = objective.graph_function()
        self._trace.make_room(accepted)
        given = () if units is None else (tf.constant(units.scale), tf.constant(units.shift))
        centered = None if units is None else units.centered
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tf.nest.flatten(data, expand_composites=True))
        key = centered, shapes
        if key not in self.compiled:
            run = self._make(evaluate, objective.parameters, objective.state, centered)
            if not objective.objective.is_eager:
                run = traced(run, jit_compile=self._method.takes_xla and objective.is_one_program)
            self.compiled = {key: run}
        nit, nfev, ending, matches, row = self.compiled[key](tf.constant(iterations), given, *data)
        row = self._trace.unpacked(row) if matches else None
        return Stepped(int(nit), int(nfev), int(ending), row)

    def _make(self, evaluate, parameters, model_state, centered):
        """The function to trace. It outlives the fit, so it knows nothing that holds the data."""
        variables, trace = self._variables, self._trace
        nits, nfevs = variables.nit, variables.nfev

        def run(iterations, units, *data):
            def weights(z):
                """The weights at a point of the solver, float64."""
                z = tf.cast(z, tf.float64)
                return z if centered is None else weights_of(z, *units, centered)

            def evaluate_there(z, *data):
                fun, jac, moving_statistics, logs = evaluate(weights(z), *data)
                own = jac if centered is None else own_gradient_of(jac, *units, centered)
                return fun, own, moving_statistics, logs

            def goes_on(nit, nfev, ending, *_):
                return (nit < iterations) & (ending == _GOES_ON)

            def iterate(nit, nfev, ending, matches, row, state):
                trace.clear()
                value_and_gradient = self._at_points_of(evaluate_there, data, state)
                so_far = nits.value + tf.cast(nit, tf.int64)
                after, failed = self._method.step(value_and_gradient, state, tf.cast(so_far, tf.int32), self._options)
                nfev += trace.count.read_value()
                ending = self._ending(state, after, failed, so_far + 1, nfevs.value + tf.cast(nfev, tf.int64))
                is_there, new = trace.of(after["objective_value"])
                matches, row = tf.where(failed, matches, is_there), tf.where(failed, row, new)
                self._advance_statistics(model_state, ~failed & is_there, new)
                return nit + tf.cast(~failed, tf.int32), nfev, ending, matches, row, after

            state = {name: tf.identity(variable.value) for name, variable in variables.state.items()}
            nothing = tf.constant(0), tf.constant(0), tf.constant(_GOES_ON), tf.constant(False), trace.empty()
            nit, nfev, ending, matches, row, state = tf.while_loop(
                goes_on, iterate, (*nothing, state), parallel_iterations=1
            )
            for name, value in state.items():
                variables.state[name].assign(value)
            nits.assign_add(tf.cast(nit, tf.int64))
            nfevs.assign_add(tf.cast(nfev, tf.int64))
            point = weights(state["position"])
            if centered is not None:
                variables.point.assign(point)
            parameters.assign(point)
            return nit, nfev, ending, matches, row

        return run

    def _at_points_of(self, evaluate, data, state):
        """f and its gradient as the solver asks for them, with what leads back from NaN."""
        start, fun_at_start, gradient_at_start = (state[name] for name in POINT)

        def value_and_gradient(x):
            fun, jac, moving_statistics, logs = evaluate(x, *data)
            step = x - start

            def slope():
                return dot(gradient_at_start, step)

            self._trace.add(fun, lambda: tf.abs(slope()), logs, moving_statistics)
            is_finite = tf.math.is_finite(fun) & tf.reduce_all(tf.math.is_finite(jac))
            nothing = tf.zeros((), tf.float64), tf.ones((), tf.float64)
            slope_here, squared = tf.cond(is_finite, lambda: nothing, lambda: (slope(), dot(step, step)))
            stand_in, back = finite_stand_in(fun_at_start, slope_here, tf.cast(step, tf.float64), squared, tf.minimum)
            return tf.where(is_finite, fun, stand_in), tf.cast(tf.where(is_finite, jac, back), x.dtype)

        return value_and_gradient

    def _ending(self, before, after, failed, nit, nfev):
        """Whether the iterations end here, and why: the first that holds."""
        options = self._options
        x, fun, jac = (after[name] for name in POINT)
        old_x, old_fun, old_jac = (before[name] for name in POINT)
        step = x - old_x
        scale = tf.maximum(tf.maximum(tf.abs(old_fun), tf.abs(fun)), 1.0)
        ends = [(_GRADIENT, tf.reduce_max(tf.abs(jac)) <= tf.cast(options["gtol"], jac.dtype))]
        if self._resolution is not None:
            ends.append((_RESOLUTION, self._hides(tf.abs(dot(old_jac, step)), fun)))
        ends.append((_REDUCTION, (old_fun - fun) / scale <= options["ftol"]))
        if options["xtol"] > 0:
            ends.append((_SHORT_STEP, dot(step, step) < options["xtol"] ** 2))
        if options["maxiter"] is not None:
            ends.append((_MAXITER, nit >= options["maxiter"]))
        if options["maxfun"] is not None:
            ends.append((_MAXFUN, nfev >= options["maxfun"]))
        ending = tf.constant(_GOES_ON)
        for code, holds in reversed(ends):
            ending = tf.where(holds, code, ending)
        stuck = tf.constant(_NO_BETTER_POINT)
        if self._resolution is not None:
            is_hidden_change = self._hides(self._trace.first_change.read_value(), fun, NEGLIGIBLE_FACTOR)
            stuck = tf.where(is_hidden_change, _RESOLUTION, stuck)
        return tf.where(failed, stuck, ending)

    def _hides(self, change, fun, factor=1):
        return is_hidden(change, fun, self._resolution, factor)

    def _advance_statistics(self, model_state, is_known, row):
        """BatchNorm's statistics advance at every iterate, so that the next evaluation starts from them."""
        if not model_state.moving_statistics:
            return
        _, statistics = self._trace.unpacked(row)
        for variable, value in zip(model_state.moving_statistics, statistics, strict=True):
            variable.assign(tf.where(is_known, value, variable.value))


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
        self._like = evaluation.logs, evaluation.moving_statistics
        leaves = tf.nest.flatten(self._like)
        self._shapes = [(tf.convert_to_tensor(leaf).shape, tf.convert_to_tensor(leaf).dtype) for leaf in leaves]
        width = 1 + sum(shape.num_elements() for shape, _ in self._shapes)
        self._rows = tf.Variable(tf.zeros((_TRACED, width), tf.float64), trainable=False)
        self.count = tf.Variable(0, trainable=False)
        self.first_change = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def clear(self) -> None:
        """Forgets all rows."""
        self._rows.assign(tf.fill(self._rows.shape, tf.constant(np.inf, tf.float64)))
        self.count.assign(0)

    def add(self, fun, change: Callable, logs, moving_statistics) -> None:
        """Takes an evaluation. `change` says by how much f was to change at its point."""
        leaves = tf.nest.flatten((logs, moving_statistics))
        row = [tf.reshape(tf.cast(leaf, tf.float64), (-1,)) for leaf in (fun, *leaves)]
        slot = tf.math.floormod(self.count, _TRACED)
        self.first_change.assign(tf.cond(self.count == 0, change, self.first_change.read_value))
        self._rows.scatter_nd_update([[slot]], [tf.concat(row, axis=0)])
        self.count.assign_add(1)

    def of(self, fun) -> tuple[tf.Tensor, tf.Tensor]:
        """Whether there is a row with this f, and what stands behind it in the nearest one."""
        differences = tf.abs(self._rows[:, 0] - fun)
        differences = tf.where(tf.math.is_nan(differences), tf.constant(np.inf, tf.float64), differences)
        best = tf.argmin(differences)  # gathered: XLA would compile a slice anew for every index
        return tf.gather(differences, best) == 0, tf.gather(self._rows, best)[1:]

    def empty(self) -> tf.Tensor:
        """What stands behind f in a row without an evaluation."""
        return tf.zeros((self._rows.shape[1] - 1,), tf.float64)

    def unpacked(self, row) -> tuple[dict, list]:
        """The logs and statistics of a row, as tensors."""
        pieces = tf.split(row, [shape.num_elements() for shape, _ in self._shapes])
        shaped = zip(pieces, self._shapes, strict=True)
        values = [tf.cast(tf.reshape(piece, shape), dtype) for piece, (shape, dtype) in shaped]
        return tf.nest.pack_sequence_as(self._like, values)
