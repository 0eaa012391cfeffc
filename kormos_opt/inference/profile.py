"""Intervals from the profile likelihood: one weight is fixed, the others are fitted anew."""

from __future__ import annotations

import functools

import keras
import numpy as np
from scipy.optimize import brentq, least_squares, minimize

from kormos_opt.inference import diagnostics
from kormos_opt.inference.covariance import Fitted
from kormos_opt.inference.outputs import InInference, objective_of
from kormos_opt.inference.summary import Summary
from kormos_opt.objective.build import residuals_of

_DOUBLINGS = 12  # of the distance from the estimate, before an end counts as infinite
_RELATIVE = 1e-8  # of the ends, and of the fits


def profile(model: keras.Model, fitted: Fitted, table: Summary, y, sample_weight, places: np.ndarray) -> np.ndarray:
    """The intervals of the weights at `places`, float64 of shape `(k, 2)`. The model keeps its weights.

    Raises:
        ValueError: For a model with penalties or bounds.
    """
    if model.losses:
        raise ValueError(
            "Expected a model without penalties: a profile is that of the likelihood. Received: a model with "
            f'{len(model.losses)} penalties. Take method="wald".'
        )
    if diagnostics.limits_of(model) is not None:
        raise ValueError(
            "Expected a model without bounds: a profile is that of the likelihood alone. Received: an optimizer with "
            'bounds, or a weight with NonNeg. Take method="wald".'
        )
    weights = model.get_weights()
    try:
        fits = _Fits(model, fitted, y, sample_weight)
        return np.array([[fits.end(table, place, side) for side in (-1, 1)] for place in places])
    finally:
        model.set_weights(weights)


class _Fits:
    """Fits of all weights but one, with scipy over the objective as it is: they need no epochs and no callbacks."""

    def __init__(self, model, fitted, y, sample_weight):
        self._fitted = fitted
        self._bound = objective_of(InInference(model), (fitted.x, y, sample_weight), loss=model.loss)
        self._deviance = fitted.deviance_at(fitted.outputs)

    def end(self, table, place, side):
        """The value of a weight above or below its estimate that a test just does not reject."""
        quantile = table.quantile(table.alpha)
        estimate, x = table.estimates[place], table.estimates.copy()
        reach = quantile * table.standard_errors[place]

        @functools.cache  # a second fit at one distance can end on the other side of the quantile, by rounding
        def beyond(distance):
            """How far the test statistic at this distance is above its quantile."""
            if distance == 0:
                return -quantile
            x[place] = estimate + side * distance
            x[:] = self._fit(x, place)
            deviance = self._fitted.deviance_at(self._fitted.means.outputs(x))
            return np.sqrt(max(deviance - self._deviance, 0.0) / table.scale) - quantile

        inner, outer = 0.0, reach
        for _ in range(_DOUBLINGS if np.isfinite(reach) else 0):
            if beyond(outer) > 0:
                return estimate + side * brentq(beyond, inner, outer, rtol=_RELATIVE)
            inner, outer = outer, 2 * outer
        return side * np.inf

    @functools.cached_property
    def _residuals(self):
        return residuals_of(self._bound)

    def _fit(self, x, place):
        """The best point whose entry at `place` is that of `x`."""
        is_free = np.arange(x.size) != place

        def whole(free):
            point = x.copy()
            point[is_free] = free
            return point

        if not is_free.any():
            return x
        if self._fitted.likelihood.family.has_scale:
            residuals = self._residuals
            found = least_squares(
                lambda free: residuals.values(whole(free)),
                x[is_free],
                lambda free: residuals.jacobian(whole(free))[:, is_free],
                x_scale="jac",
                ftol=1e-15,
                xtol=_RELATIVE,
                gtol=None,
            )
        else:
            found = minimize(
                lambda free: self._value_and_slope(whole(free), is_free),
                x[is_free],
                jac=True,
                hess=lambda free: self._bound.hvps(whole(free), np.eye(x.size)[is_free])[:, is_free],
                method="trust-exact",
                tol=_RELATIVE,
            )
        return whole(found.x)

    def _value_and_slope(self, x, is_free):
        evaluation = self._bound.evaluate(x)
        return evaluation.fun, evaluation.jac[is_free]
