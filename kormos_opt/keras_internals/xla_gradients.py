"""The gradient of one operation that TensorFlow's own gradients make under XLA and then cannot differentiate.

`tf.slice` and `tf.split`, which the gradient of a concatenation uses, get an `XlaDynamicUpdateSlice` as their gradient.
Without an entry for it a model that concatenates its inputs and is differentiated again cannot be compiled.
"""

import contextlib

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops


def register() -> None:
    """Adds the entry to TensorFlow's registry, unless there is one."""
    with contextlib.suppress(KeyError):
        tf.RegisterGradient("XlaDynamicUpdateSlice")(_gradient)


def _gradient(operation, gradient):
    """The result is the input with the update written over a part of it: the gradient is cut in two along that part."""
    _, update, start = operation.inputs
    rest = gen_xla_ops.xla_dynamic_update_slice(gradient, tf.zeros_like(update), start)
    return rest, tf.slice(gradient, start, tf.shape(update)), None
