"""The training data of one fit, all of it: whole tensors where possible, else a list of batches or a stream.

`WholeTensors` are cut into chunks by the objective, inside one `tf.function`. `BatchList` keeps what cannot be
joined (sparse, ragged, changing shapes) and streams what shall not be kept.
"""

from collections.abc import Iterable
from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt import keras_hook, memory


class WholeTensors(NamedTuple):
    """All rows in dense tensors.

    Attributes:
        data: What `train_step` takes, each tensor with all rows.
        rows: How many there are.
    """

    data: tuple
    rows: int


class BatchList(NamedTuple):
    """Batches one after the other, iterated anew at every evaluation.

    Attributes:
        batches: The batches, each what `train_step` takes.
        rows: How many rows they have together.
    """

    batches: Iterable
    rows: int


FullBatch = WholeTensors | BatchList


def of_fit(model: keras.Model, cache: bool | str, x, y, sample_weight, class_weight, batch_size, steps_per_epoch):
    """The full batch of the data arguments of `fit`.

    Args:
        model: The model they are for.
        cache: Whether to keep the data in memory; `"auto"` as long as it takes at most half of the machine's.

    Raises:
        ValueError: Without a row, or if the data never ends.
        MemoryError: With `cache="auto"`, if data that can be drawn only once does not fit.
    """
    if cache and steps_per_epoch is None:
        arrays = keras_hook.whole_arrays(x, y, sample_weight, class_weight)
        if arrays is not None:
            return _whole(keras.tree.map_structure(_to_tensor, arrays))
    batches = keras_hook.Batches(model, x, y, sample_weight, class_weight, batch_size, steps_per_epoch)
    if cache is False:
        if not keras_hook.can_be_read_again(x):
            raise ValueError(
                "Expected data that can be read again for cache=False: every evaluation is a pass over all of it. "
                f"Received: x of type {type(x).__name__}. Use a PyDataset, a tf.data.Dataset, or cache='auto'."
            )
        return _checked(BatchList(batches, sum(int(keras_hook.rows_of(batch)) for batch in batches)))
    return of_batches(batches, budget=memory.half_of_all() if cache == "auto" else None)


def of_batches(batches: Iterable, budget: float | None = None) -> FullBatch:
    """Draws all batches once and keeps them, joined to whole tensors where their shapes allow it."""
    kept, size = [], 0
    for batch in batches:
        kept.append(keras.tree.map_structure(_to_tensor, batch))
        size += sum(_bytes(leaf) for leaf in keras.tree.flatten(kept[-1]))
        if budget is not None and size > budget:
            raise MemoryError(
                f"Expected training data of at most {budget / 2**30:.1f} GiB, half of this machine's memory. "
                f"Received: {size / 2**30:.1f} GiB after {len(kept)} batches, and more to come. If the data never "
                "ends, pass steps_per_epoch=. If it is that large, give the optimizer cache=False."
            )
    rows = sum(int(keras_hook.rows_of(batch)) for batch in kept)
    if len(kept) == 1 and _is_dense(kept[0]):
        return _whole(kept[0])
    if kept and _can_join(kept):
        return _whole(keras.tree.map_structure(_join, *kept))
    return _checked(BatchList(kept, rows))


def _whole(data):
    return _checked(WholeTensors(data, int(keras_hook.rows_of(data))))


def _checked(full_batch):
    if full_batch.rows == 0:
        raise ValueError("Expected training data with at least one row. Received: none.")
    return full_batch


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
