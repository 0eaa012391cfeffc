"""Makes the losses of chunks add up to the loss of the whole, however the rows are cut.

The objective weighs the loss of a chunk with its share `rows / total_rows` of the rows. That is exact for plain
means, and for penalties, which every chunk repeats. Two kinds of loss need a factor first:

* a sum must count fully: `sum(chunk) * total_rows / rows`;
* a mean over `d` valid entries (masked, or divided by the sum of sample weights) must weigh with its share of the
  total `D` of those entries: `mean(chunk) * (d / rows) * (total_rows / D)`. D needs one pass over the data.
"""

import keras
import tensorflow as tf


class LossReductions:
    """Corrects the losses of one chunk, in the order in which the train step computes them.

    Args:
        rows: Scalar float64 tensor, rows of this chunk.
        total_rows: Scalar float64 tensor, rows of the whole.
        totals: float64 tensor with the D of every loss that has one, or `None` while they are being counted.
    """

    def __init__(self, rows: tf.Tensor, total_rows: tf.Tensor, totals: tf.Tensor | None):
        self._rows = rows
        self._total_rows = total_rows
        self._totals = totals
        self.counts = []

    def correct(self, loss: keras.losses.Loss, value, y_true, y_pred, mask, sample_weight):
        """The value of `loss` over the chunk, with the factor that makes the chunks add up."""
        _check_ranks(loss, y_true, y_pred)
        if loss.reduction == "sum":
            return value * tf.cast(self._total_rows / self._rows, value.dtype)
        count = _count(loss.reduction, mask, sample_weight)
        if count is None:
            return value
        self.counts.append(count)
        if self._totals is None:
            return value
        total = self._totals[len(self.counts) - 1]
        factor = tf.math.divide_no_nan(count / self._rows * self._total_rows, total)
        return value * tf.cast(factor, value.dtype)


def _count(reduction, mask, sample_weight):
    """The divisor of the mean, where it is not simply the number of entries."""
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        weights = tf.cast(sample_weight, tf.float64)
        return tf.reduce_sum(weights if mask is None else weights * tf.cast(mask, tf.float64))
    if mask is not None and reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        return tf.reduce_sum(tf.cast(mask, tf.float64))
    return None


_ELEMENTWISE = {
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.log_cosh,
    keras.losses.huber,
    keras.losses.poisson,
    keras.losses.hinge,
    keras.losses.squared_hinge,
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
}


def _check_ranks(loss, y_true, y_pred):
    if getattr(loss, "fn", None) not in _ELEMENTWISE:
        return
    shapes = [tuple(getattr(y, "shape", ())) for y in (y_true, y_pred)]
    if abs(len(shapes[0]) - len(shapes[1])) >= 2:
        raise ValueError(
            f"Expected targets of the shape of the output for {loss.name}: ranks that differ by two or more are "
            "broadcast against each other, every target with every output. "
            f"Received: y of shape {shapes[0]}, output of shape {shapes[1]}. "
            "Reshape the targets, or flatten the output (keras.layers.Flatten)."
        )
