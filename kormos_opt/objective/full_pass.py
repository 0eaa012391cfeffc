"""One pass over the full batch: what a function of its chunks adds up to, at one point x.

A pass over whole tensors is one call of one `tf.function`, a loop over slices. XLA, where the model asks for it, goes
around one chunk: around the loop it would copy the whole tensors at every turn. A pass over batches can stop between
any two of them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.data.rows import rows_of, slice_rows
from kormos_opt.keras_internals import tracing
from kormos_opt.objective.model_state import ModelState


class Terms(NamedTuple):
    """What a pass adds up.

    Attributes:
        of_chunk: Called as `of_chunk(point, chunk, rows, totals)`, where `point` is a tuple of tensors that begins with
            x. Returns a tuple of float64 terms and the logs.
        shapes: Their shapes, called with `point`.
        logs: Returns the shapes and dtypes of the logs, once a chunk was traced.
    """

    of_chunk: Callable
    shapes: Callable
    logs: Callable = dict

    def zeros(self, point) -> tuple:
        """The sums to start from."""
        return tuple(tf.zeros(shape, tf.float64) for shape in self.shapes(*point))


class Outcome(NamedTuple):
    """What a pass gives.

    Attributes:
        sums: The terms of all rows.
        averages: The BatchNorm averages it has led to.
        logs: The logs of its last chunk: the metrics over all rows.
    """

    sums: tuple
    averages: list
    logs: dict


class FullPass:
    """Adds up the terms of all chunks.

    Args:
        model: The model, whose `run_eagerly` and `jit_compile` say how to run.
        state: What a pass moves in the model.
        assign: Makes a vector x the model's weights.
        terms: What is added up.
        rows_done: A counter of rows.
    """

    def __init__(self, model: keras.Model, state: ModelState, assign: Callable, terms: Terms, rows_done: tf.Variable):
        self._eager = model.run_eagerly
        self._rows_done = rows_done
        self._state = state
        self._assign = assign
        self._terms = terms
        self._of_chunk = self.compiled(terms.of_chunk, jit_compile=model.jit_compile)
        self._begin = self.compiled(self._run_begin)
        self._finish = self.compiled(self._run_finish)
        self._whole = functools.cache(lambda *cut: self.compiled(functools.partial(self._run_whole, *cut)))

    def compiled(self, function: Callable, exact: bool = False, **options) -> Callable:
        """A `tf.function` of `function`, unless the model runs eagerly; with `exact`, one that knows all shapes."""
        if self._eager:
            return function
        return tf.function(function, autograph=False, reduce_retracing=not exact, **options)

    def graph(self, point, chunk, rows, totals) -> tf.Graph | None:
        """The graph of one chunk, traced for these specifications; `None` when run eagerly."""
        return None if self._eager else self._of_chunk.get_concrete_function(point, chunk, rows, totals).graph

    def over_whole(self, full_batch: WholeTensors, rows_per_chunk: int, rows: tf.Tensor, totals: tf.Tensor) -> Callable:
        """The pass over whole tensors, as a function of the tuple `point` that returns an `Outcome`.

        One concrete function of flat tensors: a call costs a fraction of what calling a `tf.function` does.
        """
        data, structure = flat(full_batch.data)
        run = self._whole(structure, rows_per_chunk, full_batch.rows <= rows_per_chunk)
        call = None

        def over_whole(point):
            nonlocal call
            if self._eager:
                return run(point, rows, totals, *data)
            if call is None:
                specs = tuple(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in point)
                call = tracing.flat_call(run.get_concrete_function(specs, rows, totals, *data))
            return call(*point, rows, totals, *data)

        return over_whole

    def inside(self, full_batch: WholeTensors, rows_per_chunk: int) -> tuple[Callable, tuple]:
        """The pass over whole tensors, for use inside a `tf.function` of the caller.

        Returns:
            A function of `point, rows, totals` and the flat tensors, which returns an `Outcome`; and the flat tensors.
        """
        data, structure = flat(full_batch.data)
        cut = structure, rows_per_chunk, full_batch.rows <= rows_per_chunk
        return self.compiled(functools.partial(self._run_whole, *cut), exact=True), data

    def begin(self, point):
        """Starts a pass over batches. Returns what `add` adds to."""
        before = self._begin(point[0])
        return before, self._terms.zeros(point), {}

    def add(self, tally, point, chunk, rows: tf.Tensor, totals: tf.Tensor):
        """Adds a batch."""
        before, sums, _ = tally
        terms, logs = self._of_chunk(point, chunk, rows, totals)
        self._rows_done.assign_add(tf.cast(rows_of(chunk), tf.int64))
        return before, _added(sums, terms), logs

    def end(self, tally, point) -> Outcome:
        """Ends a pass over batches."""
        before, sums, logs = tally
        return Outcome(sums, self._finish(before), logs)

    def suspend(self, tally):
        """Puts the model's state back between two batches. Returns what `resume` needs."""
        moved = self._state.save_all()
        self._state.restore(tally[0])
        return moved

    def resume(self, point, moved) -> None:
        """Goes back to where `suspend` was called."""
        self._assign(point[0])
        self._state.restore_all(moved)

    def give_up(self, tally, point) -> None:
        """Ends a pass over batches that cannot go on."""
        self._state.restore(tally[0])

    def _run_begin(self, x):
        self._assign(x)
        self._state.reset_metrics()
        return self._state.save()

    def _run_finish(self, before):
        averages = [tf.identity(variable.value) for variable in self._state.averages]
        self._state.restore(before)
        return averages

    def _run_whole(self, structure, rows_per_chunk, one_chunk, point, total_rows, totals, *flat):
        before = self._run_begin(point[0])
        rows = None if one_chunk else tf.cast(total_rows, tf.int32)
        sums, logs = self._add_chunks(structure.fill(flat), rows, rows_per_chunk, point, total_rows, totals)
        return Outcome(sums, self._run_finish(before), logs)

    def _add_chunks(self, data, rows, rows_per_chunk, point, total_rows, totals):
        """The sums over `rows` rows, and the last logs; with `rows=None` over all of them at once."""
        if rows is None:
            return self._of_chunk(point, data, total_rows, totals)
        start_of_last = (rows - 1) // rows_per_chunk * rows_per_chunk

        def add(start, *sums):
            terms, _ = self._of_chunk(point, slice_rows(data, start, rows_per_chunk), total_rows, totals)
            self._rows_done.assign_add(rows_per_chunk)
            return start + rows_per_chunk, *_added(sums, terms)

        start, *sums = tf.while_loop(
            lambda start, *_: start < start_of_last,
            add,
            (tf.constant(0), *self._terms.zeros(point)),
            parallel_iterations=1,
        )
        terms, logs = self._of_chunk(point, slice_rows(data, start, rows_per_chunk), total_rows, totals)
        return _added(sums, terms), logs


class _Structure:
    """Where the tensors of a batch belong; equal for batches of one structure, so that they share a trace."""

    def __init__(self, structure):
        self._structure = structure

    def __eq__(self, other):
        return repr(self._structure) == repr(other._structure)

    def __hash__(self):
        return hash(repr(self._structure))

    def fill(self, tensors):
        """The batch with these tensors, in order, where there were tensors, `None` elsewhere."""
        tensors = iter(tensors)
        return keras.tree.map_structure(lambda there: next(tensors) if there else None, self._structure)


def flat(data):
    """The tensors of a batch, and where they belong."""
    tensors = tuple(leaf for leaf in keras.tree.flatten(data) if leaf is not None)
    return tensors, _Structure(keras.tree.map_structure(lambda leaf: leaf is not None, data))


def _added(sums, terms):
    return tuple(total + term for total, term in zip(sums, terms, strict=True))
