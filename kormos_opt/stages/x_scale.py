"""The units in which a solver sees the weights, as `x_scale` of an optimizer says."""

from collections.abc import Sequence

import numpy as np

from kormos_opt.solvers.registry import Method
from kormos_opt.solvers.units import Centered, Units, powers_of_two

NAMED = ("auto", "inputs", "jac")
EXPECTED = '"auto", "inputs", "jac", None, or positive numbers, one for each weight'
_CONSTANT = 10  # times the resolution of a column: nothing varies


def is_valid(x_scale) -> bool:
    """Whether it is `None`, one of `NAMED`, or positive numbers."""
    if x_scale is None or (isinstance(x_scale, str) and x_scale in NAMED):
        return True
    try:
        values = np.asarray(x_scale, "float64")
    except (TypeError, ValueError):
        return False
    return values.ndim <= 1 and bool((np.isfinite(values) & (values > 0)).all())


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


def of_inputs(
    size: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    kernels: Sequence[Centered],
    centers: bool,
    resolution: float,
) -> Units:
    """Units in which the inputs are of size 1; as if they were standardized, where a bias can take up their means.

    Args:
        size: The root mean squares of the inputs by weight, float64 of shape `(n,)`, 0 where there are none.
        mean: Their means, of shape `(n,)`.
        deviation: Their standard deviations, of shape `(n,)`.
        kernels: The kernels with a bias.
        centers: Whether the means may be taken up.
        resolution: The relative resolution of f. What varies by less is constant to it.
    """
    unit, shift = np.where(size > 0, size, 1.0), np.zeros_like(size)
    centered = list(kernels) if centers else []
    for part in centered:
        place = slice(part.kernel, part.kernel + part.rows * part.columns)
        varies = deviation[place] > _CONSTANT * resolution * size[place]
        unit[place] = np.where(varies, deviation[place], unit[place])
        shift[place] = np.where(varies, mean[place], 0.0)
    scale = powers_of_two(1 / unit)
    return Units(scale, shift * scale, centered)


def without_own_scale(method: Method, size: int) -> dict:
    """Options that keep a method from scaling once more.

    Args:
        method: The method.
        size: n.
    """
    # Of least squares; of TNC, which in scipy reads memory that nobody has set where it has scales and no offsets.
    plain = {"x_scale": 1.0, "scale": np.ones(size), "offset": np.zeros(size)}
    return {name: value for name, value in plain.items() if name in method.options}


def scales_itself(method: Method) -> bool:
    """Whether the method has an `x_scale` of its own, as least squares has."""
    return "x_scale" in method.options
