"""The distributions that Keras's losses stand for, as functions of targets and means of shape `(rows, outputs)`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from scipy.special import expit, gammaln, softmax, xlogy


@dataclass(frozen=True)
class Family:
    """A distribution of the targets y with means mu.

    Args:
        name: As it is printed.
        log_likelihood: Of every row, of shape `(rows,)`, without a scale.
        deviance: Twice what each row is below the best possible log-likelihood.
        slope: The derivative of the negative log-likelihood in mu.
        information: The expected second derivative in mu: the inverse of the variance.
        curvature: The second derivative itself.
        has_scale: Whether the variance is a number that the residuals tell.
        is_one_of_many: Whether the outputs of a row are the probabilities of one target.
    """

    name: str
    log_likelihood: Callable
    deviance: Callable
    slope: Callable
    information: Callable
    curvature: Callable
    has_scale: bool = False
    is_one_of_many: bool = False


def _rows(terms):
    return np.sum(terms, axis=1)


def _bernoulli(y, mu):
    return _rows(xlogy(y, mu) + xlogy(1 - y, 1 - mu))


def _poisson(y, mu):
    return _rows(xlogy(y, mu) - mu - gammaln(y + 1))


GAUSSIAN = Family(
    "Gaussian",
    log_likelihood=lambda y, mu: -_rows((y - mu) ** 2) / 2,
    deviance=lambda y, mu: _rows((y - mu) ** 2),
    slope=lambda y, mu: mu - y,
    information=lambda mu: np.ones_like(mu),
    curvature=lambda y, mu: np.ones_like(mu),
    has_scale=True,
)
BERNOULLI = Family(
    "Bernoulli",
    log_likelihood=_bernoulli,
    deviance=lambda y, mu: 2 * (_bernoulli(y, y) - _bernoulli(y, mu)),
    slope=lambda y, mu: (mu - y) / (mu * (1 - mu)),
    information=lambda mu: 1 / (mu * (1 - mu)),
    curvature=lambda y, mu: y / mu**2 + (1 - y) / (1 - mu) ** 2,
)
CATEGORICAL = Family(
    "categorical",
    log_likelihood=lambda y, mu: _rows(xlogy(y, mu)),
    deviance=lambda y, mu: 2 * _rows(xlogy(y, y) - xlogy(y, mu)),
    slope=lambda y, mu: -y / mu,
    information=lambda mu: 1 / mu,
    curvature=lambda y, mu: y / mu**2,
    is_one_of_many=True,
)
POISSON = Family(
    "Poisson",
    log_likelihood=_poisson,
    deviance=lambda y, mu: 2 * (_poisson(y, y) - _poisson(y, mu)),
    slope=lambda y, mu: 1 - y / mu,
    information=lambda mu: 1 / mu,
    curvature=lambda y, mu: y / mu**2,
)

_BY_LOSS = {
    keras.losses.mean_squared_error: GAUSSIAN,
    keras.losses.binary_crossentropy: BERNOULLI,
    keras.losses.categorical_crossentropy: CATEGORICAL,
    keras.losses.sparse_categorical_crossentropy: CATEGORICAL,
    keras.losses.poisson: POISSON,
}


class Likelihood(NamedTuple):
    """The family of a loss, and what the loss makes of outputs and targets first.

    Attributes:
        family: The family.
        from_logits: Whether the outputs are logits.
        is_sparse: Whether the targets are numbers of classes.
    """

    family: Family
    from_logits: bool
    is_sparse: bool

    def targets(self, y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """The targets in the shape of the outputs, float64 of shape `(rows, outputs)`.

        Raises:
            ValueError: For another number of entries, for classes that there are not, and for NaN.
        """
        if not np.isfinite(y).all():
            raise ValueError("Expected finite targets. Received: y with NaN or inf. Leave those rows out.")
        if self.is_sparse:
            classes = np.ravel(y).astype(int)
            if classes.min(initial=0) < 0 or classes.max(initial=0) >= outputs.shape[1]:
                raise ValueError(
                    f"Expected classes from 0 to {outputs.shape[1] - 1}. Received: y from {classes.min()} to "
                    f"{classes.max()}. Leave rows out that the loss ignores."
                )
            return np.eye(outputs.shape[1])[classes]
        y = np.asarray(y, "float64").reshape(len(y), -1)
        if y.shape != outputs.shape:
            raise ValueError(f"Expected targets of shape {outputs.shape}. Received: y of shape {y.shape}.")
        return y

    def check_outputs(self, shape: tuple, is_masked: bool) -> None:
        """Raises `ValueError` for outputs of one batch that have a mask, or classes at every step of a sequence."""
        if is_masked:
            raise ValueError(
                "Expected outputs without a mask: its entries would count as targets. Received: a model with a Masking "
                "or Embedding(mask_zero=True) layer. Give the valid entries as rows of their own."
            )
        if self.family.is_one_of_many and len(shape) != 2:
            raise ValueError(
                f"Expected outputs of shape (rows, classes). Received: outputs of shape {shape}. Give every step of a "
                "sequence as a row of its own."
            )

    def means(self, outputs: np.ndarray) -> np.ndarray:
        """The means that outputs of shape `(rows, outputs)` say, of the same shape."""
        if not self.from_logits:
            return outputs
        return expit(outputs) if self.family is BERNOULLI else softmax(outputs, axis=1)

    def chain(self, outputs: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """How the means change with the outputs, both of shape `(rows, outputs)`. It is symmetric."""
        return self.derivatives(outputs, vector[..., None])[..., 0]

    def derivatives(self, outputs: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        """The Jacobian of the means from that of the outputs, both of shape `(rows, outputs, n)`."""
        if not self.from_logits:
            return jacobian
        mu = self.means(outputs)
        if self.family is BERNOULLI:
            return (mu * (1 - mu))[..., None] * jacobian
        return mu[..., None] * (jacobian - np.einsum("ro,ron->rn", mu, jacobian)[:, None])


def likelihood_of(model: keras.Model) -> Likelihood:
    """The likelihood that the loss of a compiled model stands for.

    Raises:
        ValueError: For a model without a loss, with several, or with one that is no likelihood.
    """
    loss = getattr(model, "loss", None)
    if isinstance(loss, list | tuple) and len(loss) == 1:
        (loss,) = loss
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    arguments = getattr(loss, "_fn_kwargs", {})
    function = getattr(loss, "fn", loss)
    family = _BY_LOSS.get(function) if callable(function) else None
    if family is None or arguments.get("label_smoothing", 0) or arguments.get("ignore_class") is not None:
        known = ", ".join(function.__name__ for function in _BY_LOSS)
        raise ValueError(
            f"Expected a model that is compiled with one loss that is a likelihood: {known}, without label_smoothing "
            "and ignore_class. "
            f"Received: loss={loss!r}. Compile the model with one of them; its weights stay as they are."
        )
    return Likelihood(
        family, bool(arguments.get("from_logits", False)), function is keras.losses.sparse_categorical_crossentropy
    )
