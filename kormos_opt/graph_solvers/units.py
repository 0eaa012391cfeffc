"""The change of variables of `solvers/units.py` in TensorFlow operations, without a scatter."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from kormos_opt.solvers.units import Centered


def weights_of(z: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, centered: Sequence[Centered]) -> tf.Tensor:
    """T z, float64 of shape `(n,)`.

    Args:
        z: A point of the solver, float64 of shape `(n,)`.
        scale: The unit of each weight, as in `Units`.
        shift: For centered inputs their means in these units, as in `Units`.
        centered: The kernels whose inputs are centered.
    """
    x = scale * z
    for part in centered:
        end = part.kernel + part.rows * part.columns
        moved = tf.reshape(shift[part.kernel : end] * z[part.kernel : end], (part.rows, part.columns))
        x -= _placed(tf.reduce_sum(moved, axis=0), part.bias, x)
    return x


def own_gradient_of(gradient: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, centered: Sequence[Centered]) -> tf.Tensor:
    """T' g, float64 of shape `(n,)`, with the arguments of `weights_of`."""
    own = scale * gradient
    for part in centered:
        end = part.kernel + part.rows * part.columns
        of_bias = tf.tile(gradient[part.bias : part.bias + part.columns], [part.rows])
        own -= _placed(shift[part.kernel : end] * of_bias, part.kernel, own)
    return own


def _placed(values, start, like):
    """Zeros of the size of `like`, with these values from `start` on."""
    return tf.pad(values, [[start, like.shape[0] - start - values.shape[0]]])
