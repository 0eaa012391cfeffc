"""One pass over the full batch by all replicas of a strategy: each adds up its own rows, one all-reduce adds them up.

A replica hands over one vector, in which everything is a sum over its rows:

    header | rows | terms | variables of the metrics | rows * BatchNorm averages | rows * logs

Divided by all rows the last two are means, as are the variables of metrics whose `aggregation` is not "sum". The
metrics are computed from those variables, so they are those of all rows, however unequal the parts.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_of, static_row_count
from kormos_opt.objective.full_pass import FullPass, Outcome, Terms, flat
from kormos_opt.objective.model_state import ModelState


class ReplicaPass(FullPass):
    """A `FullPass` under a strategy.

    The local work and the all-reduce are `tf.function`s of their own: TensorFlow tells the all-reduces of a call apart
    by a key that does not find its way into a function inside a loop.

    Args:
        model: The model.
        state: What a pass moves in the model.
        assign: Makes a vector x the model's weights.
        terms: What is added up.
        rows_done: A counter of rows.
        replicas: The replicas.
    """

    def __init__(
        self,
        model: keras.Model,
        state: ModelState,
        assign: Callable,
        terms: Terms,
        rows_done: tf.Variable,
        replicas: Replicas,
    ):
        super().__init__(model, state, assign, terms, rows_done)
        self._replicas = replicas
        self._local = functools.cache(lambda *cut: self.compiled(functools.partial(self._run_local, *cut), exact=True))
        self._add = functools.cache(lambda structure: self.compiled(functools.partial(self._run_add, structure)))
        self._start = self.compiled(lambda point: replicas.run(self._start_on_replica, point))
        self._save = self.compiled(lambda: replicas.run(state.save_all))
        self._restore = self.compiled(lambda values: replicas.run(state.restore_all, values))
        self._vectors = self.compiled(lambda local, point: replicas.run(self._vector, local, point))
        self._outcome = self.compiled(self._run_outcome)

    def graph(self, point, chunk, rows, totals) -> tf.Graph | None:
        """The graph of one chunk as a replica has it: elsewhere, reading a metric would be an all-reduce."""
        if self._eager:
            return None
        graphs = []

        def on_replica():
            graphs.append(super(ReplicaPass, self).graph(point, chunk, rows, totals))

        self.compiled(lambda: self._replicas.run(on_replica)).get_concrete_function()
        return graphs[0]

    def over_whole(self, full_batch: WholeTensors, rows_per_chunk: int, rows: tf.Tensor, totals: tf.Tensor) -> Callable:
        """The pass over whole tensors, as a function of the tuple `point` that returns an `Outcome`."""
        run, data = self.inside(full_batch, rows_per_chunk)
        return lambda point: run(point, rows, totals, *data)

    def inside(self, full_batch: WholeTensors, rows_per_chunk: int) -> tuple[Callable, tuple]:
        """The pass over whole tensors, for use inside a `tf.function` of the caller too."""
        data, structure = flat(full_batch.data)
        local = self._local(structure, rows_per_chunk)

        def run(point, rows, totals, *data):
            return self._outcome(self._replicas.sum(local(point, rows, totals, *data)), point)

        return run, data

    def begin(self, point):
        """Starts a pass over batches."""
        before = self._begin(point[0])
        return before, self._start(point)

    def add(self, tally, point, chunk, rows: tf.Tensor, totals: tf.Tensor):
        """Adds a batch, whose rows are shared among the replicas of this process."""
        before, local = tally
        parts, structure = flat(self._replicas.distribute(chunk, int(rows_of(chunk))))
        return before, self._add(structure)(local, point, rows, totals, *parts)

    def end(self, tally, point) -> Outcome:
        """Ends a pass over batches."""
        before, local = tally
        vectors = self._vectors(local, point)
        self._state.restore(before)
        return self._outcome(self._replicas.sum(vectors), point)

    def suspend(self, tally):
        """Puts the model's state back between two batches. Returns that of each replica."""
        moved = self._save()
        self._state.restore(tally[0])
        return moved

    def resume(self, point, moved) -> None:
        """Goes back to where `suspend` was called."""
        self._assign(point[0])
        self._restore(moved)

    def give_up(self, tally, point) -> None:
        """Ends a pass over batches that cannot go on, and tells the other workers."""
        before, _ = tally
        self._state.restore(before)
        if self._replicas.workers > 1:
            groups = self._layout(point)
            self._replicas.tell_failure(1 + sum(int(np.prod(shape)) for group in groups for shape, _ in group))

    def _run_local(self, structure, rows_per_chunk, point, total_rows, totals, *flat):
        before = self._run_begin(point[0])
        on_replica = functools.partial(self._on_replica, structure, rows_per_chunk)
        vectors = self._replicas.run(on_replica, point, total_rows, totals, *flat)
        self._state.restore(before)
        return vectors

    def _run_begin(self, x):
        """Leaves the metrics to the replicas: assigned from outside they would be read too, by an all-reduce."""
        self._assign(x)
        return self._state.save()

    def _on_replica(self, structure, rows_per_chunk, point, total_rows, totals, *flat):
        self._state.reset_metrics()
        data = structure.fill(flat)
        rows = static_row_count(data)
        _, sums, logs = self._nothing(point)
        if rows > 0:
            to_cut = None if rows <= rows_per_chunk else tf.constant(rows)
            sums, logs = self._add_chunks(data, to_cut, rows_per_chunk, point, total_rows, totals)
        return self._vector((tf.constant(rows, tf.float64), sums, logs), point)

    def _run_add(self, structure, local, point, total_rows, totals, *flat):
        def on_replica(local, point, total_rows, totals, *flat):
            chunk = structure.fill(flat)
            if static_row_count(chunk) == 0:
                return local
            here = tf.cast(rows_of(chunk), tf.float64)

            def add():
                rows, sums, _ = local
                terms, logs = self._of_chunk(point, chunk, total_rows, totals)
                sums = tuple(total + term for total, term in zip(sums, terms, strict=True))
                return rows + here, sums, logs

            return tf.cond(here > 0, add, lambda: local)

        return self._replicas.run(on_replica, local, point, total_rows, totals, *flat)

    def _start_on_replica(self, point):
        self._state.reset_metrics()
        return self._nothing(point)

    def _nothing(self, point):
        """The rows, sums and logs of a replica before its first row."""
        logs = keras.tree.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), self._terms.logs())
        return tf.zeros((), tf.float64), self._terms.zeros(point), logs

    def _vector(self, local, point):
        rows, sums, logs = local
        metrics = [
            tf.cast(variable.value, tf.float64) * (1.0 if variable.aggregation == "sum" else rows)
            for variable in self._state.metrics
        ]
        means = [
            rows * tf.cast(value, tf.float64)
            for value in (*(variable.value for variable in self._state.averages), *keras.tree.flatten(logs))
        ]
        pieces = [tf.reshape(piece, (-1,)) for piece in (rows, *sums, *metrics, *means)]
        return tf.concat([self._replicas.header(point[0]), *pieces], axis=0)

    def _layout(self, point):
        """Shapes and dtypes of what follows `header` and `rows` in the vector: terms, metrics, averages, logs."""
        return (
            [(shape, "float64") for shape in self._terms.shapes(*point)],
            [(variable.shape, variable.dtype) for variable in self._state.metrics],
            [(variable.shape, variable.dtype) for variable in self._state.averages],
            [(spec.shape, spec.dtype) for spec in keras.tree.flatten(self._terms.logs())],
        )

    def _run_outcome(self, total, point):
        """Takes the summed vector apart."""
        layout = self._layout(point)
        sizes = [int(np.prod(shape)) for group in layout for shape, _ in group]
        _, rows, *pieces = tf.split(total, [self._replicas.header_size, 1, *sizes])
        pieces = iter(pieces)

        def values(group, divisor):
            return [tf.cast(tf.reshape(next(pieces) / divisor, shape), dtype) for shape, dtype in group]

        terms, metrics, averages, logs = map(values, layout, (1.0, 1.0, rows, rows))
        metrics = [
            value if variable.aggregation == "sum" else value / tf.cast(rows[0], value.dtype)
            for variable, value in zip(self._state.metrics, metrics, strict=True)
        ]
        logs = keras.tree.pack_sequence_as(self._terms.logs(), logs)
        return Outcome(tuple(terms), averages, self._state.results(metrics, logs))
