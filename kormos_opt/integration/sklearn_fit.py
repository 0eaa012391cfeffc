"""`fit` of `keras.wrappers.SKLearnRegressor` and its like: with one of our optimizers it goes on until the solver ends.

scikit-learn's estimators fit to convergence. Keras's wrappers fit one epoch unless they are told otherwise, and
`sklearn.base.clone`, which every search calls, drops what they were told.
"""

import contextlib
import functools
from contextvars import ContextVar

from kormos_opt.keras_internals.trainer import SKLEARN_ESTIMATOR

EPOCHS = 100_000  # at most
_is_inside: ContextVar = ContextVar("sklearn_fit", default=False)


def install() -> None:
    """Marks the fits of the wrappers. Idempotent."""
    if hasattr(SKLEARN_ESTIMATOR.fit, "_kormos_opt_stock"):
        return
    stock = SKLEARN_ESTIMATOR.fit

    @functools.wraps(stock)
    def fit(estimator, X, y, **kwargs):  # noqa: N803  scikit-learn's name
        with _inside():
            return stock(estimator, X, y, **kwargs)

    SKLEARN_ESTIMATOR.fit = fit
    SKLEARN_ESTIMATOR.fit._kormos_opt_stock = stock


def complete(arguments: dict) -> None:
    """Adds to the arguments that `Model.fit` was given what convergence needs, inside a fit of a wrapper."""
    if _is_inside.get() and "epochs" not in arguments:
        arguments["epochs"] = EPOCHS
        arguments.setdefault("verbose", 0)


@contextlib.contextmanager
def _inside():
    token = _is_inside.set(True)
    try:
        yield
    finally:
        _is_inside.reset(token)
