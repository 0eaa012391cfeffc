"""The options that each method of `scipy.optimize.minimize` takes, read from the signatures of scipy's own code.

Nothing is solved to check them: a user's limits may allow a run without end.
"""

import inspect
from numbers import Real

import numpy as np
from scipy.optimize import _minimize, _trustregion

_FUNCTIONS = {
    "nelder-mead": "_minimize_neldermead",
    "powell": "_minimize_powell",
    "cg": "_minimize_cg",
    "bfgs": "_minimize_bfgs",
    "newton-cg": "_minimize_newtoncg",
    "l-bfgs-b": "_minimize_lbfgsb",
    "tnc": "_minimize_tnc",
    "cobyla": "_minimize_cobyla",
    "cobyqa": "_minimize_cobyqa",
    "slsqp": "_minimize_slsqp",
    "trust-constr": "_minimize_trustregion_constr",
    "dogleg": "_minimize_dogleg",
    "trust-ncg": "_minimize_trust_ncg",
    "trust-exact": "_minimize_trustregion_exact",
    "trust-krylov": "_minimize_trust_krylov",
}
_PROBLEM = {  # what `minimize` itself hands over
    "fun", "func", "x0", "args", "jac", "grad", "hess", "hessp", "bounds", "constraints", "callback", "subproblem",
}  # fmt: skip
_LIMITS = {"maxiter", "maxfun", "maxfev"}
_POSITIVE = {"maxcor", "maxls"}


def known_options(method: str) -> dict[str, object]:
    """The options of a method with their defaults.

    Args:
        method: A name that scipy knows, in any case.

    >>> sorted(known_options("Powell"))
    ['direc', 'disp', 'ftol', 'maxfev', 'maxiter', 'return_all', 'xtol']
    """
    function = getattr(_minimize, _FUNCTIONS[method.lower()])
    parameters = dict(inspect.signature(function).parameters)
    if "trust_region_options" in parameters:
        parameters |= inspect.signature(_trustregion._minimize_trust_region).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in _PROBLEM and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def check_options(method: str, tol: float | None, options: dict) -> None:
    """Raises `ValueError` for options that scipy does not know, or whose values it cannot take.

    Args:
        method: A name that scipy knows.
        tol: As in scipy.
        options: As in scipy.
    """
    known = known_options(method)
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        _refuse(method, options, f"Unknown solver options: {', '.join(unknown)}")
    for name, value in options.items():
        reason = _what_is_wrong(name, value, known[name])
        if reason is not None:
            _refuse(method, options, f"{name}={value!r} {reason}")
    if not (tol is None or _is_number(tol)):
        raise ValueError(f"Expected a number or None. Received: tol={tol!r}.")


def _what_is_wrong(name, value, default):
    if name in _LIMITS and value is None and default is None:
        return None
    if name in _LIMITS and not (_is_number(value) and value >= 0):
        return "is no number above or equal to 0"
    if name in _POSITIVE and not (isinstance(value, (int, np.integer)) and value > 0):
        return "is no positive integer"
    if _is_number(default) and not isinstance(default, (bool, np.bool_)) and not _is_number(value):
        return "is no number"
    return None


def _is_number(value):
    """Whether `value` is a real number other than NaN."""
    return (isinstance(value, Real) or (isinstance(value, np.ndarray) and value.ndim == 0)) and not np.isnan(value)


def _refuse(method, options, reason):
    raise ValueError(
        f"Expected `options` that scipy takes for method {method!r}: {', '.join(sorted(known_options(method)))}. "
        f"Received: options={options!r} ({reason})."
    )
