"""How many rows are evaluated at a time, and how many vectors the Hessian is multiplied with at once."""

import functools
import logging
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kormos_opt.data import memory_limits

FEWEST_ROWS = 256
_CHUNK_BYTES = 64 * 2**20
_BLOCK_BYTES = 512 * 2**20
_FIRST_TRIAL = 8
_CLEAR_GROWTH = 64 * 2**20
_log = logging.getLogger("kormos_opt")


def of(graph: tf.Graph | None, wanted: int | None, may_cut: bool) -> int:
    """Rows of a chunk: those that were asked for, unless they would fill the memory.

    Args:
        graph: Of one chunk, `None` when run eagerly.
        wanted: The rows that were asked for, `None` for `rows_that_fit`.
        may_cut: Whether fewer give the same result. BatchNormalization needs them as they are.
    """
    if not wanted:
        return rows_that_fit(graph)
    most = wanted if graph is None else rows_that_fit(graph, memory_limits.eighth_of_all())
    if most >= wanted or not may_cut:
        return wanted
    _log.warning(
        "batch_size=%d rows would take about %.1f GiB of intermediate results: %d rows are evaluated at a time.",
        wanted,
        _bytes_per_row(graph) * wanted / 2**30,
        most,
    )
    return most


def measured(evaluate: Callable[[int], object], rows: int) -> int:
    """The greatest power of two of rows whose intermediate results take an eighth of the memory, at most `rows`.

    Chunks of 8, 32, 128, ... rows are evaluated until the process grows enough to tell what a row takes, inside loops
    too. None of them takes more than four times what the one before has been seen to need.

    Args:
        evaluate: Evaluates a chunk of so many rows.
        rows: All rows.
    """
    bound, tried = memory_limits.eighth_of_all(), min(_FIRST_TRIAL, rows)
    evaluate(tried)  # traces
    start = peak = memory_limits.peak_of(functools.partial(evaluate, tried))
    per_row = 0.0
    while tried < rows and peak - start < _CLEAR_GROWTH and 4 * tried * per_row <= bound:
        tried = min(4 * tried, rows)
        peak = max(peak, memory_limits.peak_of(functools.partial(evaluate, tried)))
        per_row = (peak - start) / tried
    most = int(min(bound / max(per_row, 1.0), rows))
    chosen = rows if most >= rows else 2 ** int(np.log2(max(most, 1)))
    _log.info("batch_size='auto': a row takes about %.0f KiB, %d rows are evaluated at a time.", per_row / 1024, chosen)
    return chosen


def rows_that_fit(graph: tf.Graph | None, size: float = _CHUNK_BYTES) -> int:
    """Rows whose intermediate results, all of them at once, take `size` bytes.

    A multiple of 64, so that slices are aligned and share memory. Results inside loops, as those of recurrent layers,
    are not seen.
    """
    if graph is None:
        return FEWEST_ROWS
    return max(FEWEST_ROWS, int(size // max(_bytes_per_row(graph), 1) // 64) * 64)


def vectors_that_fit(graph: tf.Graph | None, rows: int, size: int) -> int:
    """Vectors to multiply the Hessian with at once, of `size` that there may be, on `rows` rows.

    The same on all workers, whatever their memory.
    """
    if graph is None or has_loops(graph):
        return 1
    return int(np.clip(_BLOCK_BYTES // max(_bytes_per_row(graph) * rows, 1), 1, size))


def has_loops(graph: tf.Graph) -> bool:
    """Whether there are loops, as those of recurrent layers, which `tf.vectorized_map` cannot look inside."""
    return any("While" in operation.type for operation in graph.get_operations())


def _bytes_per_row(graph):
    """What the intermediate results of one row take."""
    total = 0
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            if tensor.shape.rank and tensor.shape[0] is None:
                inner = [size for size in tensor.shape[1:] if size is not None]
                total += int(np.prod(inner)) * tensor.dtype.size
    return total
