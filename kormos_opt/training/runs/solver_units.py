"""The units in which the solvers of a fit see the weights, as `x_scale` of the optimizer asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kormos_opt.objective import input_sizes, precision
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.build import variant_of
from kormos_opt.solvers.registry import Method
from kormos_opt.solvers.units import Units, powers_of_two
from kormos_opt.stages import x_scale


class SolverUnits:
    """Finds the units of a new run, and those of one that a file has brought.

    Args:
        setting: `x_scale` of the optimizer.
        objective: f.
        warn: Called with a topic and a message, which is logged once for each topic.
    """

    def __init__(self, setting: Any, objective: BoundObjective, warn: Callable[[str, str], None]):
        self._setting = setting
        self._objective = objective
        self._warn = warn

    @property
    def resolution(self) -> float | None:
        """The resolution of f, where a first step has to be found that f can show; else `None`."""
        return None if self._setting is None else precision.resolution(self._objective.objective.dtype)

    def loaded(self, scale: np.ndarray, shift: np.ndarray) -> Units:
        """The units that a file has brought. The model says which kernels are centered."""
        kernels = self._objective.input_sizes.kernels if shift.any() else ()
        return Units(scale, shift, kernels)

    def new(self, method: Method, centers: bool) -> Units:
        """The units of a new run.

        Args:
            method: Its method.
            centers: Whether the means of inputs may be taken up by biases.
        """
        setting, objective, size = self._setting, self._objective, self._objective.parameters.size
        if not (setting is None or isinstance(setting, str)):
            return Units(x_scale.of_weights(setting, size))
        if setting == "jac" and not x_scale.scales_itself(method):
            sizes = _column_sizes(objective)
            return Units(powers_of_two(1 / np.where(sizes > 0, sizes, 1.0)))
        is_automatic = setting == "auto" and not x_scale.scales_itself(method)
        if setting == "inputs" or (is_automatic and objective.may_have_unlike_inputs()):
            sizes = objective.input_sizes
            if setting == "auto" and not input_sizes.are_unlike(sizes.size, sizes.deviation):
                return Units(np.ones(size))
            if setting == "auto":
                self._warn("x_scale", _UNLIKE_INPUTS.format(*_range(sizes.size), *_range(sizes.deviation)))
            return x_scale.of_inputs(*sizes, centers, precision.resolution(objective.objective.dtype))
        return Units(np.ones(size))


def _range(values):
    """The smallest and the largest of those that are not 0."""
    there = values[values > 0]
    return (there.min(), there.max()) if there.size else (0.0, 0.0)


def _column_sizes(objective):
    """The root of the diagonal of the Gauss-Newton matrix at the weights as they are, float64 of shape `(n,)`.

    For a mean square these are the norms of the columns of the Jacobian, up to one factor.
    """
    gauss_newton = variant_of(objective, curvature="gauss-newton")
    matrix = gauss_newton.hvps(objective.parameters.ravel(), np.eye(objective.parameters.size))
    return np.sqrt(np.maximum(np.diag(matrix), 0.0))


_UNLIKE_INPUTS = (
    "The inputs are of sizes from {:.2g} to {:.2g} and deviations from {:.2g} to {:.2g}. The solver works as if they "
    'were standardized; weights, bounds and results stay in your units. x_scale="inputs" asks for this without this '
    "line, x_scale=None switches it off."
)
