"""The covariance of the weights of a fitted model.

    nonrobust           (sum of J' W J)^-1, with the expected information W of every row, times the scale
    observed            the inverse of the Hessian of the negative log-likelihood
    HC0, HC1, HC2, HC3  a sandwich of the nonrobust one and the squares of every row's score
    cluster             the same with the scores of a group added up first

Sources: White, A heteroskedasticity-consistent covariance matrix estimator, Econometrica 48 (1980); MacKinnon and
White, Some heteroskedasticity-consistent covariance matrix estimators, Journal of Econometrics 29 (1985); Cameron and
Miller, A practitioner's guide to cluster-robust inference, Journal of Human Resources 50 (2015). Corrections for small
samples are those of statsmodels.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import keras
import numpy as np
import scipy.linalg

from kormos_opt.inference import outputs
from kormos_opt.inference.families import Likelihood, likelihood_of

CovType = Literal["nonrobust", "observed", "HC0", "HC1", "HC2", "HC3", "cluster"]


@dataclass(frozen=True)
class Fitted:
    """A fitted model on its data. The Jacobian is made where it is asked for.

    Attributes:
        likelihood: What its loss stands for.
        x: Its inputs.
        means: Its outputs at any weights.
        outputs: The outputs at its weights, of shape `(rows, outputs)`.
        y: Targets, of the same shape.
        weights: Sample weights, of shape `(rows,)`.
    """

    likelihood: Likelihood
    x: object
    means: outputs.Means
    outputs: np.ndarray
    y: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, model: keras.Model, x, y, sample_weight=None) -> "Fitted":
        """The likelihood of a compiled model.

        Raises:
            ValueError: For a loss that is no likelihood, or data that do not fit to each other.
        """
        likelihood = likelihood_of(model)
        likelihood.check_outputs(*outputs.shape_and_mask(model, x))
        means = outputs.Means(model, x)
        values = means.outputs(means.weights)
        y = likelihood.targets(np.asarray(y), values)
        weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, "float64").ravel()
        if weights.shape != (len(y),) or not (weights >= 0).all() or not weights.any():
            raise ValueError(
                f"Expected one sample weight for each of {len(y)} rows, none negative, and one above zero. "
                f"Received: sample_weight of shape {np.shape(sample_weight)}, least {weights.min():g}."
            )
        return cls(likelihood, x, means, values, y, weights)

    @functools.cached_property
    def mu(self) -> np.ndarray:
        """The means, of shape `(rows, outputs)`."""
        return self.likelihood.means(self.outputs)

    @functools.cached_property
    def jacobian(self) -> np.ndarray:
        """Their derivatives, of shape `(rows, outputs, n)`."""
        return self.likelihood.derivatives(self.outputs, self.means.jacobian())

    @property
    def size(self) -> int:
        """n, the number of weights of the model."""
        return self.means.weights.size

    @property
    def entries(self) -> int:
        """The number of targets: the classes of a row are one."""
        return len(self.y) if self.likelihood.family.is_one_of_many else self.y.size

    @property
    def rank(self) -> int:
        """How many combinations of weights the data identify."""
        return self.inverse.rank

    @property
    def df_residual(self) -> int:
        """Targets that are left when every weight that the data identify has taken one."""
        return self.entries - self.rank

    @property
    def scale(self) -> float:
        """The variance of a residual of weight 1; 1 where the mean says it."""
        return self.scale_for(self.df_residual) if self.likelihood.family.has_scale else 1.0

    def scale_for(self, df_residual: int) -> float:
        """The variance of a residual, for so many targets that are left; 1 where the mean says it."""
        return self.deviance_at(self.outputs) / df_residual if self.likelihood.family.has_scale else 1.0

    @functools.cached_property
    def inverse(self) -> "Inverse":
        """The covariance from the expected information, without the scale.

        Raises:
            ValueError: For predictions that the distribution cannot have.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            root = self.root
        inverse = inverse_of(root) if np.isfinite(root).all() else None
        if inverse is None or (self.is_certain.any() and inverse.rank < self.size):
            raise ValueError(
                "Expected predictions inside of what the distribution can have. Received: probabilities of 0 or 1, "
                "means of 0, or NaN. If the classes can be told apart without an error, no optimum exists: add a "
                "penalty."
            )
        return inverse

    @functools.cached_property
    def is_certain(self) -> np.ndarray:
        """Which means are so near to their targets that they are equal in float64: they add nothing to the information
        and to the gradient. Of shape `(rows, outputs)`."""
        may_be = (self.mu == self.y) & ~np.isfinite(self._information)
        return may_be & ~self.jacobian.any(axis=-1) if may_be.any() else may_be

    @property
    def _information(self):
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.likelihood.family.information(self.mu)

    def _where_uncertain(self, values):
        return np.where(self.is_certain, 0.0, values)

    @property
    def information(self) -> np.ndarray:
        """The expected one of every target in its mean, of shape `(rows, outputs)`."""
        return self.weights[:, None] * self._where_uncertain(self._information)

    @property
    def curvature(self) -> np.ndarray:
        """The second derivatives of the negative log-likelihood by the means, of shape `(rows, outputs)`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.weights[:, None] * self._where_uncertain(self.likelihood.family.curvature(self.y, self.mu))

    @property
    def slope(self) -> np.ndarray:
        """The derivatives of the negative log-likelihood by the means, of shape `(rows, outputs)`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.weights[:, None] * self._where_uncertain(self.likelihood.family.slope(self.y, self.mu))

    def deviance_at(self, outputs: np.ndarray) -> float:
        """The log-likelihood of all rows, if the model had these outputs."""
        return float(self.weights @ self.likelihood.family.deviance(self.y, self.likelihood.means(outputs)))

    @property
    def scores(self) -> np.ndarray:
        """The gradient of the negative log-likelihood of every row, without the scale: of shape `(rows, n)`."""
        return np.einsum("ro,ron->rn", self.slope, self.jacobian)

    @property
    def root(self) -> np.ndarray:
        """A matrix whose product with its transpose is the expected information: of shape `(rows * outputs, n)`."""
        return (np.sqrt(self.information)[..., None] * self.jacobian).reshape(-1, self.size)


