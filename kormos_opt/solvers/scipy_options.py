"""The options that each method of `scipy.optimize.minimize` takes, read from the signatures of scipy's own code."""

import inspect

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
