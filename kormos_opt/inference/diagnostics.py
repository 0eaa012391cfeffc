"""Why figures of a summary may be wrong, in words."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from scipy.optimize import Bounds

from kormos_opt.inference.covariance import Fitted, Inverse
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.stages import bounds

_FAR = 0.01  # standard errors
_NEAR = 1e-6  # relative: trust regions stay between the bounds


def on(
    model: keras.Model, fitted: Fitted, bread: Inverse, names: tuple[str, ...], is_maximum: bool = True
) -> Iterator[str]:
    """The notes on a fitted model. `is_maximum` is false where a variance came out negative."""
    if not is_maximum:
        yield (
            "the observed information is not positive definite, so these weights are no maximum of the likelihood. Fit "
            "on, or from other weights."
        )
    if bread.is_undetermined.any():
        which = [name for name, is_undetermined in zip(names, bread.is_undetermined, strict=True) if is_undetermined]
        yield (
            f"the data do not identify {_some(which)}: other values give the same outputs. Their standard errors are "
            "infinite; those of the others hold for the pseudo-inverse."
        )
    is_penalized = any(
        getattr(variable, "regularizer", None) is not None for variable in model.trainable_variables
    ) or bool(model.losses)
    at_bounds = _at_bounds(model, names)
    if is_penalized:
        yield (
            "the loss has penalties, which pull the weights towards zero: the standard errors are those of the "
            "likelihood alone and say nothing of that bias."
        )
    if at_bounds:
        yield f"{_some(at_bounds)} at a bound: standard errors and tests do not hold for a weight that cannot move."
    robust = _robust_loss(model)
    if robust is not None:
        yield (
            f"the fit had the robust loss {robust!r}: the standard errors are those of plain squares at its weights, "
            "outliers included."
        )
    if not is_penalized and not at_bounds and robust is None:
        step = bread.matrix @ fitted.scores.sum(axis=0)
        errors = np.sqrt(fitted.scale * np.diag(bread.matrix))
        away = np.max(np.abs(step) / np.where(errors == 0, np.inf, errors), initial=0)
        if away > _FAR:
            yield (
                f"the gradient is not zero: an optimum is about {away:.2g} standard errors away. Fit on, with "
                'precision="float64", before you use these figures.'
            )


def _robust_loss(model):
    stage = _last_stage(model)
    if stage is None or stage.method.derivatives != "jacobian":
        return None
    loss = stage.options.get("loss", "linear")
    return None if loss == "linear" else loss


def limits_of(model: keras.Model) -> Bounds | None:
    """The bounds that the optimizer of a model has kept, `None` without any."""
    stage = _last_stage(model)
    if stage is None:
        return None
    return bounds.resolve(stage.bounds, FlatParameters(model.trainable_variables), stage.method)


def _last_stage(model):
    stages = getattr(model.optimizer, "stages", ())
    return stages[-1] if stages else None


def _at_bounds(model, names):
    limits = limits_of(model)
    if limits is None:
        return []
    values = FlatParameters(model.trainable_variables).ravel()
    is_at = np.isclose(values, limits.lb, rtol=_NEAR) | np.isclose(values, limits.ub, rtol=_NEAR)
    return [name for name, at in zip(names, is_at, strict=True) if at]


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
