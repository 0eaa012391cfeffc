"""The table of a fitted model: estimates, standard errors, tests and intervals, and what they rest on."""

import html
import io
from dataclasses import dataclass, field

import keras
import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table
from scipy import stats

from kormos_opt.inference import diagnostics as notes_of
from kormos_opt.inference.covariance import CovType, Fitted, Inverse, covariance_of
from kormos_opt.inference.names import weight_names
from kormos_opt.objective.flat_parameters import FlatParameters


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` returns. Arrays are float64, with an entry for each of n weights, in the order of `names`.

    Attributes:
        names: Such as `"dense/kernel[0, 1]"`.
        estimates: The weights.
        standard_errors: Their standard errors.
        statistics: Estimates over standard errors.
        p_values: Of two-sided tests that a weight is zero.
        confidence_intervals: Of shape `(n, 2)`.
        covariance: Of shape `(n, n)`.
        family: `"Gaussian"`, `"Bernoulli"`, `"categorical"` or `"Poisson"`.
        cov_type: How the covariance was computed.
        distribution: `"t"` or `"z"`: of the statistics.
        alpha: One minus the level of the intervals.
        rows: How many rows there are.
        df_residual: Targets minus the weights that the data identify.
        scale: The variance of a residual; 1 where the family says it.
        log_likelihood: Of all rows.
        aic: Akaike's criterion, with the weights that the data identify.
        bic: The Bayesian one.
        deviance: Of all rows. The sum of squares for a Gaussian.
        r_squared: For a Gaussian, else `None`.
        condition_number: Of the weighted Jacobian.
        notes: Why figures may be wrong, in words.
        information: The inverse of the expected information matrix, without the scale.
    """

    names: tuple[str, ...]
    estimates: np.ndarray
    standard_errors: np.ndarray
    statistics: np.ndarray
    p_values: np.ndarray
    confidence_intervals: np.ndarray
    covariance: np.ndarray
    family: str
    cov_type: str
    distribution: str
    alpha: float
    rows: int
    df_residual: int
    scale: float
    log_likelihood: float
    aic: float
    bic: float
    deviance: float
    r_squared: float | None
    condition_number: float
    notes: tuple[str, ...]
    information: Inverse = field(repr=False)

    def quantile(self, alpha: float) -> float:
        """What a statistic has to exceed for a two-sided test of this level."""
        return float(_distribution(self.distribution, self.df_residual).ppf(1 - alpha / 2))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the table by their headings."""
        test, level = self.distribution, f"{100 * (1 - self.alpha):g}%"
        return {
            "estimate": self.estimates,
            "std err": self.standard_errors,
            test: self.statistics,
            f"P>|{test}|": self.p_values,
            f"{level} low": self.confidence_intervals[:, 0],
            f"{level} high": self.confidence_intervals[:, 1],
        }

    def to_frame(self):
        """The table as a `pandas.DataFrame`, by name. pandas has to be installed."""
        import pandas as pd

        return pd.DataFrame(self.columns, index=list(self.names))

    def __str__(self):
        out = io.StringIO()
        console = Console(file=out, width=max(map(len, self.names)) + 100, highlight=False)
        console.print(f"{self.family}, {self.rows} rows, {len(self.names)} weights, cov_type={self.cov_type!r}")
        table = Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("weight", no_wrap=True)
        for heading in self.columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for name, *values in zip(self.names, *self.columns.values(), strict=True):
            table.add_row(name, *(f"{value:.5g}" for value in values), style=None)
        console.print(table)
        fit = "deviance" if self.r_squared is None else "sum of squares"
        lines = [
            ("log-likelihood", self.log_likelihood, "AIC", self.aic),
            (fit, self.deviance, "BIC", self.bic),
            ("residual df", self.df_residual, "condition number", self.condition_number),
        ]
        if self.r_squared is not None:
            lines.append(("R squared", self.r_squared, "residual variance", self.scale))
        for left, value, right, other in lines:
            console.print(f"{left:<16}{value:>14.6g}    {right:<18}{other:>14.6g}")
        for note in self.notes:
            console.print(f"Note: {note}", soft_wrap=True, markup=False)
        return out.getvalue().rstrip() + "\n"

    __repr__ = __str__

    def _repr_html_(self):
        return f"<pre>{html.escape(str(self))}</pre>"


def summary(
    model: keras.Model, x, y, sample_weight=None, cov_type: CovType = "nonrobust", alpha: float = 0.05, groups=None
) -> Summary:
    """What a fitted model says about its weights, printed like statsmodels prints it.

    The loss of the model says the distribution: `"mse"` a Gaussian, `"binary_crossentropy"` a Bernoulli,
    `"categorical_crossentropy"` and `"sparse_categorical_crossentropy"` a categorical, `"poisson"` a Poisson
    distribution. The weights are taken as they are: fit the model first, in float64 or with `precision="float64"`.

    Args:
        model: A compiled model with one output.
        x: Its inputs, as arrays.
        y: The targets, as an array.
        sample_weight: Of shape `(rows,)`. A residual of weight w has the variance of the others over w. Defaults to
            `None`: 1.
        cov_type: `"nonrobust"`; `"observed"`, from the Hessian; `"HC0"` to `"HC3"`, for variances that differ between
            rows; or `"cluster"`, for rows that depend on each other within groups. Defaults to `"nonrobust"`.
        alpha: One minus the level of the intervals. Defaults to `0.05`.
        groups: The group of every row, of shape `(rows,)`, for `cov_type="cluster"`. Defaults to `None`.

    Returns:
        A `Summary`: `print` it, or take its arrays.

    Raises:
        ValueError: For a loss that is no likelihood, for data that do not fit, or for as many weights as targets.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> noise = np.random.default_rng(0).normal(size=(50, 1))
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.LevenbergMarquardt(precision="float64"), loss="mse")
    >>> history = model.fit(x, 2 * x + 1 + 0.1 * noise, epochs=20, verbose=0)
    >>> table = kormos_opt.summary(model, x, 2 * x + 1 + 0.1 * noise)
    >>> table.standard_errors.round(3).tolist()
    [0.021, 0.012]

    Source: McCullagh and Nelder, Generalized Linear Models (1989), chapter 2; for curves Seber and Wild, Nonlinear
    Regression (1989), chapter 5.
    """
    check_alpha(alpha)
    fitted = Fitted.of(model, x, y, sample_weight)
    return of_fitted(model, fitted, cov_type, alpha, groups)


def check_alpha(alpha: float) -> None:
    """Raises `ValueError` for what is no level."""
    if not 0 < alpha < 1:
        raise ValueError(f"Expected alpha between 0 and 1, one minus the level. Received: alpha={alpha!r}.")


def of_fitted(model, fitted: Fitted, cov_type: CovType, alpha: float, groups=None) -> Summary:
    """`summary` of what is known already."""
    covariance, bread = covariance_of(model, fitted, cov_type, groups)
    estimates = FlatParameters(model.trainable_variables).ravel()
    names = tuple(weight_names(model))
    is_maximum = (np.diag(covariance) >= 0).all()
    errors = np.sqrt(np.where(np.diag(covariance) < 0, np.nan, np.diag(covariance)))
    errors[bread.is_undetermined] = np.inf
    test = "t" if fitted.likelihood.family.has_scale and cov_type in ("nonrobust", "observed") else "z"
    distribution = _distribution(test, fitted.df_residual)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = estimates / errors
    reach = distribution.ppf(1 - alpha / 2) * errors
    log_likelihood, deviance, r_squared = _goodness(fitted)
    return Summary(
        names=names,
        estimates=estimates,
        standard_errors=errors,
        statistics=statistics,
        p_values=2 * distribution.sf(np.abs(statistics)),
        confidence_intervals=np.stack([estimates - reach, estimates + reach], axis=1),
        covariance=covariance,
        family=fitted.likelihood.family.name,
        cov_type=cov_type,
        distribution=test,
        alpha=alpha,
        rows=len(fitted.y),
        df_residual=fitted.df_residual,
        scale=fitted.scale,
        log_likelihood=log_likelihood,
        aic=2 * fitted.rank - 2 * log_likelihood,
        bic=np.log(fitted.entries) * fitted.rank - 2 * log_likelihood,
        deviance=deviance,
        r_squared=r_squared,
        condition_number=bread.condition,
        notes=tuple(notes_of.on(model, fitted, bread, names, bool(is_maximum))),
        information=bread,
    )


def _distribution(test, df_residual):
    return stats.t(df_residual) if test == "t" else stats.norm()


def _goodness(fitted):
    """The log-likelihood, the deviance, and R squared or `None`."""
    family, weights, entries = fitted.likelihood.family, fitted.weights, fitted.entries
    deviance = fitted.deviance_at(fitted.outputs)
    if not family.has_scale:
        return float(weights @ family.log_likelihood(fitted.y, fitted.mu)), deviance, None
    positive = weights[weights > 0]
    log_likelihood = (
        -entries / 2 * (np.log(2 * np.pi * deviance / entries) + 1) + np.log(positive).sum() * fitted.y.shape[1] / 2
    )
    total = weights @ family.deviance(fitted.y, np.average(fitted.y, axis=0, weights=weights)[None])
    return float(log_likelihood), deviance, float(1 - deviance / total)
