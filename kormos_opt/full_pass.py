"""One pass over the full batch: what a function of its chunks adds up to, at one point x.

A pass over whole tensors is one call of one `tf.function`, a loop over slices. XLA, where the model asks for it, goes
around one chunk: around the loop it would copy the whole tensors at every turn.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kormos_opt import keras_hook
from kormos_opt.full_batch import FullBatch, WholeTensors

CHUNK_BYTES = 64 * 2**20
FEWEST_ROWS = 256


class FullPass:
    """Adds up the terms of all chunks.

    Args:
        model: The model, whose `run_eagerly` and `jit_compile` say how to run.
        terms: Called as `terms(point, chunk, rows, totals)`, where `point` is a tuple of tensors that begins with x.
            Returns a tuple of terms and the logs.
        zeros: The tuple of sums to start from, called with `point`.
        begin: Called with x before a pass. Returns the state to go back to.
        finish: Called with that state after a pass. Returns what the pass has left, as a list of tensors.
    """

    def __init__(self, model: keras.Model, terms: Callable, zeros: Callable, begin: Callable, finish: Callable):
        self._eager = model.run_eagerly
        compiled = compiled_chunk = lambda function: function
        if not self._eager:
            compiled = functools.partial(tf.function, autograph=False, reduce_retracing=True)
            compiled_chunk = functools.partial(compiled, jit_compile=model.jit_compile)
        self._terms = compiled_chunk(terms)
        self._zeros = zeros
        self._run_begin, self._run_finish = begin, finish
        self._begin = compiled(begin)
        self._finish = compiled(finish)
        self._whole = functools.cache(lambda *cut: compiled(functools.partial(self._run_whole, *cut)))

    def graph(self, point, chunk, rows, totals) -> tf.Graph | None:
        """The graph of one chunk, traced for these specifications; `None` when run eagerly."""
        return None if self._eager else self._terms.get_concrete_function(point, chunk, rows, totals).graph

    def over(self, full_batch: FullBatch, rows_per_chunk: int, rows: tf.Tensor, totals: tf.Tensor) -> Callable:
        """The pass over this data, as a function of the tuple `point`.

        Returns:
            A function that returns the sums, what `finish` returns, and the logs of the last chunk.
        """
        if isinstance(full_batch, WholeTensors):
            return self._over_whole(full_batch, rows_per_chunk, rows, totals)
        return functools.partial(self._over_batches, full_batch, rows, totals)

    def inside(self, full_batch: WholeTensors, rows_per_chunk: int) -> tuple[Callable, tuple]:
        """The pass over whole tensors, for use inside a `tf.function` of the caller.

        Returns:
            A function of `point, rows, totals` and the flat tensors, which returns what that of `over` returns; and the
            flat tensors.
        """
        data, structure = _flat(full_batch.data)
        return functools.partial(self._run_whole, structure, rows_per_chunk, full_batch.rows <= rows_per_chunk), data

    def _over_whole(self, full_batch, rows_per_chunk, rows, totals):
        """One concrete function of flat tensors: a call costs a fraction of what calling a `tf.function` does."""
        data, structure = _flat(full_batch.data)
        whole = self._whole(structure, rows_per_chunk, full_batch.rows <= rows_per_chunk)
        flat = None

        def over_whole(point):
            nonlocal flat
            if self._eager:
                return whole(point, rows, totals, *data)
            if flat is None:
                specs = tuple(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in point)
                flat = keras_hook.flat_call(whole.get_concrete_function(specs, rows, totals, *data))
            return flat(*point, rows, totals, *data)

        return over_whole

    def _run_whole(self, structure, rows_per_chunk, one_chunk, point, total_rows, totals, *flat):
        data = structure.fill(flat)
        before = self._run_begin(point[0])
        if one_chunk:
            sums, logs = self._terms(point, data, total_rows, totals)
            return sums, self._run_finish(before), logs

        start_of_last = (tf.cast(total_rows, tf.int32) - 1) // rows_per_chunk * rows_per_chunk

        def add(start, *sums):
            terms, _ = self._terms(point, rows_of(data, start, rows_per_chunk), total_rows, totals)
            return start + rows_per_chunk, *_added(sums, terms)

        start, *sums = tf.while_loop(
            lambda start, *_: start < start_of_last,
            add,
            (tf.constant(0), *self._zeros(*point)),
            parallel_iterations=1,
        )
        terms, logs = self._terms(point, rows_of(data, start, rows_per_chunk), total_rows, totals)
        return _added(sums, terms), self._run_finish(before), logs

    def _over_batches(self, full_batch, total_rows, totals, point):
        before = self._begin(point[0])
        sums, rows, logs = self._zeros(*point), 0, {}
        for chunk in full_batch.batches:
            rows += int(keras_hook.rows_of(chunk))
            terms, logs = self._terms(point, chunk, total_rows, totals)
            sums = _added(sums, terms)
        if rows != full_batch.rows:
            raise RuntimeError(
                f"Expected {full_batch.rows} rows in every pass over the data, as in the first. "
                f"Received: {rows} rows. Give the optimizer cache=True, or a data set of fixed length."
            )
        return sums, self._finish(before), logs


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


def _flat(data):
    tensors = tuple(leaf for leaf in keras.tree.flatten(data) if leaf is not None)
    return tensors, _Structure(keras.tree.map_structure(lambda leaf: leaf is not None, data))


def chunks(full_batch: FullBatch, rows_per_chunk: int):
    """The chunks of a pass, one after the other."""
    if not isinstance(full_batch, WholeTensors):
        yield from full_batch.batches
        return
    for start in range(0, full_batch.rows, rows_per_chunk):
        yield rows_of(full_batch.data, start, rows_per_chunk)


def rows_of(data, start, size):
    """Rows `start` to `start + size` of whole tensors. Where they are aligned, TensorFlow shares the memory."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[start : start + size], data)


def any_rows(leaf):
    """What to trace a chunk for: the dtype and shape of `leaf` with any number of rows."""
    if not isinstance(leaf, tf.Tensor) or leaf.shape.rank == 0:
        return leaf
    return tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)


def rows_that_fit(graph: tf.Graph | None, size: float = CHUNK_BYTES) -> int:
    """Rows whose intermediate results, all of them at once, take `size` bytes. A multiple of 64: see `rows_of`.

    Results inside loops, as those of recurrent layers, are not seen.
    """
    if graph is None:
        return FEWEST_ROWS
    return max(FEWEST_ROWS, int(size // max(bytes_per_row(graph), 1) // 64) * 64)


def bytes_per_row(graph: tf.Graph) -> int:
    """What the intermediate results of one row take."""
    total = 0
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            if tensor.shape.rank and tensor.shape[0] is None:
                inner = [size for size in tensor.shape[1:] if size is not None]
                total += int(np.prod(inner)) * tensor.dtype.size
    return total


def has_loops(graph: tf.Graph) -> bool:
    """Whether there are loops among its operations, as recurrent layers make them."""
    return any("While" in operation.type for operation in graph.get_operations())


def _added(sums, terms):
    return tuple(total + term for total, term in zip(sums, terms, strict=True))
