"""Batches that every pass reads anew from the input pipeline, and the proof that they are the same each time.

The objective is a sum over the data, so it is a function of the weights only if all passes see the same rows. The first
pass counts them and takes two checksums: one of the first batch, which tells another order, and one of all rows in any
order, which tells other values.
"""

import logging
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import has_rows, rows_of

_MODULUS = 2**40  # sums of such numbers over all workers are exact
_log = logging.getLogger("kormos_opt")


class Stream:
    """An iterable of batches which raises if they are not those of the first pass.

    Args:
        batches: The batches, each what `train_step` takes. Iterating over them starts a pass.

    Attributes:
        rows: How many rows they have together.
        first_batch: The first one, kept so that no pass is begun for the shapes alone.
    """

    def __init__(self, batches: Iterable):
        self._batches = batches
        self._first = self._all = None
        self._is_shuffled = False
        self.rows = 0
        self.first_batch = None
        for _ in self._read():
            pass

    def __iter__(self) -> Iterator:
        return self._read()

    def _read(self):
        """All batches, in every pass with the fingerprints of all rows added up: a sum knows no order."""
        rows = content = 0
        is_first_pass, is_reordered = self._all is None, False
        for number, batch in enumerate(self._batches):
            prints = _fingerprints(batch)
            if is_first_pass and number == 0:
                self._first, self.first_batch = prints, batch
            elif number == 0:
                is_reordered = not np.array_equal(prints, self._first)
            content = (content + int(prints.sum(dtype=np.uint64))) % 2**64
            rows += len(prints)
            yield batch
        if is_first_pass:
            self.rows, self._all = rows, content
        elif rows != self.rows:
            raise RuntimeError(_OTHER_ROWS.format(self.rows, rows))
        elif content != self._all:
            raise RuntimeError(_OTHER_CONTENT)
        elif is_reordered and not self._is_shuffled:
            self._is_shuffled = True
            _log.warning(_SHUFFLED)


_OTHER_ROWS = (
    "Expected {} rows in every pass over the data, as in the first. Received: {} rows. "
    "Give the optimizer cache=True, or fit a data set of fixed length."
)
_OTHER_CONTENT = (
    "Expected the same data in every pass. Received: other values than in the first pass, in the same number of rows. "
    "Leave out random augmentation and random choices of rows, in the on_epoch_end of a PyDataset too, or give the "
    "optimizer cache=True."
)
_SHUFFLED = (
    "The data comes in another order in every pass, so the loss is a function of the weights but for its rounding. "
    "Leave out the shuffling, which a full batch does not need, or give the optimizer cache=True."
)


def fingerprint(batches: Iterable, replicas: Replicas | None) -> int:
    """A number that tells data from other data, whatever the order of its rows.

    Args:
        batches: All rows of this process, in batches.
        replicas: The replicas of the model's strategy, `None` if it has none. All workers get one number.
    """
    content = sum(int(_fingerprints(batch).sum(dtype=np.uint64)) for batch in batches if has_rows(batch)) % _MODULUS
    return content if replicas is None else replicas.sum_of_rows(content)


def _fingerprints(batch):
    """A number for each row, from all that belongs to the row. Sparse parts count with the first row."""
    rows = int(rows_of(batch))
    prints = tf.zeros((rows, 8), tf.uint8)
    for leaf in keras.tree.flatten(batch):
        parts = [] if leaf is None else tf.nest.flatten(leaf, expand_composites=True)
        for part in parts:
            if len(parts) == 1 and part.shape.rank:
                of_rows = tf.fingerprint(part)
            else:
                of_rows = tf.pad(tf.fingerprint(tf.reshape(part, (1, -1))), [[0, rows - 1], [0, 0]])
            prints = tf.fingerprint(tf.concat([prints, of_rows], axis=1))
    return prints.numpy().view(np.uint64)
