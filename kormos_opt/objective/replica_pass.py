"""The reducer of a pass under a strategy: each replica adds up its own rows, one all-reduce adds them up.

A replica hands over one vector, in which everything is a sum over its rows:

    header | rows | terms | variables of the metrics | rows * BatchNorm statistics | rows * logs

Divided by all rows the last two are means, as are the variables of metrics whose `aggregation` is not "sum". The
metrics are computed from those variables, so they are those of all rows, however unequal the parts.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_of, static_row_count
from kormos_opt.objective.chunk_sums import ChunkFunction, ChunkSums, PassResult, compiled, flat
from kormos_opt.objective.model_state import ModelState


class ReplicaPass:
    """A `Reducer` of a `FullPass`.

    The local work and the all-reduce are `tf.function`s of their own: TensorFlow tells the all-reduces of a call apart
    by a key that does not find its way into a function inside a loop. The metrics are left to the replicas: assigned
    from outside they would be read too, by an all-reduce.

    Args:
        model: The model.
        state: What a pass moves in the model.
        chunk_function: What is added up.
        rows_done: A counter of rows.
        replicas: The replicas.
    """

    is_alone = False

    def __init__(
        self,
        model: keras.Model,
        state: ModelState,
        chunk_function: ChunkFunction,
        rows_done: tf.Variable,
        replicas: Replicas,
    ):
        self._chunks = ChunkSums(model, chunk_function, rows_done)
        self._state = state
        self._replicas = replicas
        run, as_graph = replicas.run, functools.partial(compiled, eager=model.run_eagerly)
        self._as_graph = as_graph
        self._add = functools.cache(lambda structure: as_graph(functools.partial(self._run_add, structure)))
        self._start = as_graph(lambda point: run(self._start_on_replica, point))
        self._vectors = as_graph(lambda local, point: run(self._vector, local, point))
        self._result = as_graph(self._run_result)

    def graph(self, point, chunk, total_rows, loss_denominators) -> tf.Graph | None:
        """The graph of one chunk as a replica has it: elsewhere, reading a metric would be an all-reduce."""
        if self._chunks.eager:
            return None
        graphs = []

        def on_replica():
            graphs.append(self._chunks.graph(point, chunk, total_rows, loss_denominators))

        self._as_graph(lambda: self._replicas.run(on_replica)).get_concrete_function()
        return graphs[0]

    def whole(self, structure, rows_per_chunk, one_chunk, point, total_rows, loss_denominators, *data):
        """The vectors of all replicas here. How each one cuts its rows depends on those alone."""
        del one_chunk
        on_replica = functools.partial(self._on_replica, structure, rows_per_chunk)
        return self._replicas.run(on_replica, point, total_rows, loss_denominators, *data)

    def start(self, point):
        """Zeros on every replica."""
        return self._start(point)

    def add(self, local, point, chunk, total_rows, loss_denominators):
        """One more batch, whose rows are shared among the replicas of this process."""
        parts, structure = flat(self._replicas.distribute(chunk, int(rows_of(chunk))))
        self._chunks.count(chunk)
        return self._add(structure)(local, point, total_rows, loss_denominators, *parts)

    def local_result(self, local, point):
        """The vectors of all replicas here."""
        return self._vectors(local, point)

    def all_reduce(self, local_result, point) -> PassResult:
        """What the vectors of all replicas everywhere add up to."""
        return self._result(self._replicas.sum(local_result), point)

    def give_up(self, point) -> None:
        """Tells the other workers that this one cannot go on."""
        if self._replicas.workers > 1:
            groups = self._layout(point)
            self._replicas.tell_failure(1 + sum(int(np.prod(shape)) for group in groups for shape, _ in group))

    def _on_replica(self, structure, rows_per_chunk, point, total_rows, loss_denominators, *data):
        self._state.reset_metrics()
        data = structure.fill(data)
        rows = static_row_count(data)
        _, sums, logs = self._nothing(point)
        if rows > 0:
            to_cut = None if rows <= rows_per_chunk else tf.constant(rows)
            sums, logs = self._chunks.over(data, to_cut, rows_per_chunk, point, total_rows, loss_denominators)
        return self._vector((tf.constant(rows, tf.float64), sums, logs), point)

    def _run_add(self, structure, local, point, total_rows, loss_denominators, *data):
        def on_replica(local, point, total_rows, loss_denominators, *data):
            chunk = structure.fill(data)
            if static_row_count(chunk) == 0:
                return local
            here = tf.cast(rows_of(chunk), tf.float64)

            def add():
                rows, sums, _ = local
                return rows + here, *self._chunks.add(sums, point, chunk, total_rows, loss_denominators)

            return tf.cond(here > 0, add, lambda: local)

        return self._replicas.run(on_replica, local, point, total_rows, loss_denominators, *data)

    def _start_on_replica(self, point):
        self._state.reset_metrics()
        return self._nothing(point)

    def _nothing(self, point):
        """The rows, sums and logs of a replica before its first row."""
        chunk_function = self._chunks.chunk_function
        logs = keras.tree.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), chunk_function.logs())
        return tf.zeros((), tf.float64), chunk_function.zeros(point), logs

    def _vector(self, local, point):
        rows, sums, logs = local
        metrics = [
            tf.cast(variable.value, tf.float64) * (1.0 if variable.aggregation == "sum" else rows)
            for variable in self._state.metrics
        ]
        means = [
            rows * tf.cast(value, tf.float64)
            for value in (*self._state.save_moving_statistics(), *keras.tree.flatten(logs))
        ]
        pieces = [tf.reshape(piece, (-1,)) for piece in (rows, *sums, *metrics, *means)]
        return tf.concat([self._replicas.header(point[0]), *pieces], axis=0)

    def _layout(self, point):
        """Shapes and dtypes of what follows `header` and `rows` in the vector: terms, metrics, statistics, logs."""
        chunk_function = self._chunks.chunk_function
        return (
            [(shape, "float64") for shape in chunk_function.shapes(*point)],
            [(variable.shape, variable.dtype) for variable in self._state.metrics],
            [(variable.shape, variable.dtype) for variable in self._state.moving_statistics],
            [(spec.shape, spec.dtype) for spec in keras.tree.flatten(chunk_function.logs())],
        )

    def _run_result(self, total, point):
        """Takes the summed vector apart."""
        layout = self._layout(point)
        sizes = [int(np.prod(shape)) for group in layout for shape, _ in group]
        _, rows, *pieces = tf.split(total, [self._replicas.header_size, 1, *sizes])
        pieces = iter(pieces)

        def values(group, divisor):
            return [tf.cast(tf.reshape(next(pieces) / divisor, shape), dtype) for shape, dtype in group]

        terms, metrics, statistics, logs = map(values, layout, (1.0, 1.0, rows, rows))
        metrics = [
            value if variable.aggregation == "sum" else value / tf.cast(rows[0], value.dtype)
            for variable, value in zip(self._state.metrics, metrics, strict=True)
        ]
        logs = keras.tree.pack_sequence_as(self._chunks.chunk_function.logs(), logs)
        return PassResult(tuple(terms), statistics, self._state.results(metrics, logs))
