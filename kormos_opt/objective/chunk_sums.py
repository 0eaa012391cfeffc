"""What a function of chunks adds up to, over the rows of one replica.

Whole tensors are cut in a loop inside the graph. XLA, where the model asks for it, goes around one chunk: around the
loop it would copy the whole tensors at every turn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kormos_opt.data.rows import rows_of, slice_rows
from kormos_opt.keras_internals.graphs import traced


class ChunkFunction(NamedTuple):
    """What is added up over chunks.

    Attributes:
        of_chunk: Called as `of_chunk(point, chunk, total_rows, loss_denominators)`, where `point` is a tuple of tensors
            that begins with x. Returns a tuple of float64 terms and the logs.
        shapes: Called with `point`. Returns the shapes of the terms.
        logs: Returns the shapes and dtypes of the logs, once a chunk was traced.
    """

    of_chunk: Callable
    shapes: Callable
    logs: Callable = dict

    def zeros(self, point) -> tuple:
        """The sums to start from."""
        return tuple(tf.zeros(shape, tf.float64) for shape in self.shapes(*point))


class PassResult(NamedTuple):
    """What a pass gives.

    Attributes:
        sums: The terms of all rows.
        moving_statistics: The moving statistics of BatchNorm after the pass.
        logs: The logs of its last chunk: the metrics over all rows.
    """

    sums: tuple
    moving_statistics: list
    logs: dict


def compiled(function: Callable, eager: bool, exact: bool = False, **options) -> Any:
    """A `tf.function` of `function`, unless the model runs eagerly.

    Args:
        function: The function.
        eager: Whether the model runs eagerly.
        exact: Whether the graph has to know all shapes. Defaults to `False`.
        **options: More arguments of `tf.function`.
    """
    return function if eager else traced(function, reduce_retracing=not exact, **options)


class ChunkSums:
    """Adds up a chunk_function.

    Args:
        model: The model, whose `run_eagerly` and `jit_compile` say how to run.
        chunk_function: What is added up.
        rows_done: A counter of rows.
    """

    def __init__(self, model: keras.Model, chunk_function: ChunkFunction, rows_done: tf.Variable):
        self.eager = model.run_eagerly
        self.chunk_function = chunk_function
        self._rows_done = rows_done
        self._of_chunk = compiled(chunk_function.of_chunk, self.eager, jit_compile=model.jit_compile)

    def graph(self, point, chunk, total_rows, loss_denominators) -> tf.Graph | None:
        """The graph of one chunk, traced for these specifications; `None` when run eagerly."""
        if self.eager:
            return None
        return self._of_chunk.get_concrete_function(point, chunk, total_rows, loss_denominators).graph

    def add(self, sums, point, chunk, total_rows: tf.Tensor, loss_denominators: tf.Tensor) -> tuple[tuple, dict]:
        """The sums with those of one more chunk, and its logs."""
        terms, logs = self._of_chunk(point, chunk, total_rows, loss_denominators)
        return _added(sums, terms), logs

    def count(self, chunk) -> None:
        """Counts the rows of a chunk that was added."""
        self._rows_done.assign_add(tf.cast(rows_of(chunk), tf.int64))

    def over(self, data, rows: tf.Tensor | None, rows_per_chunk: int, point, total_rows, loss_denominators):
        """The sums over `rows` rows of whole tensors, and the last logs; with `rows=None` over all of them at once."""
        if rows is None:
            return self._of_chunk(point, data, total_rows, loss_denominators)
        start_of_last = (rows - 1) // rows_per_chunk * rows_per_chunk

        def add(start, *sums):
            chunk = slice_rows(data, start, rows_per_chunk)
            sums, _ = self.add(sums, point, chunk, total_rows, loss_denominators)
            self._rows_done.assign_add(rows_per_chunk)
            return start + rows_per_chunk, *sums

        start, *sums = tf.while_loop(
            lambda start, *_: start < start_of_last,
            add,
            (tf.constant(0), *self.chunk_function.zeros(point)),
            parallel_iterations=1,
        )
        return self.add(sums, point, slice_rows(data, start, rows_per_chunk), total_rows, loss_denominators)


class Structure:
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


def flat(data) -> tuple[tuple, Structure]:
    """The tensors of a batch, and where they belong."""
    tensors = tuple(leaf for leaf in keras.tree.flatten(data) if leaf is not None)
    return tensors, Structure(keras.tree.map_structure(lambda leaf: leaf is not None, data))


def _added(sums, terms):
    return tuple(total + term for total, term in zip(sums, terms, strict=True))