class Inverse(NamedTuple):
    """The inverse of an information matrix.

    Attributes:
        matrix: The pseudo-inverse, of shape `(n, n)`.
        is_undetermined: The weights that the data do not identify, of shape `(n,)`.
        condition: The condition number of the root.
        leverage: Of every row of the root, how far it pulls its own fit, of shape `(m,)`.
        row_space: An orthonormal basis of the rows of the root, whose columns are divided by `length`: `(rank, n)`.
        length: The lengths of the columns of the root, of shape `(n,)`.
    """

    matrix: np.ndarray
    is_undetermined: np.ndarray
    condition: float
    leverage: np.ndarray
    row_space: np.ndarray
    length: np.ndarray

    @property
    def rank(self) -> int:
        """How many combinations of weights the data identify."""
        return len(self.row_space)

    def unidentified(self, vectors: np.ndarray) -> np.ndarray:
        """The part of derivatives by all weights that no row of the data has: between 0 and 1.

        Args:
            vectors: Of shape `(..., n)`.
        """
        scaled = vectors / self.length
        rest = scaled - (scaled @ self.row_space.T) @ self.row_space
        size = np.linalg.norm(scaled, axis=-1)
        return np.linalg.norm(rest, axis=-1) / np.where(size > 0, size, 1.0)


def inverse_of(root: np.ndarray) -> Inverse:
    """The inverse of `root' root`, from the singular values of `root` with columns of one length.

    What `scipy.optimize.curve_fit` takes for zero is zero here: `eps * max(shape)` of the largest singular value.

    Args:
        root: Of shape `(m, n)`.
    """
    length = np.linalg.norm(root, axis=0)
    length[length == 0] = 1.0
    left, singular, right = scipy.linalg.svd(root / length, full_matrices=False)
    is_zero = singular <= np.finfo("float64").eps * max(root.shape) * singular[0]
    kept = right[~is_zero] / singular[~is_zero, None]
    determined = np.einsum("kn,kn->n", right[~is_zero], right[~is_zero])
    with np.errstate(divide="ignore"):
        condition = float(np.linalg.cond(singular[:, None] * right * length))
    leverage = np.einsum("mk,mk->m", left[:, ~is_zero], left[:, ~is_zero])
    matrix, row_space = (kept.T @ kept) / np.outer(length, length), right[~is_zero]
    return Inverse(matrix, determined < 1 - 1e-8, condition, leverage, row_space, length)


