"""The linear change of variables in which a solver sees the weights: x = T z.

    x = scale z,    and for a bias b of a kernel W on the data    b = z_b - shift' z_W,   shift = mean scale

With the deviations of the inputs in `scale` and their means in `shift`, f is to the solver what it is for standardized
inputs. T is triangular, so its inverse and its transpose are as cheap.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Centered(NamedTuple):
    """Where a kernel and its bias stand in the vector of weights.

    Attributes:
        kernel: The place of the first entry of the kernel.
        rows: Inputs of the kernel.
        columns: Its outputs.
        bias: The place of the first entry of the bias, which has `columns` of them.
    """

    kernel: int
    rows: int
    columns: int
    bias: int


class Units:
    """T and its relatives, on arrays whose last axis has `n` entries.

    Args:
        scale: The unit of each weight, powers of two of shape `(n,)`.
        shift: For entries of centered kernels the mean of their input times their scale, else 0. Defaults to `None`: 0
            for all.
        centered: The kernels. Defaults to none.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.units import Centered, Units
    >>> units = Units(np.array([0.5, 1.0]), np.array([5.0, 0.0]), [Centered(0, 1, 1, 1)])
    >>> units.weights(np.array([2.0, 0.0]))
    array([  1., -10.])
    """

    def __init__(self, scale: np.ndarray, shift: np.ndarray | None = None, centered: Sequence[Centered] = ()):
        self.scale = np.array(scale, "float64")
        self.shift = np.zeros_like(self.scale) if shift is None else np.array(shift, "float64")
        self.centered = tuple(centered) if self.shift.any() else ()

    @property
    def are_plain(self) -> bool:
        """Whether z is x."""
        return bool((self.scale == 1).all()) and not self.centered

    def multiply(self, factor: float) -> None:
        """Makes all units so many times as large."""
        self.scale *= factor
        self.shift *= factor

    def weights(self, z):
        """T z: points and steps."""
        x = self.scale * z
        for part in self.centered:
            of_kernel, of_bias = _places(part)
            moved = (self.shift[of_kernel] * z[..., of_kernel]).reshape(*z.shape[:-1], part.rows, part.columns)
            x[..., of_bias] -= moved.sum(axis=-2)
        return x

    def own(self, x):
        """The inverse of `weights`."""
        z = x / self.scale
        for part in self.centered:
            of_kernel, of_bias = _places(part)
            moved = (self.shift[of_kernel] * z[..., of_kernel]).reshape(*z.shape[:-1], part.rows, part.columns)
            z[..., of_bias] += moved.sum(axis=-2) / self.scale[of_bias]
        return z

    def own_gradient(self, gradient):
        """T' g: derivatives with respect to x as those with respect to z."""
        own = self.scale * gradient
        for part in self.centered:
            of_kernel, of_bias = _places(part)
            own[..., of_kernel] -= self.shift[of_kernel] * np.tile(gradient[..., of_bias], part.rows)
        return own

    def gradient(self, own):
        """The inverse of `own_gradient`."""
        gradient = own / self.scale
        for part in self.centered:
            of_kernel, of_bias = _places(part)
            shift = self.shift[of_kernel] / self.scale[of_kernel]
            gradient[..., of_kernel] += shift * np.tile(gradient[..., of_bias], part.rows)
        return gradient


def _places(part):
    return slice(part.kernel, part.kernel + part.rows * part.columns), slice(part.bias, part.bias + part.columns)


def powers_of_two(values: np.ndarray) -> np.ndarray:
    """The nearest ones. Numbers in these units are exact."""
    return 2.0 ** np.round(np.log2(values))
