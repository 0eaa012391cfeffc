"""A pass over batches."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from kormos_opt.objective.chunk_sums import PassResult
from kormos_opt.objective.full_pass import FullPass


def over_batches(
    full_pass: FullPass, batches: Iterable, point: tuple, rows: tf.Tensor, loss_denominators: tf.Tensor
) -> PassResult:
    """What all batches add up to. An error in the middle leaves the model's state as it was, and tells other workers.

    Args:
        full_pass: What is added up.
        batches: The batches.
        point: Where, a tuple of tensors that begins with x.
        rows: All rows, as a float64 tensor.
        loss_denominators: The valid entries of each masked or weighted loss, of shape `(losses,)`.
    """
    accumulator, batches = full_pass.begin(point), iter(batches)
    try:
        for chunk in batches:
            accumulator = full_pass.add(accumulator, point, chunk, rows, loss_denominators)
    except BaseException:
        full_pass.give_up(accumulator, point)
        if hasattr(batches, "close"):  # what reads them, in the middle of the pass
            batches.close()
        raise
    return full_pass.end(accumulator, point)
