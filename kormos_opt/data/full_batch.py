"""The training data of one fit, all of it: whole tensors where possible, else a list of batches or a stream.

`WholeTensors` are cut into chunks by the objective, inside one `tf.function`. `BatchSequence` keeps what cannot be
joined (sparse, ragged, changing shapes) and streams what shall not be kept. Under a strategy each holds the rows of
this process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_between

NO_ROWS = "Expected training data with at least one row. Received: none."


class WholeTensors(NamedTuple):
    """All rows in dense tensors.

    Attributes:
        data: What `train_step` takes, each tensor with all rows; under a strategy a value for each replica.
        rows: How many there are in this process.
    """

    data: tuple
    rows: int


class BatchSequence(NamedTuple):
    """Batches one after the other, iterated anew at every evaluation.

    Attributes:
        batches: The batches, each what `train_step` takes: a list, or a `Stream`.
        rows: How many rows they have together in this process.
    """

    batches: Any  # a list, or a Stream
    rows: int


FullBatch = WholeTensors | BatchSequence


def is_stream(full_batch: FullBatch) -> bool:
    """Whether every pass reads the data anew from the input pipeline."""
    return isinstance(full_batch, BatchSequence) and not isinstance(full_batch.batches, list)


def first_chunk(full_batch: FullBatch, replicas: Replicas | None, rows: int):
    """At most so many rows, for their shapes and for a trial."""
    if isinstance(full_batch, BatchSequence):
        batches = full_batch.batches
        return batches[0] if isinstance(batches, list) else batches.first_batch
    data = full_batch.data if replicas is None else replicas.parts(full_batch.data)[-1]
    return rows_between(data, 0, rows)


def batches_of(full_batch: FullBatch, replicas: Replicas | None) -> Iterable:
    """All rows of this process, in batches."""
    if isinstance(full_batch, BatchSequence):
        return full_batch.batches
    return [full_batch.data] if replicas is None else replicas.parts(full_batch.data)
