"""Draws the training data of `fit` into one full batch: kept in memory, or read anew in every pass."""

import contextlib
import logging
from typing import Any

import keras
import tensorflow as tf

from kormos_opt.data import memory_limits
from kormos_opt.data.batches import Batches, can_be_read_again
from kormos_opt.data.full_batch import NO_ROWS, BatchSequence, FullBatch, WholeTensors
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_of
from kormos_opt.data.stream import Stream
from kormos_opt.keras_internals import data as keras_data

_log = logging.getLogger("kormos_opt")


def of_fit(
    replicas: Replicas | None, cache: bool | str, x, y, sample_weight, class_weight, batch_size, steps_per_epoch
) -> FullBatch:
    """The full batch of the data arguments of `fit`.

    Args:
        replicas: The replicas of the model's strategy.
        cache: Whether to keep the data in memory; `"auto"` as long as it takes at most half of the machine's.
        x: As in `fit`, like the following.
        y: As in `fit`.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.
        batch_size: As in `fit`.
        steps_per_epoch: As in `fit`.

    Raises:
        ValueError: If the data never ends, or shall be streamed and can be drawn only once.
        MemoryError: With `cache="auto"`, if data that can be drawn only once does not fit.
    """
    if cache and steps_per_epoch is None:
        arrays = keras_data.whole_arrays(x, y, sample_weight, class_weight)
        if arrays is not None:
            if replicas is not None:
                arrays = replicas.share(arrays, _rows(arrays))
            return _whole(keras.tree.map_structure(_to_tensor, arrays), replicas)
    if steps_per_epoch is not None:
        _warn_of_left_out(keras_data.array_rows(x), steps_per_epoch * (batch_size or _KERAS_BATCH_SIZE))
    batches = Batches(replicas, x, y, sample_weight, class_weight, batch_size, steps_per_epoch)
    can_be_streamed = can_be_read_again(x)
    if cache is False:
        if not can_be_streamed:
            raise ValueError(
                "Expected data that can be read again for cache=False: every evaluation is a pass over all of it. "
                f"Received: x of type {type(x).__name__}. Use a PyDataset, a tf.data.Dataset, or cache='auto'."
            )
        return _streamed(batches, replicas)
    try:
        return of_batches(batches, replicas, budget=memory_limits.half_of_all() if cache == "auto" else None)
    except _OverBudgetError as error:
        if not can_be_streamed:
            raise MemoryError(
                f"Expected training data of at most {error.budget / 2**30:.1f} GiB, half of the memory there is, or "
                f"data that can be read again. Received: a {type(x).__name__} with more than that. If it never ends, "
                "pass steps_per_epoch=; else make it a PyDataset or a tf.data.Dataset."
            ) from None
        _log.warning(
            "The training data takes more than %.1f GiB, half of the memory there is: every evaluation reads it anew. "
            "cache=False says so from the start, cache=True keeps it nevertheless. If it never ends, pass "
            "steps_per_epoch=.",
            error.budget / 2**30,
        )
    return _streamed(batches, replicas)


def _warn_of_left_out(rows, kept):
    if rows is not None and rows > kept:
        _log.warning(
            "steps_per_epoch takes the first %d of %d rows in every epoch: %d rows are left out for good. Leave "
            "steps_per_epoch out to fit all of them.",
            kept,
            rows,
            rows - kept,
        )


_KERAS_BATCH_SIZE = 32


class _OverBudgetError(Exception):
    def __init__(self, budget):
        super().__init__()
        self.budget = budget


def of_batches(batches: Any, replicas: Replicas | None, budget: float | None = None) -> FullBatch:
    """Draws all batches once and keeps them, joined to whole tensors where their shapes allow it."""
    kept, size = [], 0
    with contextlib.closing(_each(batches)) as drawn:
        for batch in drawn:
            kept.append(keras.tree.map_structure(_to_tensor, batch))
            size += sum(_bytes(leaf) for leaf in keras.tree.flatten(kept[-1]))
            if budget is not None and size > budget:
                raise _OverBudgetError(budget)
    if not kept:
        if replicas is None or replicas.workers == 1:
            raise ValueError(NO_ROWS)
        kept = [batches.no_rows()]
    if len(kept) == 1 and _is_dense(kept[0]):
        return _whole(kept[0], replicas)
    if _can_join(kept):
        return _whole(keras.tree.map_structure(_join, *kept), replicas)
    return BatchSequence(kept, sum(_rows(batch) for batch in kept))


def _each(batches):
    yield from batches


def _streamed(batches, replicas):
    stream = Stream(batches)
    if stream.rows == 0 and replicas is not None and replicas.workers > 1:
        return _whole(batches.no_rows(), replicas)
    return BatchSequence(stream, stream.rows)


def _whole(data, replicas):
    rows = _rows(data)
    return WholeTensors(data if replicas is None else replicas.distribute(data, rows), rows)


def _rows(batch):
    return int(rows_of(batch))


def _to_tensor(leaf):
    if leaf is None or isinstance(leaf, tf.experimental.Optional):  # how tf.data carries a None
        return None
    return leaf if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)) else tf.convert_to_tensor(leaf)


def _join(*leaves):
    return None if leaves[0] is None else tf.concat(leaves, axis=0)


def _is_dense(batch):
    return all(leaf is None or isinstance(leaf, tf.Tensor) for leaf in keras.tree.flatten(batch))


def _can_join(batches):
    def inner_shapes(batch):
        return [None if leaf is None else (leaf.dtype, leaf.shape[1:]) for leaf in keras.tree.flatten(batch)]

    if not all(_is_dense(batch) for batch in batches):
        return False
    if any(leaf is not None and leaf.shape.rank == 0 for leaf in keras.tree.flatten(batches[0])):
        return False
    return all(inner_shapes(batch) == inner_shapes(batches[0]) for batch in batches)


def _bytes(leaf):
    if isinstance(leaf, tf.Tensor):
        return leaf.dtype.size * int(tf.size(leaf))
    return sum(_bytes(part) for part in tf.nest.flatten(leaf, expand_composites=True) if isinstance(part, tf.Tensor))
