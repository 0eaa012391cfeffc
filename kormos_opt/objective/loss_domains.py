"""What Keras's crossentropies and its Poisson loss are defined for: which labels and which outputs.

Outside of that they go on without an error: labels of 0 and 2 lead a binary crossentropy to minus infinity, and a
solver follows. So all labels and the first outputs are looked at before a fit.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt.keras_internals import model as keras_model

_SLACK = 1e-6  # of a probability


class _Domain(NamedTuple):
    """The domain of one loss.

    Attributes:
        labels: Words for the labels.
        is_label: Called with labels, outputs and the arguments of the loss. Returns where a label is one.
        outputs: Words for the outputs, `None` where all will do.
        is_output: Called with outputs. Returns where an output is one.
    """

    labels: str
    is_label: Callable
    outputs: str | None = None
    is_output: Callable | None = None


def _between_0_and_1(y, *_):
    return (y >= -_SLACK) & (y <= 1 + _SLACK)


def _is_class(y, outputs, arguments):
    classes = tf.cast(tf.shape(outputs)[-1], y.dtype)
    ignored = arguments.get("ignore_class")
    is_class = (y >= 0) & (y < classes) & (y == tf.round(y))
    return is_class if ignored is None else is_class | (y == ignored)


_PROBABILITIES = "probabilities between 0 and 1"
_BINARY = _Domain("labels between 0 and 1", _between_0_and_1, _PROBABILITIES, _between_0_and_1)
_CATEGORICAL = _BINARY._replace(is_output=lambda p: p >= -_SLACK)  # which Keras divides by their sum
_DOMAINS = {
    keras.losses.binary_crossentropy: _BINARY,
    keras.losses.binary_focal_crossentropy: _BINARY,
    keras.losses.categorical_crossentropy: _CATEGORICAL,
    keras.losses.categorical_focal_crossentropy: _CATEGORICAL,
    keras.losses.sparse_categorical_crossentropy: _CATEGORICAL._replace(
        labels="class numbers from 0 to below the number of outputs", is_label=_is_class
    ),
    keras.losses.poisson: _Domain("counts above or equal to 0", lambda y, *_: y >= 0),
}


def has_domain(loss: keras.losses.Loss) -> bool:
    """Whether it is one of the losses that are looked at."""
    return keras_model.function_of_loss(loss)[0] in _DOMAINS


def check_logits(loss: keras.losses.Loss, y_pred) -> None:
    """Raises `ValueError` for probabilities where `from_logits=True` says that there are none."""
    _, arguments = keras_model.function_of_loss(loss)
    if arguments.get("from_logits") and has_domain(loss) and keras_model.are_probabilities(y_pred):
        raise ValueError(
            f"Expected logits for {loss.name} with from_logits=True: outputs without an activation. Received: outputs "
            "of a sigmoid or a softmax. Leave that activation out, or from_logits=True."
        )


def misfits(loss: keras.losses.Loss, y_true, y_pred, values, sample_weight, mask) -> tf.Tensor:
    """How many labels and how many outputs of a chunk a loss is not defined for, float64 of shape `(2,)`.

    Args:
        loss: One that `has_domain`.
        y_true: The labels.
        y_pred: The outputs.
        values: The values of the loss, one for each entry that counts.
        sample_weight: As Keras has it. An entry of weight 0 does not count.
        mask: As Keras has it. An entry that is masked does not count.
    """
    function, arguments = keras_model.function_of_loss(loss)
    domain = _DOMAINS[function]
    y, p = (tf.cast(each, tf.float64) for each in (y_true, y_pred))
    bad_labels = ~domain.is_label(y, p, arguments)
    bad_outputs = tf.zeros_like(p, tf.bool)
    if domain.is_output is not None and not arguments.get("from_logits"):
        bad_outputs = ~domain.is_output(p)
    counts = tf.ones(tf.shape(values), tf.bool)
    for weights in (sample_weight, mask):
        if weights is not None:
            counts &= _like(tf.cast(weights, tf.float64) != 0, values)
    return tf.stack([_count(bad, values, counts) for bad in (bad_labels, bad_outputs)])


def null_values(loss: keras.losses.Loss, y_true, y_pred, values, *_) -> tf.Tensor:
    """The values of a loss for the best guess without any input: the mean of the targets of the chunk, for each output.

    That of labels are their frequencies. 0 for other losses than those of Keras that are named below.
    """
    function, arguments = keras_model.function_of_loss(loss)
    if function not in _COMPARING and function not in _DOMAINS:
        return tf.zeros_like(values)
    is_class = function is keras.losses.sparse_categorical_crossentropy
    if is_class:
        y = tf.one_hot(
            tf.cast(tf.reshape(y_true, tf.shape(y_pred)[:-1]), tf.int32), y_pred.shape[-1], dtype=y_pred.dtype
        )
    else:
        y = tf.cast(y_true, y_pred.dtype)
        y = tf.reshape(y, tf.shape(y_pred)) if y.shape.rank != y_pred.shape.rank else y
    mean = tf.reduce_mean(y, axis=0, keepdims=True)
    if arguments.get("from_logits"):
        of_rest = (
            1 - mean if function in (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy) else 1.0
        )
        mean = tf.math.log(mean + _TINY) - tf.math.log(of_rest + _TINY)
    return loss.call(y_true if is_class else y, tf.ones_like(y_pred) * mean)


_TINY = 1e-30
_COMPARING = {
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.huber,
    keras.losses.log_cosh,
}


def check_misfits(losses: list, counts) -> None:
    """Raises `ValueError` where there are any.

    Args:
        losses: The losses for which `has_domain` is true, in the order of the train step.
        counts: Their `misfits` over all rows, of shape `(losses, 2)`.
    """
    for loss, (labels, outputs) in zip(losses, counts, strict=True):
        domain = _DOMAINS[keras_model.function_of_loss(loss)[0]]
        if labels:
            raise ValueError(
                f"Expected {domain.labels} for {loss.name}. Received: {labels:.0f} entries of y that are none. "
                "Change the labels, or take a loss that is defined for them."
            )
        if outputs:
            raise ValueError(
                f"Expected {domain.outputs} as outputs for {loss.name}. Received: {outputs:.0f} outputs at the first "
                "weights that are none. Give the last layer a sigmoid or softmax activation, or the loss "
                "from_logits=True."
            )


def _like(flags, values):
    """Flags by row, or by entry, in the rank of the values of a loss."""
    if flags.shape.rank == values.shape.rank + 1 and flags.shape[-1] == 1:
        flags = tf.squeeze(flags, -1)
    while flags.shape.rank < values.shape.rank:
        flags = flags[..., None]
    return tf.broadcast_to(flags, tf.shape(values))


def _count(bad, values, counts):
    """Entries of the loss that counts says and of which some part is bad."""
    while bad.shape.rank > values.shape.rank:
        bad = tf.reduce_any(bad, axis=-1)
    return tf.reduce_sum(tf.cast(_like(bad, values) & counts, tf.float64))
