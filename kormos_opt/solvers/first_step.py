"""How long a first step has to be for its effect to show in f.

Before they know any curvature, line searches and trust regions try a step of length 1. Where the loss is 1e24, as with
targets of 1e12, float32 cannot show what such a step changes, and the method would give up at once. Then longer steps
along the negative gradient are tried, and the best one is made the unit of all weights.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from scipy.optimize import Bounds

from kormos_opt.solvers.base import EvaluateWithGradient, Request
from kormos_opt.solvers.numerics import is_hidden
from kormos_opt.solvers.units import Units

_HARDLY_SEEN = 16  # times the resolution of f
_FACTOR = 4.0
_MOST = 64  # lengths that are tried


def visible_length(
    x0: np.ndarray,
    fun: float,
    jac: np.ndarray,
    units: Units,
    resolution: float,
    is_free: np.ndarray | None = None,
    bounds: Bounds | None = None,
) -> Generator[Request, Any, Any]:
    """A power of two to multiply the units of all weights with: 1 where f shows a step of length 1.

    Longer steps along the gradient are tried until one of them lowers f, and on as long as f goes on falling.

    Args:
        x0: The starting point, float64 of shape `(n,)`.
        fun: f there.
        jac: The gradient there.
        units: The units of the weights.
        resolution: The relative resolution of f.
        is_free: Which weights may move. Defaults to `None`: all.
        bounds: Points are moved between them. Defaults to `None`.

    Yields:
        Requests for f and its gradient.

    Returns:
        The factor, and how many points were tried beside `x0`.
    """
    own = units.own_gradient(jac if is_free is None else jac * is_free)
    slope = np.linalg.norm(own)
    if not np.isfinite(fun) or slope == 0 or not is_hidden(slope, fun, _HARDLY_SEEN * resolution):
        return 1.0, 0
    direction = units.weights(-own / slope)
    length, best = 1.0, (fun, 1.0)
    tried = 0
    while tried < _MOST:
        tried += 1
        length *= _FACTOR
        x = x0 + length * direction
        value, _ = yield EvaluateWithGradient(x if bounds is None else np.clip(x, bounds.lb, bounds.ub))
        if not np.isfinite(value) or (best[1] > 1 and value >= best[0]):
            break
        if value < best[0] and not is_hidden(fun - value, fun, resolution):
            best = value, length
    return best[1], tried
