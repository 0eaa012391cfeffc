"""Covariances and intervals of weights, intervals of predictions."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import keras
import numpy as np

from kormos_opt.inference import outputs
from kormos_opt.inference.covariance import CovType, Fitted, check, covariance_of
from kormos_opt.inference.families import likelihood_of
from kormos_opt.inference.names import chosen, weight_names
from kormos_opt.inference.profile import profile
from kormos_opt.inference.selected import of_selected
from kormos_opt.inference.summary import Summary, check_alpha, of_fitted

_UNIDENTIFIED = 1e-6  # the part of a derivative that may be due to rounding


def covariance(
    model: keras.Model,
    x,
    y,
    sample_weight=None,
    cov_type: CovType = "nonrobust",
    groups=None,
    which: Sequence[str] | None = None,
) -> np.ndarray:
    """The covariance of the weights of a fitted model.

    Args:
        model: A compiled model with one output.
        x: Its inputs, as arrays.
        y: The targets.
        sample_weight: Of shape `(rows,)`. Defaults to `None`: 1.
        cov_type: As in `kormos_opt.summary`. Defaults to `"nonrobust"`.
        groups: As in `kormos_opt.summary`. Defaults to `None`.
        which: Names of weights, or patterns of `fnmatch` on them. With `cov_type="nonrobust"` no matrix of all weights
            is made then, for models that are too large for one. Defaults to `None`: all.

    Returns:
        float64 of shape `(k, k)`, in the order of `kormos_opt.weight_names(model)`.

    Raises:
        ValueError: As `kormos_opt.summary`.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.array([[-1.0], [0.0], [1.0]])
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> model.compile(loss="mse")
    >>> kormos_opt.covariance(model, x, x + [[1.0], [-2.0], [1.0]]).diagonal().round(6).tolist()
    [3.0, 2.0]
    """
    places, fitted = chosen(weight_names(model), which), Fitted.of(model, x, y, sample_weight)
    if which is not None and cov_type == "nonrobust":
        check(fitted, cov_type)
        return of_selected(fitted, places)
    matrix, _ = covariance_of(model, fitted, cov_type, groups)
    return matrix[np.ix_(places, places)]


def confint(
    model: keras.Model,
    x,
    y,
    sample_weight=None,
    alpha: float = 0.05,
    method: Literal["wald", "profile"] = "wald",
    cov_type: CovType = "nonrobust",
    which: Sequence[str] | None = None,
    groups=None,
) -> np.ndarray:
    """Confidence intervals of the weights of a fitted model.

    Wald's intervals are estimates plus and minus standard errors. Profile-likelihood intervals hold all values that a
    test does not reject: the other weights are fitted anew at each. They need not be symmetric, and hold better where
    the model is far from linear, at the price of some ten fits for each weight.

    Args:
        model: A compiled model with one output.
        x: Its inputs, as arrays.
        y: The targets.
        sample_weight: Of shape `(rows,)`. Defaults to `None`: 1.
        alpha: One minus the level. Defaults to `0.05`.
        method: `"wald"` or `"profile"`. Defaults to `"wald"`.
        cov_type: As in `kormos_opt.summary`; the profile takes `"nonrobust"`. Defaults to `"nonrobust"`.
        which: Names of weights, or patterns of `fnmatch` on them. Defaults to `None`: all.
        groups: As in `kormos_opt.summary`. Defaults to `None`.

    Returns:
        float64 of shape `(k, 2)`. An end that the data do not identify is infinite.

    Raises:
        ValueError: As `kormos_opt.summary`; for names that no weight has; and for a profile of a model with penalties
            or bounds.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 9)[:, None]
    >>> y = 3 * x + np.random.default_rng(0).normal(size=(9, 1))
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="line")])
    >>> model.compile(optimizer=kormos_opt.LevenbergMarquardt(precision="float64"), loss="mse")
    >>> history = model.fit(x, y, epochs=20, verbose=0)
    >>> kormos_opt.confint(model, x, y, which=["line/kernel*"]).round(2).tolist()
    [[2.25, 3.96]]

    Source: Venzon and Moolgavkar, A method for computing profile-likelihood-based confidence intervals, Applied
    Statistics 37 (1988); Bates and Watts, Nonlinear Regression Analysis (1988), section 6.1.
    """
    if method not in ("wald", "profile") or (method == "profile" and cov_type != "nonrobust"):
        raise ValueError(
            'Expected method="wald", or method="profile" with cov_type="nonrobust". '
            f"Received: method={method!r}, cov_type={cov_type!r}."
        )
    check_alpha(alpha)
    fitted = Fitted.of(model, x, y, sample_weight)
    table = of_fitted(model, fitted, cov_type, alpha, groups)
    places = chosen(table.names, which)
    if method == "wald":
        return table.confidence_intervals[places]
    return profile(model, fitted, table, y, sample_weight, places)


class PredictionInterval(NamedTuple):
    """What `predict_interval` returns, each of shape `(rows, outputs)`.

    Attributes:
        mean: The predictions.
        standard_error: Theirs, or those of new observations.
        lower: The lower ends.
        upper: The upper ends.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def predict_interval(
    model: keras.Model, x, summary: Summary, alpha: float = 0.05, kind: Literal["mean", "observation"] = "mean"
) -> PredictionInterval:
    """The band around the predictions of a fitted model, by the delta method.

    The variance of a prediction is `j C j'`, with its derivatives j in the weights and their covariance C.

    Args:
        model: The model.
        x: Where to predict, as arrays.
        summary: What `kormos_opt.summary` says of the fit: its covariance is taken.
        alpha: One minus the level, at each point by itself. Defaults to `0.05`.
        kind: `"mean"` for the curve itself, `"observation"` for a new observation of weight 1, with the variance of
            the residuals too. Defaults to `"mean"`.

    Returns:
        A `PredictionInterval`. The means of a Bernoulli or categorical distribution are probabilities.

    Raises:
        ValueError: For `kind="observation"` where there is no variance of residuals.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 9)[:, None]
    >>> y = 3 * x + np.random.default_rng(0).normal(size=(9, 1))
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.LevenbergMarquardt(precision="float64"), loss="mse")
    >>> history = model.fit(x, y, epochs=20, verbose=0)
    >>> band = kormos_opt.predict_interval(model, np.zeros((1, 1)), kormos_opt.summary(model, x, y))
    >>> band.lower.round(2).tolist(), band.upper.round(2).tolist()
    ([[-0.32]], [[0.79]])

    Source: Seber and Wild, Nonlinear Regression (1989), section 5.1.
    """
    if kind not in ("mean", "observation") or (kind == "observation" and summary.r_squared is None):
        raise ValueError(
            'Expected kind="mean", or kind="observation" for a Gaussian. '
            f"Received: kind={kind!r} for a {summary.family} distribution."
        )
    check_alpha(alpha)
    likelihood, means = likelihood_of(model), outputs.Means(model, x)
    values = means.outputs(means.weights)
    mean, jacobian = likelihood.means(values), likelihood.derivatives(values, means.jacobian())
    variance = np.einsum("ron,nk,rok->ro", jacobian, summary.covariance, jacobian)
    variance[summary.information.unidentified(jacobian) > _UNIDENTIFIED] = np.inf
    error = np.sqrt(variance + (summary.scale if kind == "observation" else 0.0))
    reach = summary.quantile(alpha) * error
    return PredictionInterval(mean, error, mean - reach, mean + reach)