def covariance_of(model: keras.Model, fitted: Fitted, cov_type: CovType, groups=None) -> tuple[np.ndarray, Inverse]:
    """The covariance of the weights, of shape `(n, n)`, and the inverse of the expected information.

    Raises:
        ValueError: For a `cov_type` that is unknown or does not fit, or fewer targets than weights where the residuals
            have to tell the scale.
    """
    family = fitted.likelihood.family
    check(fitted, cov_type, groups)
    bread = fitted.inverse
    if cov_type == "nonrobust":
        return fitted.scale * bread.matrix, bread
    if cov_type == "observed":
        return fitted.scale * _inverse_of_hessian(_observed(model, fitted)), bread
    scores = fitted.scores
    if cov_type == "cluster":
        _, index = np.unique(np.asarray(groups).ravel(), return_inverse=True)
        added = np.zeros((index.max() + 1, fitted.size))
        np.add.at(added, index, scores)
        entries, count = fitted.entries, len(added)
        correction = count / (count - 1) * (entries - 1) / (entries - fitted.rank)
        return correction * _sandwich(bread.matrix, added), bread
    if family.has_scale and cov_type == "HC1":
        scores = scores * np.sqrt(fitted.entries / fitted.df_residual)
    elif family.has_scale and cov_type in ("HC2", "HC3"):
        scores = scores / ((1 - bread.leverage) ** (0.5 if cov_type == "HC2" else 1.0))[:, None]
    return _sandwich(bread.matrix, scores), bread


def _inverse_of_hessian(matrix):
    """The pseudo-inverse, with a diagonal of one length before what is small counts as zero."""
    length = np.sqrt(np.abs(np.diag(matrix)))
    length[length == 0] = 1.0
    return np.linalg.pinv(matrix / np.outer(length, length), hermitian=True) / np.outer(length, length)


def _sandwich(bread, scores):
    half = scores @ bread
    return half.T @ half


def _observed(model, fitted):
    """The Hessian of the negative log-likelihood, without the scale."""
    bent = np.einsum("ro,ron,rok->nk", fitted.curvature, fitted.jacobian, fitted.jacobian)
    if fitted.likelihood.from_logits:
        raise ValueError(
            'Expected a loss of probabilities for cov_type="observed". Received: from_logits=True, for which it is the '
            'same as "nonrobust" if the logits are linear in the weights. Give the last layer its activation.'
        )
    return bent + outputs.curvature(model, fitted.x, fitted.slope)


def check(fitted: Fitted, cov_type: CovType, groups=None) -> None:
    """Raises `ValueError` for a `cov_type` that is unknown or that the data cannot have."""
    if cov_type not in get_args(CovType):
        raise ValueError(f"Expected one of {', '.join(get_args(CovType))}. Received: cov_type={cov_type!r}.")
    if (cov_type == "cluster") != (groups is not None) or (groups is not None and len(groups) != len(fitted.y)):
        raise ValueError(
            f'Expected groups=, one for each of {len(fitted.y)} rows, with cov_type="cluster" and no other. '
            f"Received: cov_type={cov_type!r}, groups of length {None if groups is None else len(groups)}."
        )
    if groups is not None and len(np.unique(groups)) < 2:
        raise ValueError(f"Expected two groups or more. Received: groups with {np.unique(groups)} alone.")
    needs_residuals = fitted.likelihood.family.has_scale or cov_type == "cluster"
    if needs_residuals and fitted.entries <= fitted.size and fitted.df_residual <= 0:
        raise ValueError(
            "Expected more targets than weights: the residuals have to tell their own variance. "
            f"Received: {fitted.entries} targets, and {fitted.rank} of {fitted.size} weights that they identify. "
            "Freeze layers, or take more data."
        )
    if cov_type in ("HC2", "HC3") and fitted.likelihood.family.has_scale and fitted.y.shape[1] != 1:
        raise ValueError(f"Expected one output for {cov_type}. Received: {fitted.y.shape[1]}. Take HC0 or HC1.")
