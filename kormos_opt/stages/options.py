"""Checks the options of a method when they are given.

Nothing is solved to check them: a user's limits may allow a run without end.
"""

from collections.abc import Mapping
from numbers import Real

import numpy as np

from kormos_opt.solvers.registry import Method

_LIMITS = {"maxiter", "maxfun", "maxfev"}
_POSITIVE = {"maxcor", "maxls", "memory"}


def check_options(method: Method, tol: float | None, options: Mapping) -> None:
    """Raises `ValueError` for options that the method does not know, or whose values it cannot take.

    Args:
        method: The method.
        tol: As in scipy.
        options: As in scipy.
    """
    unknown = [str(name) for name in options if name not in method.options]
    if unknown:
        _refuse(method, options, f"Unknown solver options: {', '.join(unknown)}")
    for name, value in options.items():
        reason = _what_is_wrong(name, value, method.options[name])
        if reason is not None:
            _refuse(method, options, f"{name}={value!r} {reason}")
    if not (tol is None or _is_number(tol)):
        raise ValueError(f"Expected a number or None. Received: tol={tol!r}.")
    if not (tol is None or method.set_by_tol):
        raise ValueError(f"Expected no tol for {method.name}, which takes none. Received: tol={tol!r}. Leave it out.")


def is_positive_integer(value) -> bool:
    """Whether `value` is an integer above 0, and no truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def _what_is_wrong(name, value, default):
    if name in _LIMITS and value is None and default is None:
        return None
    if name in _LIMITS and not (_is_number(value) and value >= 0):
        return "is no number above or equal to 0"
    if name in _POSITIVE and not is_positive_integer(value):
        return "is no positive integer"
    if _is_number(default) and not isinstance(default, (bool, np.bool_)) and not _is_number(value):
        return "is no number"
    return None


def _is_number(value):
    """Whether `value` is a real number other than NaN."""
    is_number = isinstance(value, Real) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return is_number and not bool(np.isnan(value))


def _refuse(method, options, reason):
    raise ValueError(
        f"Expected `options` that method {method.name!r} takes: {', '.join(sorted(method.options))}. "
        f"Received: options={options!r} ({reason})."
    )
