"""Whether the loss of the whole is what the losses of its chunks add up to, where Keras alone does not say so.

A loss or a layer may look at other rows: those of Keras that do not are known, all others are tried.
"""

import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import BatchSequence, FullBatch
from kormos_opt.data.rows import every_row, rows_between, rows_of
from kormos_opt.objective import precision
from kormos_opt.objective.batch_pass import over_batches
from kormos_opt.objective.objective import Objective
from kormos_opt.objective.starting_point import perturbed

_ROWS = 16
_SLOPES = 10  # times the tolerance of f, for the gradient
_STEPS = 8  # of the resolution of f that two sums may differ by


def check_chunking(objective: "Objective", chunk, data: FullBatch) -> None:
    """Compares f and its gradient of some rows in one chunk with those of the same rows in chunks of two.

    At a point beside the first weights: these may be zeros, where rows tell nothing, or an optimum, where f is rounding
    and nothing else. At the first weights where f is not finite there. Nothing is compared where the data will not be
    cut, and for models with BatchNormalization or layers that draw at random, which depend on the cut by their nature.

    Args:
        objective: f.
        chunk: The first rows.
        data: All rows.

    Raises:
        ValueError: If they differ.
    """
    replicas = objective.replicas
    fits = replicas is None and not isinstance(data, BatchSequence) and data.rows <= objective.rows_per_chunk
    may_differ = objective.state.moving_statistics or objective.captured.is_random
    if not objective.terms.may_depend_on_chunking or fits or may_differ:
        return
    rows = min(int(rows_of(chunk)), _ROWS)
    if rows < 2 and (replicas is None or replicas.workers == 1):  # several workers stay in step
        return
    whole = [rows_between(chunk, 0, rows)]
    half = max(rows // 2, 1)  # row i beside row i + half
    cut = [every_row(chunk, start, rows, half) for start in range(half)]
    tolerance = max(1e-4, _STEPS * precision.resolution(objective.dtype))
    here = objective.parameters.ravel()
    elsewhere = perturbed(here)
    try:
        for x in (elsewhere, here):
            (one, of_one), (two, of_two) = (_evaluated(objective, batches, max(rows, 1), x) for batches in (whole, cut))
            if np.isfinite([one, two]).all() and np.isfinite([of_one, of_two]).all():
                break
        same = not abs(one - two) > tolerance * abs(one)
        if same and not np.abs(of_one - of_two).max() > _SLOPES * tolerance * np.abs(of_one).max():
            return
    finally:
        objective.parameters.assign(here)
    raise ValueError(_DEPENDS_ON_CUT.format(rows, one, two))


def _evaluated(objective, batches, rows, x):
    total, point = tf.constant(rows, tf.float64), (tf.constant(x),)
    denominators = tf.zeros((0,), tf.float64)
    if objective.terms.counted_losses:
        counted = over_batches(objective.passes["denominators"], batches, point, total, denominators)
        (denominators,) = counted.sums
    loss, gradient = over_batches(objective.passes["gradient"], batches, point, total, denominators).sums
    return float(loss) / rows, gradient.numpy() / rows


_DEPENDS_ON_CUT = (
    'Expected a loss that adds up over chunks of rows: a mean over rows, or a Loss with reduction="sum". '
    "Received: for the first {} rows {:.6g} in one chunk and {:.6g} in several. Return one value for each row from the "
    "loss function, or the mean over rows; give add_loss a mean over rows. To keep the loss as it is, evaluate all "
    "rows at once: give the optimizer batch_size= as many as there are."
)
