"""The units in which a solver sees the weights, as `x_scale` of an optimizer says."""

import numpy as np

from kormos_opt.solvers.registry import Method

NAMED = ("auto", "inputs", "jac")


def check(x_scale) -> None:
    """Raises `ValueError` unless it is `None`, one of `NAMED`, or positive numbers."""
    if x_scale is None or (isinstance(x_scale, str) and x_scale in NAMED):
        return
    try:
        values = np.asarray(x_scale, "float64")
    except (TypeError, ValueError):
        values = np.zeros(1)
    if values.ndim > 1 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            'Expected "auto", "inputs", "jac", None, or positive numbers, one for each weight. '
            f"Received: x_scale={x_scale!r:.200}."
        )


def of_weights(x_scale, size: int) -> np.ndarray:
    """The numbers that a user gave, as powers of two: float64 of shape `(n,)`.

    Args:
        x_scale: A positive number, or one for each weight.
        size: n.

    Raises:
        ValueError: For another number of them.
    """
    values = np.asarray(x_scale, "float64")
    if values.ndim and values.shape != (size,):
        raise ValueError(
            f"Expected one number, or one for each of the {size} weights. Received: x_scale of shape {values.shape}."
        )
    return powers_of_two(np.broadcast_to(values, (size,)))


def of_sizes(sizes: np.ndarray) -> np.ndarray:
    """1 / size as powers of two, 1 where the size is 0."""
    return powers_of_two(1 / np.where(sizes > 0, sizes, 1.0))


def powers_of_two(values: np.ndarray) -> np.ndarray:
    """The nearest ones. Numbers in these units are exact."""
    return 2.0 ** np.round(np.log2(values))


def scales_itself(method: Method) -> bool:
    """Whether the method has an `x_scale` of its own, as least squares has."""
    return "x_scale" in method.options
