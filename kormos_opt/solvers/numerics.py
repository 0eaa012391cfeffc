"""Two pieces of arithmetic that solvers in numpy and in the graph share. Both take arrays and tensors alike."""

from collections.abc import Callable

import numpy as np

NEGLIGIBLE_FACTOR = 1000  # times what f can show: little enough to be left


def is_hidden(change, fun, resolution, factor=1):
    """Whether an f of this resolution cannot show a change.

    Args:
        change: By how much f shall change, above or equal to 0.
        fun: f.
        resolution: The relative resolution of f, such as `numpy.finfo("float32").eps`.
        factor: How many times what f can show is taken for nothing. Defaults to `1`.
    """
    return change <= factor * resolution * abs(fun)


def finite_stand_in(fun, slope, step, squared_length, minimum: Callable = min):
    """What to answer at `x + step`, where f is not finite: a value and a gradient that lead back.

    They are those of the parabola through `fun` at x with this slope along the step. Its minimum is a quarter of the
    way, so an interpolating line search comes back to a quarter of its step, and a trust region shrinks.

    Args:
        fun: f at x.
        slope: The gradient at x times the step.
        step: The step, of shape `(n,)`.
        squared_length: The step times itself.
        minimum: The smaller one of two numbers. Defaults to `min`; tensors need `tf.minimum`.

    Returns:
        The parabola q(t) = fun + slope t - 2 slope t^2 at t = 1, and its gradient along the step.
    """
    slope = minimum(slope, -np.finfo(float).tiny)
    return fun - slope, -3 * slope / squared_length * step
