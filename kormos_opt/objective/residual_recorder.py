"""Which part of a loss is a sum of squares: recorded while the train step computes it.

    loss = sum of  c w r^2   over all residuals r that are recorded, with their weights w

c is the derivative of the loss by what was recorded, from the tape: it holds sample weights, masks, reductions,
`loss_weights`, and whatever else the train step does with it.
"""

import contextlib
from contextvars import ContextVar
from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt.keras_internals import recorded

_recorder: ContextVar = ContextVar("recorder", default=None)


def mean_square(residual, weight=None) -> tf.Tensor:
    """The mean of `weight * residual**2`, for a loss of your own that Levenberg-Marquardt shall understand.

    It is what `keras.ops.mean(keras.ops.square(residual))` is. `LevenbergMarquardt` and Gauss-Newton curvature record
    the residual too, which nobody could tell from the mean.

    Args:
        residual: A tensor of any shape.
        weight: Not negative, a number or a tensor that is broadcast to the shape of `residual`. Defaults to `None`: 1.

    Returns:
        A scalar.

    Example:

    >>> import kormos_opt
    >>> float(kormos_opt.mean_square([1.0, 3.0], weight=[2.0, 0.0]))
    1.0
    """
    recorder, residual = _recorder.get(), keras.ops.convert_to_tensor(residual)
    if recorder is not None:
        residual = recorder.constant(residual)
    squares = keras.ops.square(residual)
    if weight is not None:
        weight = keras.ops.convert_to_tensor(weight, residual.dtype)
        weighted = weight * squares
        if not weighted.shape.is_compatible_with(squares.shape):
            raise ValueError(
                f"Expected a weight that is broadcast to the residual, of shape {squares.shape}. "
                f"Received: weight of shape {weight.shape}, which makes it {weighted.shape}. Reshape the weight."
            )
        squares = weighted
    value = keras.ops.mean(squares)
    if recorder is not None:
        size = tf.cast(tf.size(residual), tf.float64)
        recorder.add(residual, (1.0 if weight is None else tf.cast(weight, tf.float64)) / size, value)
    return value


@contextlib.contextmanager
def recording(recorder):
    """Inside, `mean_square` gives `recorder` its residuals."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


class _Square(NamedTuple):
    residual: tf.Tensor
    weight: tf.Tensor | float
    value: tf.Tensor
    is_of_weights: bool = False


class ResidualRecorder:
    """The squares of one chunk.

    Args:
        rows: How many rows the chunk has.

    Attributes:
        others: The names of parts that are no squares.
        shared_count: How many residuals there are that every chunk repeats: the penalties of weights. They come last.
        is_by_row: Whether all others belong to a row each, in the order of the rows.
    """

    def __init__(self, rows: int):
        self._rows = rows
        self._recorded: list[_Square] = []
        self.others: list[str] = []
        self.shared_count = 0
        self.is_by_row = True

    def constant(self, residual):
        """The residual as it is."""
        return residual

    def add(self, residual, weight, value) -> None:
        """Takes `value`, which is the sum of `weight * residual**2`, over the last axis or over all of them."""
        self._recorded.append(_Square(residual, weight, value))

    def add_penalty(self, x, weight, value) -> None:
        """Takes the penalty `weight * sum(x**2)` of a weight or of an activity."""
        is_of_weights = isinstance(x, keras.Variable)
        self._recorded.append(_Square(keras.ops.convert_to_tensor(x), weight, value, is_of_weights))

    def record_loss(self, loss: keras.losses.Loss, y_true, y_pred, values) -> None:
        """Takes the values of a loss."""
        if getattr(loss, "fn", None) is not keras.losses.mean_squared_error:
            self.others.append(f"the loss {loss.name!r}")
            return
        residual = recorded.difference(y_true, y_pred, values.dtype)
        self.add(residual, 1 / tf.cast(tf.shape(residual)[-1], tf.float64), values)

    def residuals(self, tape: tf.GradientTape, loss, share) -> tf.Tensor:
        """What is squared and added up, float64 of shape `(m,)`.

        Args:
            tape: What the loss was computed on.
            loss: The loss of the chunk.
            share: The part of all rows that the chunk has.
        """
        values = [square.value for square in self._recorded]
        coefficients = tape.gradient(loss, values, unconnected_gradients="zero") if values else []
        by_row, others, once = [], [tf.zeros((0,), tf.float64)], [tf.zeros((0,), tf.float64)]
        for square, coefficient in zip(self._recorded, coefficients, strict=True):
            coefficient = tf.cast(coefficient, tf.float64)
            if len(square.value.shape):
                coefficient = coefficient[..., None]
            part = tf.cast(1.0 if square.is_of_weights else share, tf.float64)
            root = tf.stop_gradient(tf.sqrt(part * coefficient * square.weight))
            residual = root * tf.cast(square.residual, tf.float64)
            if square.is_of_weights:
                once.append(tf.reshape(residual, (-1,)))
            elif residual.shape.rank and residual.shape[0] == self._rows:
                by_row.append(tf.reshape(residual, (self._rows, -1)))
            else:
                others.append(tf.reshape(residual, (-1,)))
        self.is_by_row = len(others) == 1
        once = tf.concat(once, axis=0)
        self.shared_count = int(once.shape[0])
        by_row = [tf.reshape(tf.concat(by_row, axis=1), (-1,))] if by_row else []
        return tf.concat([*by_row, *others, once], axis=0)
