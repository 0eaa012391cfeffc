"""Nonlinear least squares, for losses that are a sum of squares."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import Unpack

from kormos_opt.optimizers.docstrings import documented
from kormos_opt.optimizers.scipy_batch_optimizer import NamedOptimizer, StageSettings
from kormos_opt.stages.plan import BoundsLike, Plan

_documented = functools.partial(
    documented,
    arguments="""method: `"trf"`, `"dogbox"` (for small problems with bounds) or `"lm"` (MINPACK's, without bounds).
        Defaults to `"trf"`.
    loss: What becomes of the squares: `"linear"`, or `"soft_l1"`, `"huber"`, `"cauchy"` or `"arctan"` against
        outliers. The history still shows the loss of the model. Defaults to `"linear"`.
    f_scale: The residual from which on `loss` takes it for an outlier, as in scipy in the units of the targets, for a
        loss that is the mean of all squares. Defaults to `1.0`.
    jacobian: `"matrix"`, `"products"` for one that is only multiplied with vectors, or `"auto"` for a matrix of at
        most 1 GiB. Defaults to `"auto"`.""",
)


@_documented
class LevenbergMarquardt(NamedOptimizer):
    """Nonlinear least squares: the fewest iterations and the most digits where the loss is a sum of squares.

    Every iteration solves a linear least-squares problem with the Jacobian of all residuals. The loss has to be `"mse"`
    with or without weights and L2 penalties, or made with `kormos_opt.mean_square`.
    """

    method = "Levenberg-Marquardt"

    def __init__(
        self,
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        bounds: BoundsLike = None,
        constraints: Any = None,
        name: str | None = None,
        method: Literal["trf", "dogbox", "lm"] = "trf",
        loss: Literal["linear", "soft_l1", "huber", "cauchy", "arctan"] = "linear",
        f_scale: float = 1.0,
        jacobian: Literal["auto", "matrix", "products"] = "auto",
        **kwargs: Unpack[StageSettings],
    ):
        super().__init__(tol, options, bounds, constraints, name, **kwargs)
        _check("method", method, ("trf", "dogbox", "lm"))
        _check("loss", loss, ("linear", "soft_l1", "huber", "cauchy", "arctan"))
        _check("jacobian", jacobian, ("auto", "matrix", "products"))
        self._untracked.least_squares = {"method": method, "loss": loss, "f_scale": f_scale, "jacobian": jacobian}
        self._untracked.plan = Plan({self.method: self._untracked.least_squares}, **self.plan.arguments)

    def get_config(self):
        return {**super().get_config(), **self._untracked.least_squares}


def _check(name, value, known):
    if value not in known:
        raise ValueError(f"Expected one of {', '.join(known)}. Received: {name}={value!r}.")
