"""A run of L-BFGS in the graph: an iteration, line search and all passes over the data, is one `tf.function` call.

Its state lives in Keras variables, so files and checkpoints carry it, and a run goes on from them with the very same
iterates. Same face as `solver_run.SolverRun`.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.evaluation import Evaluation
from kormos_opt.graph_solvers import tfp_lbfgs as tfp_graph
from kormos_opt.objective.objective import Objective, PreparedBatch
from kormos_opt.solvers.endings import CONVERGED, LIMIT, NO_BETTER_POINT
from kormos_opt.solvers.safeguards import LITTLE
from kormos_opt.training.run import Run

OPTIONS = {"gtol": 1e-5, "ftol": 2.2e-9, "xtol": 0.0, "maxls": 30, "maxiter": None, "maxfun": None}
_TRACED = 64  # evaluations of an iteration whose metrics are remembered
_SEEDS = 64  # seed generators whose states there is room for at first: Keras's files do not keep them
_OPTION = "options={{'{}': ...}}"
_log = logging.getLogger("kormos_opt")


class Memory(NamedTuple):
    """The Keras variables of a run: those of `tfp_graph.State`, counters, whether it can go on, and the seeds of f."""

    position: keras.Variable
    objective_value: keras.Variable
    objective_gradient: keras.Variable
    position_deltas: keras.Variable
    gradient_deltas: keras.Variable
    nit: keras.Variable
    nfev: keras.Variable
    is_running: keras.Variable
    seeds: keras.Variable

    @classmethod
    def of(cls, add_variable: Callable, size: int, pairs: int, seeds: int = 0) -> "Memory":
        """New ones for `size` weights, `pairs` of changes and `seeds`, by `add_variable(shape, dtype=, name=)`."""
        shapes = {
            "position": (size,),
            "objective_value": (),
            "objective_gradient": (size,),
            "position_deltas": (pairs, size),
            "gradient_deltas": (pairs, size),
        }
        variables = {name: add_variable(shape, dtype="float64", name=name) for name, shape in shapes.items()}
        counters = {name: add_variable((), dtype="int64", name=name) for name in ("nit", "nfev", "is_running")}
        return cls(**variables, **counters, seeds=add_variable((max(seeds, _SEEDS), 2), dtype="int64", name="seeds"))


class GraphRun(Run):
    """A run between its start and its result.

    Args:
        objective: f.
        batch: Returns the data, which changes from fit to fit.
        memory: The variables.
        options: Those of `OPTIONS` that were given.
        resolution: Relative resolution of f, or `None`: no end there.
        dtype: Name of the precision f is computed in, for the message.
    """

    def __init__(
        self,
        objective: Objective,
        batch: Callable[[], PreparedBatch],
        memory: Memory,
        options: dict,
        resolution: float | None,
        dtype: str,
    ):
        super().__init__()
        self._objective = objective
        self._batch = batch
        self._memory = memory
        self._options = OPTIONS | options
        self._resolution = resolution
        self._dtype = dtype
        self._trace = self._shapes = None
        self._step = {}

    def iterate(self) -> bool:
        """One iteration, or the start and one."""
        batch = self._batch()
        if not isinstance(batch.full_batch, WholeTensors):
            raise ValueError(
                'Expected dense training data in memory for engine="tfp", whose loops are inside the graph. '
                "Received: batches that cannot be joined or are streamed. Use engine='scipy'."
            )
        if self.accepted is None:
            self._start(batch)
            if np.abs(self.accepted.jac).max() <= self._options["gtol"]:
                self._end(True, 0, _converged("no component of the gradient is larger than `gtol`", "gtol"))
                return False
        before = self.accepted
        failed, change, nfev, matches, logs, averages = self._advance(batch)
        self.nfev += nfev
        if failed:
            if self._is_at_resolution(change, LITTLE):
                self._end(True, 0, self._at_resolution())
            else:
                self._end(False, 2, NO_BETTER_POINT)
            return False
        x, jac = self._memory.position.numpy(), self._memory.objective_gradient.numpy()
        fun = float(self._memory.objective_value.numpy())
        self.accepted = Evaluation(x, fun, jac, logs, averages)
        if not matches:
            self.accepted = self._objective.evaluate(x, batch)._replace(fun=fun, jac=jac)
        self.position = self.accepted.x
        self.gradient_norm = float(np.linalg.norm(jac))
        self.nit += 1
        self._end_if_converged(before)
        return True

    def close(self) -> None:
        """Says in the variables that this run does not go on."""
        self._memory.is_running.assign(0)

    def takes_anew(self, evaluation: Evaluation) -> bool:
        """The correction pairs stay: they say something of the new objective too."""
        memory = self._memory
        self.nfev += 1
        memory.nfev.assign_add(1)
        memory.objective_value.assign(evaluation.fun)
        memory.objective_gradient.assign(evaluation.jac)
        memory.is_running.assign(1)
        self.result = None
        self._take(evaluation)
        return True

    def survives_interrupt(self) -> bool:
        """The variables change all at once, so they are those of an iterate, maybe of one not accepted yet."""
        if self.accepted is None or self.result is not None:
            return False
        x = self._memory.position.numpy()
        if not np.array_equal(x, self.accepted.x):
            self._take(self._objective.evaluate(x, self._batch()))
            self.nit, self.nfev = int(self._memory.nit.numpy()), int(self._memory.nfev.numpy())
        return True

    def _start(self, batch):
        """From the variables if they are those of the weights and this objective, else afresh from the weights."""
        x = self._objective.parameters.ravel()
        was_running = bool(self._memory.is_running.numpy())
        if self._goes_on(x, batch):
            return
        if was_running:
            _log.warning(
                "The memory of L-BFGS that came with the model is of other weights or another objective: the solver "
                "starts afresh from the weights."
            )
        evaluation = self._objective.evaluate(x, batch)
        self._objective.check_start(evaluation, batch)
        self.nfev = 1
        memory = self._memory
        for variable in memory:
            variable.assign(tf.zeros(variable.shape, variable.dtype))
        memory.position.assign(x)
        memory.objective_value.assign(evaluation.fun)
        memory.objective_gradient.assign(evaluation.jac)
        memory.nfev.assign(1)
        memory.seeds.assign(self._seeds())
        memory.is_running.assign(1)
        self._take(evaluation)

    def _goes_on(self, x, batch):
        """Whether the variables are those of a run that stands at these weights, with this f."""
        memory, usual = self._memory, self._objective.state.save()
        here = self._objective.parameters.round(memory.position.numpy())
        if not (memory.is_running.numpy() and np.array_equal(here, x)):
            return False
        for seed, value in zip(self._objective.state.seeds, memory.seeds.numpy(), strict=False):
            seed.assign(value)
        evaluation = self._objective.evaluate(memory.position.numpy(), batch)
        same = evaluation.fun == float(memory.objective_value.numpy())
        if not (same and np.array_equal(evaluation.jac, memory.objective_gradient.numpy())):
            self._objective.state.restore(usual)
            return False
        self.nit, self.nfev = int(memory.nit.numpy()), int(memory.nfev.numpy())
        self._take(evaluation)
        return True

    def _seeds(self):
        states, room = [seed.numpy() for seed in self._objective.state.seeds], self._memory.seeds.shape[0]
        return np.reshape(states + [[0, 0]] * (room - len(states)), (room, 2)).astype("int64")

    def _take(self, evaluation):
        self.accepted = evaluation
        self.position = evaluation.x
        self.gradient_norm = float(np.linalg.norm(evaluation.jac))

    def _advance(self, batch):
        evaluate, data = self._objective.inside(batch)
        if self._trace is None:
            leaves = tf.nest.flatten((self.accepted.logs, self.accepted.averages))
            self._shapes = [(tf.convert_to_tensor(leaf).shape, tf.convert_to_tensor(leaf).dtype) for leaf in leaves]
            width = 1 + sum(shape.num_elements() for shape, _ in self._shapes)
            self._trace = tf.Variable(tf.zeros((_TRACED, width), tf.float64), trainable=False)
            self._count = tf.Variable(0, trainable=False)
            self._first_change = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        tensors = tf.nest.flatten(data, expand_composites=True)
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        if key not in self._step:
            step = self._make_step(evaluate)
            self._step = {key: step if self._objective.is_eager else tf.function(step, autograph=False)}
        failed, change, nfev, matches, row = self._step[key](*data)
        logs, averages = self._unpack(row.numpy())
        return bool(failed), float(change), int(nfev), bool(matches), logs, averages

    def _make_step(self, evaluate):
        memory, parameters = self._memory, self._objective.parameters

        def step(*data):
            self._trace.assign(tf.fill(self._trace.shape, tf.constant(np.inf, tf.float64)))
            self._count.assign(0)
            state = tfp_graph.State(*(tf.identity(getattr(memory, name).value) for name in tfp_graph.State._fields))

            def value_and_gradients(x):
                fun, jac, averages, logs = evaluate(x, *data)
                leaves = tf.nest.flatten((logs, averages))
                row = [tf.reshape(tf.cast(leaf, tf.float64), (-1,)) for leaf in (fun, *leaves)]
                slot = tf.math.floormod(self._count, _TRACED)
                change = tf.abs(tf.reduce_sum(state.objective_gradient * (x - state.position)))
                self._first_change.assign(tf.where(self._count == 0, change, self._first_change))
                self._trace.scatter_nd_update([[slot]], [tf.concat(row, axis=0)])
                self._count.assign_add(1)
                return tfp_graph.wall(state, x, fun, jac)

            nit = tf.cast(memory.nit.value, tf.int32)
            after, failed = tfp_graph.iterate(value_and_gradients, state, nit, self._options["maxls"])
            for name, value in after._asdict().items():
                getattr(memory, name).assign(value)
            memory.nit.assign_add(tf.cast(~failed, tf.int64))
            memory.nfev.assign_add(tf.cast(self._count.read_value(), tf.int64))
            parameters.assign(after.position)
            differences = tf.abs(self._trace[:, 0] - after.objective_value)
            best = tf.argmin(tf.where(tf.math.is_nan(differences), tf.constant(np.inf, tf.float64), differences))
            return (
                failed,
                self._first_change.read_value(),
                self._count.read_value(),
                differences[best] == 0,
                self._trace[best, 1:],
            )

        return step

    def _unpack(self, row):
        """The logs and averages of a row of the trace."""
        values = []
        for shape, dtype in self._shapes:
            values.append(tf.constant(row[: shape.num_elements()].reshape(shape), tf.float64))
            values[-1] = tf.cast(values[-1], dtype)
            row = row[shape.num_elements() :]
        return tf.nest.pack_sequence_as((self.accepted.logs, self.accepted.averages), values)

    def _end_if_converged(self, before):
        after, options = self.accepted, self._options
        step = after.x - before.x
        reduction = (before.fun - after.fun) / max(abs(before.fun), abs(after.fun), 1.0)
        if np.abs(after.jac).max() <= options["gtol"]:
            self._end(True, 0, _converged("no component of the gradient is larger than `gtol`", "gtol"))
        elif self._is_at_resolution(abs(before.jac @ step), 1):
            self._end(True, 0, self._at_resolution())
        elif reduction <= options["ftol"]:
            self._end(True, 0, _converged("the last iteration lowered the loss by less than `ftol`", "ftol"))
        elif np.linalg.norm(step) < options["xtol"]:
            self._end(True, 0, _converged("the last step was shorter than `xtol`", "xtol"))
        elif options["maxiter"] is not None and self.nit >= options["maxiter"]:
            self._end(False, 1, LIMIT.format(_OPTION.format("maxiter")))
        elif options["maxfun"] is not None and self.nfev >= options["maxfun"]:
            self._end(False, 1, LIMIT.format(_OPTION.format("maxfun")))

    def _is_at_resolution(self, change, times):
        return self._resolution is not None and change <= times * self._resolution * abs(self.accepted.fun)

    def _at_resolution(self):
        message = f"Converged: a step would change the loss by less than {self._dtype} can show"
        return message if self._dtype == "float64" else f'{message}. precision="float64" goes further'

    def _end(self, success, status, message):
        self._memory.is_running.assign(0)
        self.result = self.outcome(success, status, message)


def _converged(why, option):
    return CONVERGED.format(why, _OPTION.format(option))
