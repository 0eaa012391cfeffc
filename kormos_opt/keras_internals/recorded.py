"""What a train step tells while it is traced: losses, gradients, inputs of layers, penalties; and their corrections.

Every replacement is a context manager. It holds for the thread that is inside, and is undone at its end.
"""

import contextlib
import functools

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.losses import loss as loss_module

from kormos_opt.keras_internals.replaced import replaced


@contextlib.contextmanager
def corrected_losses(model: keras.Model, reduce, detach=None):
    """Inside, losses outside of metrics and of other losses are reduced by `reduce`.

    Args:
        model: The model, whose metrics keep the losses that they call as they are.
        reduce: Called as `reduce(stock, loss, y_true, y_pred, values, sample_weight, mask)`. `values` is what
            `loss.call` has returned. `stock` is Keras's reduction, called as `stock(values, sample_weight, mask,
            reduction)`.
        detach: Called with the output that a loss compares. Returns what it is given instead. Defaults to `None`:
            itself.
    """
    outer: list = []  # the calls that run, of losses (their arguments) and of metrics (None)

    def call_loss(stock, loss, y_true, y_pred, sample_weight=None):
        if detach is not None and not outer:
            y_pred = detach(y_pred)
        with _pushed(outer, (loss, y_true, y_pred)):
            return stock(loss, y_true, y_pred, sample_weight)

    def update_metric(stock, *args, **kwargs):
        with _pushed(outer, None):
            return stock(*args, **kwargs)

    def reduce_values(stock, values, sample_weight=None, mask=None, reduction="sum_over_batch_size", dtype=None):
        if len(outer) != 1 or outer[0] is None:
            return stock(values, sample_weight, mask, reduction, dtype)
        return reduce(functools.partial(stock, dtype=dtype), *outer[0], values, sample_weight, mask)

    with contextlib.ExitStack() as replacements:
        replacements.enter_context(replaced(keras.losses.Loss, "__call__", call_loss))
        replacements.enter_context(replaced(loss_module, "reduce_weighted_values", reduce_values))
        for owner in _owners(model.metrics, "update_state"):
            replacements.enter_context(replaced(owner, "update_state", update_metric))
        yield


@contextlib.contextmanager
def _pushed(stack, item):
    stack.append(item)
    try:
        yield
    finally:
        stack.pop()


def _owners(objects, name):
    """The classes that define the method `name` of these objects."""
    return {next(owner for owner in type(each).__mro__ if name in vars(owner)) for each in objects}


@contextlib.contextmanager
def recorded_step(model: keras.Model, on_gradient, on_loss, on_result):
    """Inside, what a custom train step computes on its way is told.

    Args:
        model: The model.
        on_gradient: Called as `on_gradient(target, gradients)` after every `GradientTape.gradient`.
        on_loss: Called with what `model.compute_loss` returns.
        on_result: Called with the result of every metric that is read.
    """

    def gradient(stock, tape, target, *args, **kwargs):
        gradients = stock(tape, target, *args, **kwargs)
        on_gradient(target, tf.nest.flatten(gradients))
        return gradients

    def compute_loss(stock, *args, **kwargs):
        loss = stock(*args, **kwargs)
        on_loss(loss)
        return loss

    def result(stock, *args, **kwargs):
        value = stock(*args, **kwargs)
        for leaf in keras.tree.flatten(value):
            on_result(leaf)
        return value

    with contextlib.ExitStack() as replacements:
        replacements.enter_context(replaced(tf.GradientTape, "gradient", gradient))
        for owner in _owners([model], "compute_loss"):
            replacements.enter_context(replaced(owner, "compute_loss", compute_loss))
        for owner in _owners(model.metrics, "result"):
            replacements.enter_context(replaced(owner, "result", result))
        yield


@contextlib.contextmanager
def recorded_inputs(on_input):
    """Inside, the inputs of layers with a kernel are told.

    Args:
        on_input: Called as `on_input(kernel, bias, inputs)`: the variable, of shape `(..., columns, units)`; that which
            is added to the product, or `None`; and what is multiplied, of shape `(rows, ..., columns)`.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()  # not those of loops inside

    def call(stock, layer, *args, **kwargs):
        kernel = getattr(getattr(layer, "cell", layer), "kernel", None)
        inputs = args[0] if args else None
        is_here = isinstance(inputs, tf.Tensor) and (graph is None or inputs.graph is graph)
        if is_here and isinstance(kernel, keras.Variable) and _multiplies(layer, kernel, inputs):
            is_sum = isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS))
            on_input(kernel, layer.bias if is_sum else None, inputs)
        return stock(layer, *args, **kwargs)

    with replaced(keras.Layer, "__call__", call):
        yield


_CONVOLUTIONS = keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D


def _multiplies(layer, kernel, inputs):
    """Whether the last axis of the inputs is that of the columns of the kernel."""
    is_matrix = len(kernel.shape) == 2 or isinstance(layer, _CONVOLUTIONS)
    return is_matrix and inputs.shape.rank and inputs.shape[-1] == kernel.shape[-2]


def difference(y_true, y_pred, dtype: str):
    """The prediction minus the target, which Keras's mean squared error squares."""
    y_true, y_pred = (keras.ops.cast(keras.ops.convert_to_tensor(y), dtype) for y in (y_true, y_pred))
    y_true, y_pred = loss_module.squeeze_or_expand_to_same_rank(y_true, y_pred)
    return y_pred - y_true


@contextlib.contextmanager
def recorded_penalties(on_square, on_other):
    """Inside, the penalties of Keras's regularizers are recorded.

    Args:
        on_square: Called as `on_square(x, factor, value)`, where `value` is `factor * sum(x**2)`.
        on_other: Called with words for a penalty that is none of these.
    """

    def call(stock, regularizer, x):
        value = stock(regularizer, x)
        if getattr(regularizer, "l1", 0):
            on_other(f"a regularizer with l1={float(regularizer.l1):g}")
        else:
            on_square(x, float(getattr(regularizer, "l2", 0.0)), value)
        return value

    with contextlib.ExitStack() as replacements:
        for owner in (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2):
            replacements.enter_context(replaced(owner, "__call__", call))
        yield


def added_to_valid_entries() -> float:
    """What Keras adds to the number of valid entries of a mask before it divides by it: 0 since version 3.13."""
    version = tuple(int(number) for number in keras.__version__.split(".")[:2])
    return 0.0 if version >= (3, 13) else keras.config.epsilon()


@contextlib.contextmanager
def undivided_losses():
    """Inside, the loss of a replica is that of its batch: Keras would divide its means by the number of replicas."""
    with (
        replaced(loss_module, "scale_loss_for_distribution", lambda stock, loss: loss),
        replaced(loss_module, "unscale_loss_for_distribution", lambda stock, loss: loss),
    ):
        yield


@contextlib.contextmanager
def twice_differentiable():
    """Inside, the variance that normalization layers compute has the right second derivative.

    `tf.nn.moments` stops the gradient of the mean inside the variance: its first derivative is zero there anyway, but
    not its second.
    """

    def moments(stock, x, axes, keepdims):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    with replaced(backend.nn, "_compute_moments", moments):
        yield
