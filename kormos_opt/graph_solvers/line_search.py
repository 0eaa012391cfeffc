"""A line search for the strong Wolfe conditions, in TensorFlow operations: one loop, one evaluation at every turn.

    f(t) <= f(0) + c1 t f'(0)   and   |f'(t)| <= c2 |f'(0)|,   with f(t) short for f(x + t d)

The interval of trial lengths is enlarged until it brackets such a t, then shrunk by cubic interpolation.

Sources: Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6, equation 3.59; the safeguards are
those of More and Thuente, Line search algorithms with guaranteed sufficient decrease (1994), section 4; the approximate
condition for f that rounding hides is (4.1) of Hager and Zhang, A new conjugate gradient method with guaranteed descent
and an efficient line search (2005).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_C1, _C2 = 1e-4, 0.9
_SMALLEST_STRETCH, _LARGEST_STRETCH = 1.1, 4.0  # of the interval, while it brackets nothing
_SHRINKS_ENOUGH = 0.66  # the interval, in two turns; else it is halved
_NARROW = 0.1  # an interval, relative to its larger end: the better end is good enough


class Trial(NamedTuple):
    """A point on the line: its length t, f(t) and f'(t), float64."""

    length: tf.Tensor
    fun: tf.Tensor
    slope: tf.Tensor


class Found(NamedTuple):
    """The best point of a search that lowers f. `length` is 0 if there is none.

    Attributes:
        length: t.
        x: x + t d.
        fun: f(t).
        gradient: The gradient there.
    """

    length: tf.Tensor
    x: tf.Tensor
    fun: tf.Tensor
    gradient: tf.Tensor


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The product of two vectors, added up in float64."""
    return tf.reduce_sum(tf.cast(a, tf.float64) * tf.cast(b, tf.float64))


def search(
    value_and_gradient: Callable, start: Found, direction: tf.Tensor, slope: tf.Tensor, length: tf.Tensor, maxls: int
) -> Found:
    """Looks along a direction for a point that satisfies the strong Wolfe conditions.

    Args:
        value_and_gradient: f and its gradient at a tensor of shape `(n,)`.
        start: x, f and the gradient where the line begins, with the length 0.
        direction: d, of shape `(n,)`.
        slope: f'(0), below 0.
        length: The first t to try.
        maxls: How many there may be.

    Returns:
        The point that satisfies the conditions, or the best one with a sufficient decrease of f when the interval has
        become narrow, or the start.
    """
    resolution = float(np.finfo(direction.dtype.as_numpy_dtype).eps)
    origin = Trial(tf.zeros((), tf.float64), start.fun, slope)

    def goes_on(count, is_done, *_):
        return ~is_done & (count < maxls)

    def turn(count, is_done, length, low, high, is_bracketed, widths, best):
        x = start.x + tf.cast(length, start.x.dtype) * direction
        fun, gradient = value_and_gradient(x)
        trial = Trial(length, fun, dot(gradient, direction))
        is_lower = fun <= start.fun + _C1 * length * slope
        is_lower |= (fun <= start.fun) & (trial.slope <= (2 * _C1 - 1) * slope)
        is_found = is_lower & (tf.abs(trial.slope) <= -_C2 * slope)
        is_better = is_found | (is_lower & (fun < low.fun))
        best = _choose(is_better, Found(length, x, fun, gradient), best)

        before = low
        low, high, is_bracketed = tf.cond(
            is_better,
            lambda: (trial, *_behind(trial, low, high, is_bracketed)),
            lambda: (low, trial, tf.constant(True)),
        )
        width = tf.abs(high.length - low.length)
        next_length = tf.cond(
            is_bracketed,
            lambda: _between(low, high, width <= _SHRINKS_ENOUGH * widths[1]),
            lambda: _beyond(before, trial),
        )
        widths = tf.where(is_bracketed, tf.stack([width, widths[0]]), widths)
        is_narrow = (width <= _NARROW * tf.maximum(low.length, high.length)) & (low.length > 0)
        is_hidden = width * tf.abs(low.slope) <= resolution * tf.abs(start.fun)
        is_done = is_found | (is_bracketed & (is_narrow | is_hidden))
        return count + 1, is_done, next_length, low, high, is_bracketed, widths, best

    widths = tf.constant([float("inf")] * 2, tf.float64)
    first = tf.constant(0), tf.constant(False), length, origin, origin, tf.constant(False), widths, start
    return tf.while_loop(goes_on, turn, first, parallel_iterations=1)[-1]


def _behind(trial, low, high, is_bracketed):
    """The other end of the interval, and whether there is one, if a trial is the new better end."""
    is_behind = trial.slope * tf.where(is_bracketed, high.length - low.length, tf.ones_like(trial.length)) >= 0
    return tf.cond(is_behind, lambda: (low, tf.constant(True)), lambda: (high, is_bracketed))


def _beyond(before, trial):
    """The next trial length behind a trial, while nothing is bracketed."""
    step = trial.length - before.length
    minimum = _cubic_minimum(before, trial)
    farthest = trial.length + _LARGEST_STRETCH * step
    minimum = tf.where(tf.math.is_finite(minimum), minimum, farthest)
    return tf.clip_by_value(minimum, trial.length + _SMALLEST_STRETCH * step, farthest)


def _between(low, high, shrinks):
    """The next trial length inside an interval: the minimum of the cubic, or the middle."""
    minimum, middle = _cubic_minimum(low, high), (low.length + high.length) / 2
    margin = 0.1 * tf.abs(high.length - low.length)
    left, right = tf.minimum(low.length, high.length), tf.maximum(low.length, high.length)
    minimum = tf.clip_by_value(minimum, left + margin, right - margin)
    return tf.where(shrinks & tf.math.is_finite(minimum), minimum, middle)


def _cubic_minimum(a, b):
    """Where the cubic through two trials with their slopes is smallest; NaN if it has no minimum."""
    d1 = a.slope + b.slope - 3 * (a.fun - b.fun) / (a.length - b.length)
    d2 = tf.sign(b.length - a.length) * tf.sqrt(d1**2 - a.slope * b.slope)
    return b.length - (b.length - a.length) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)


def _choose(condition, yes, no):
    return tf.nest.map_structure(lambda one, other: tf.where(condition, one, other), yes, no)
