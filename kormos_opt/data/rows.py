"""The rows of a batch: how many there are, and some of them."""

import keras
import tensorflow as tf


def rows_of(batch) -> tf.Tensor:
    """The number of rows of a batch, counted in the first input that has rows."""
    return tf.shape(_with_rows(batch))[0]


def static_row_count(batch) -> int:
    """`rows_of`, for a batch whose shapes are known while a graph is traced."""
    return _with_rows(batch).shape[0]


def has_rows(batch) -> bool:
    """Whether this is a batch of data, and not one of the empty ones that `fit` hands to the stock loop."""
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    return any(len(getattr(leaf, "shape", ())) for leaf in leaves)


def rows_between(batch, start: int, end: int):
    """Rows `start` to `end` of a batch."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else _rows_of_leaf(leaf, start, end), batch)


def every_row(batch, start: int, end: int, step: int):
    """Rows `start`, `start + step`, ... below `end` of a batch."""
    rows = range(start, end, step)

    def of_leaf(leaf):
        if leaf is None or not len(leaf.shape):
            return leaf
        if isinstance(leaf, tf.SparseTensor):
            return tf.sparse.concat(0, [_rows_of_leaf(leaf, row, row + 1) for row in rows])
        return tf.gather(leaf, list(rows))

    return keras.tree.map_structure(of_leaf, batch)


def slice_rows(data, start: tf.Tensor, size: int):
    """Rows `start` to `start + size` of dense tensors, for use in a graph.

    Where the start is aligned, TensorFlow shares the memory.
    """
    return keras.tree.map_structure(
        lambda leaf: leaf[start : start + size] if leaf is not None and len(leaf.shape) else leaf, data
    )


def row_of(data, index: tf.Tensor):
    """One row of dense tensors, for use in a graph."""
    return keras.tree.map_structure(
        lambda leaf: tf.gather(leaf, index[None]) if leaf is not None and len(leaf.shape) else leaf, data
    )


def _with_rows(batch):
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    return next((leaf for leaf in leaves if len(leaf.shape)), leaves[0])


def _rows_of_leaf(leaf, start, end):
    """Rows of an array or a tensor, dense, ragged or sparse. What has no rows is the same for all."""
    if isinstance(leaf, tf.SparseTensor):
        sizes = leaf.dense_shape.numpy()
        return tf.sparse.slice(leaf, [start] + [0] * (len(sizes) - 1), [end - start, *sizes[1:]])
    return leaf[start:end] if len(leaf.shape) else leaf
