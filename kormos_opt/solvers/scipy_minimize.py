"""`scipy.optimize.minimize` as a solver of `solvers/base.py`, in a suspended thread."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds

from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct, Solver
from kormos_opt.solvers.scipy_thread import in_thread
from kormos_opt.solvers.termination import explain


def minimize(
    x0: np.ndarray,
    method: str,
    derivatives: str = "gradient",
    tol: float | None = None,
    bounds: Bounds | None = None,
    constraints: Sequence = (),
    **options,
) -> Solver:
    """Runs `scipy.optimize.minimize(method=...)` one request at a time.

    Args:
        x0: Starting point, float64 of shape `(n,)`.
        method: A name that scipy knows.
        derivatives: What the method asks for beside f, as in `registry.Method`. Defaults to `"gradient"`.
        tol: As in scipy.
        bounds: As in scipy.
        constraints: As in scipy. Their functions are called in the thread of scipy.
        **options: As in scipy, handed over as they are.

    Returns:
        A solver whose result is scipy's, with a message that says what to do next.

    Example:

    >>> from kormos_opt.solvers.scipy_minimize import minimize
    >>> from kormos_opt.solvers.testing import drive
    >>> import numpy as np
    >>> drive(minimize(np.ones(2), "L-BFGS-B"), lambda x: (x @ x, 2 * x)).result.x.round(5) + 0
    array([0., 0.])
    """
    arguments = {"tol": tol, "options": options, "bounds": bounds, "constraints": constraints}

    def call(ask, accept):
        functions = _functions(
            derivatives,
            fun=lambda x: ask(EvaluateValue(np.array(x))),
            fun_and_jac=lambda x: ask(EvaluateWithGradient(np.array(x))),
            product=lambda x, p: ask(HessianProduct(np.array(x), np.array(p, "float64"))),
        )

        def callback(intermediate_result):
            accept(getattr(intermediate_result, "x", intermediate_result))  # TNC hands over x itself

        result = scipy.optimize.minimize(x0=x0, method=method, callback=callback, **functions, **arguments)
        result.ending, result.message = explain(result.message)
        return result

    return in_thread(call, _lock(method))


def _functions(derivatives, fun, fun_and_jac, product):
    """What `minimize` is given to call."""
    if derivatives == "none":
        return {"fun": fun}
    first_order = {"fun": fun_and_jac, "jac": True}
    if derivatives == "gradient":
        return first_order
    if derivatives == "hvp":
        return {**first_order, "hessp": product}
    return {**first_order, "hess": lambda x: product(x, np.eye(len(x)))}


def _lock(method):
    """What scipy holds while a method runs, or `None`."""
    if method.lower() == "cobyqa":
        return getattr(getattr(scipy.optimize, "_cobyqa_py", None), "COBYQA_LOCK", None)
    if method.lower() == "cobyla":
        return getattr(getattr(scipy.optimize, "_cobyla_py", None), "_module_lock", None)
    return None
