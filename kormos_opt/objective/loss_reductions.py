"""Makes the losses of chunks add up to the loss of the whole, however the rows are cut.

The objective weighs the loss of a chunk with its share `rows / total_rows` of the rows. That is exact for plain
means, and for penalties, which every chunk repeats. Two kinds of loss need a factor first:

* a sum must count fully: `sum(chunk) * total_rows / rows`;
* a mean over valid entries (masked, or divided by the sum of sample weights) must divide by the number D of those
  entries in the whole: `sum(chunk) * (total_rows / rows) / D`. D needs one pass over the data.

A loss whose values are one number for the whole chunk keeps its own value: nobody can know from outside what it is.
"""

import keras
import tensorflow as tf

from kormos_opt.keras_internals import recorded


class LossReductions:
    """Reduces the losses of one chunk, in the order in which the train step computes them.

    Args:
        rows: Scalar float64 tensor, rows of this chunk.
        total_rows: Scalar float64 tensor, rows of the whole.
        loss_denominators: float64 tensor with the D of every loss that has one, or `None` while they are being
            counted.

    Attributes:
        parts: The part that this chunk has in each D.
        may_mix_rows: Whether a loss gave one number for the whole chunk, or may compare rows with each other.
    """

    def __init__(self, rows: tf.Tensor, total_rows: tf.Tensor, loss_denominators: tf.Tensor | None):
        self._share = total_rows / rows
        self._denominators = loss_denominators
        self.parts: list = []
        self.may_mix_rows = False

    def reduce(self, stock, loss: keras.losses.Loss, y_true, y_pred, values, sample_weight, mask):
        """What `loss` makes of its `values`, with the factor that makes the chunks add up.

        Args:
            stock: Keras's own reduction.
            loss: The loss.
            y_true: The targets.
            y_pred: The outputs.
            values: One for each entry.
            sample_weight: As Keras has it.
            mask: The mask of the predictions and of the values together, as Keras has it.
        """
        _check_ranks(loss, y_true, y_pred)
        self.may_mix_rows |= not _treats_rows_alone(loss)
        if len(values.shape) == 0:
            self.may_mix_rows = True
            return stock(values, sample_weight, mask, loss.reduction)
        if loss.reduction == "sum":
            value = stock(values, sample_weight, mask, "sum")
            return value * tf.cast(self._share, value.dtype)
        count, added = _count(loss.reduction, values, sample_weight, mask)
        if count is None:
            return stock(values, sample_weight, mask, loss.reduction)
        self.parts.append(count)
        if self._denominators is None:
            return stock(values, sample_weight, mask, loss.reduction)
        value = stock(values, sample_weight, mask, "sum")
        denominator = self._denominators[len(self.parts) - 1] + added
        return value * tf.cast(tf.math.divide_no_nan(self._share, denominator), value.dtype)


def _treats_rows_alone(loss):
    """Whether it is a loss of Keras whose value for a row depends on that row."""
    function = getattr(loss, "fn", None)
    known = type(loss).call if function is None else function
    return known.__module__.startswith("keras.") and not isinstance(loss, keras.losses.Circle)


def _count(reduction, values, sample_weight, mask):
    """The divisor of the mean, `None` where it is the number of entries, and what Keras adds to that of the whole."""
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        weights = tf.cast(sample_weight, tf.float64)
        return tf.reduce_sum(weights if mask is None else weights * _of_rank(mask, weights)), 0.0
    if mask is None or reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        return None, 0.0
    if reduction == "mean_with_sample_weight":
        return tf.reduce_sum(tf.cast(mask, tf.float64)), 0.0
    entries = tf.cast(tf.size(values) / tf.size(mask), tf.float64)  # for each entry of the mask
    return entries * tf.reduce_sum(tf.cast(mask, tf.float64)), entries * recorded.added_to_valid_entries()


def _of_rank(mask, weights):
    """The mask with or without a last axis of one entry, as Keras changes it before it multiplies."""
    mask = tf.cast(mask, tf.float64)
    if len(mask.shape) == len(weights.shape) + 1 and mask.shape[-1] == 1:
        return tf.squeeze(mask, axis=-1)
    if len(mask.shape) == len(weights.shape) - 1 and weights.shape[-1] == 1:
        return tf.expand_dims(mask, axis=-1)
    return mask


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
