"""How Keras reads training data: arrays, epochs of batches, and the shards of several workers."""

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter
from tensorflow.python.distribute.input_ops import auto_shard_dataset


def whole_arrays(x, y, sample_weight, class_weight):
    """The training data of `fit` as one batch, or `None` if they are not plain dense arrays.

    What is a tensor stays one, as it cannot change; all else becomes a numpy array.
    """
    if not array_data_adapter.can_convert_arrays((x, y, sample_weight)):
        return None
    leaves = [leaf for leaf in keras.tree.flatten((x, y, sample_weight)) if leaf is not None]
    dense = all(hasattr(leaf, "shape") and not _is_sparse(leaf) for leaf in leaves)
    if not leaves or not dense or leaves[0].shape[0] == 0:
        return None
    adapter = get_data_adapter(x, y, sample_weight, batch_size=leaves[0].shape[0], class_weight=class_weight)
    sliceables = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="numpy")
    return next(adapter._get_iterator(_tensor_or_numpy, sliceables))


def _tensor_or_numpy(sliceable, indices):
    if isinstance(sliceable.array, tf.Tensor):
        return sliceable.array
    return sliceable.convert_to_numpy(sliceable[indices])


def array_rows(x) -> int | None:
    """The rows of arrays, `None` for data of another kind."""
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    return leaves[0].shape[0] if leaves and array_data_adapter.can_convert_arrays((x,)) else None


def _is_sparse(array):
    return isinstance(array, (tf.SparseTensor, tf.RaggedTensor)) or hasattr(array, "tocoo")


def epoch_iterator(distribute, **arguments):
    """Keras's iterator over the batches of one epoch, in their order.

    Args:
        distribute: Called with the `tf.data.Dataset` of an epoch. Returns what is iterated over.
        **arguments: The data arguments of `fit`.
    """
    return TFEpochIterator(shuffle=False, distribute_strategy=_Distributing(distribute), **arguments)


class _Distributing:
    """The only method of a strategy that the iterator asks for."""

    def __init__(self, distribute):
        self.experimental_distribute_dataset = distribute


def element_spec(iterator):
    """The specifications of a batch of `epoch_iterator`."""
    return iterator._distributed_dataset.element_spec


def shard(dataset: tf.data.Dataset, workers: int, worker: int) -> tf.data.Dataset:
    """The part of `dataset` that this worker reads: some of the files, or every so many elements."""
    return auto_shard_dataset(dataset, workers, worker)
