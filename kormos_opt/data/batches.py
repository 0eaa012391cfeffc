"""The batches of an epoch that this process has to see, as often as they are asked for."""

import types

import keras
import tensorflow as tf

from kormos_opt.data.rows import rows_of
from kormos_opt.keras_internals import data as keras_data

_AS_THEY_ARE = (tf.data.experimental.AutoShardPolicy.OFF, tf.data.experimental.AutoShardPolicy.FILE)


class Batches:
    """An iterable over the batches of one epoch, read ahead by two.

    With several workers they are the shard of this one: some of the files, or every so many elements, as the
    `AutoShardPolicy` of the data set says. Of fewer elements than workers each one takes a part of the rows.

    Args:
        replicas: The replicas of the model's strategy, `None` if it has none.
        **data: The data arguments of `fit`.

    Raises:
        ValueError: If they never end.
    """

    def __init__(self, replicas, x, y, sample_weight, class_weight, batch_size, steps_per_epoch):
        self._replicas = replicas
        self._steps = steps_per_epoch
        self._has_few = False
        self._iterator = keras_data.epoch_iterator(
            self._shard,
            x=x,
            y=y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
        )
        if steps_per_epoch is None and _is_infinite(x):
            raise ValueError(
                "Expected data with an end: the objective is a sum over all of it. "
                "Received: an infinite data set and steps_per_epoch=None. "
                "Pass steps_per_epoch=, or leave out .repeat()."
            )

    def _shard(self, dataset):
        """The part of the data set that this process reads."""
        if self._replicas is not None and self._replicas.workers > 1:
            if self._steps is not None:
                dataset = dataset.take(self._steps)
            policy = dataset.options().experimental_distribute.auto_shard_policy
            few = 0 < int(dataset.cardinality()) < self._replicas.workers
            self._has_few = few and policy not in _AS_THEY_ARE
            if not self._has_few:
                dataset = keras_data.shard(dataset, self._replicas.workers, self._replicas.worker)
        return dataset.prefetch(2)

    def __iter__(self):
        self._iterator.reset()
        is_whole = False
        try:
            for *_, iterator in self._iterator:
                try:
                    batch = next(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    break
                yield from self._local(batch)
            else:
                is_whole = True
        finally:
            if not is_whole:  # Keras stops the workers of a PyDataset at the end of an epoch only
                self._iterator.reset()

    def no_rows(self):
        """A batch without rows, of the dtypes and inner shapes of the others."""

        def zeros(spec):
            return tf.zeros([0, *(size or 1 for size in spec.shape[1:])] if spec.shape.rank else [], spec.dtype)

        return keras.tree.map_structure(zeros, keras_data.element_spec(self._iterator))

    def _local(self, batch):
        """The batches of the replicas of this process, if the data set came distributed."""
        if any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in keras.tree.flatten(batch)):
            parts = self._replicas.parts(batch)
        else:
            parts = [self._replicas.share(batch, int(rows_of(batch))) if self._has_few else batch]
        return [part for part in parts if rows_of(part) > 0]


def _is_infinite(x):
    if isinstance(x, tf.data.Dataset):
        return int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
    return isinstance(x, keras.utils.PyDataset) and x.num_batches is None


def can_be_read_again(x) -> bool:
    """Whether the training data is there for a second pass. A generator is used up by the first."""
    return not isinstance(x, types.GeneratorType)
