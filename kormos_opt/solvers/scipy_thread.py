"""`scipy.optimize.minimize` as a solver of `solvers/base.py`.

scipy calls the objective; a Keras epoch has to call the solver. A thread turns one into the other: it runs
scipy and sleeps whenever scipy wants a value. Only numpy arrays cross over; TensorFlow stays in the thread
that called `fit`, where its device scopes and distribution strategies live.
"""

import re
import threading
import warnings
from queue import SimpleQueue

import numpy as np
import scipy.optimize
from scipy.optimize import OptimizeResult

from kormos_opt.solvers.base import Evaluate, Iterate, Solver

_ABANDON = object()

# What to do next, by the beginning of scipy's own words, which are kept in brackets.
_ADVICE = {
    "CONVERGENCE: RELATIVE REDUCTION": (
        "Converged: the last iteration lowered the loss by less than `ftol`. "
        "A smaller options={'ftol': ...} goes further"
    ),
    "CONVERGENCE: NORM OF PROJECTED GRADIENT": (
        "Converged: no component of the gradient is larger than `gtol`. A smaller options={'gtol': ...} goes further"
    ),
    "ABNORMAL": (
        "Stopped: the line search found no lower loss along a descent direction. Either the loss is as low as its "
        "rounding errors let it be seen, or its gradient is wrong or not continuous"
    ),
    "STOP: TOTAL NO. OF ITERATIONS": "Stopped: options={'maxiter': ...} is reached. A larger value goes further",
    "STOP: TOTAL NO. OF F,G EVALUATIONS": "Stopped: options={'maxfun': ...} is reached. A larger value goes further",
}


class _Abandoned(BaseException):
    """Unwinds scipy in its thread. Not an `Exception`, so that no handler in between swallows it."""


def minimize(x0: np.ndarray, method: str, tol: float | None = None, options: dict | None = None) -> Solver:
    """Runs `scipy.optimize.minimize(method=...)` one request at a time.

    Args:
        x0: Starting point, float64 of shape `(n,)`.
        method: A name that scipy knows.
        tol: As in scipy.
        options: As in scipy, handed over as they are.

    Returns:
        A solver whose result is scipy's, with a message that says what to do next.

    Example:

    >>> from kormos_opt.solvers.scipy_thread import minimize
    >>> from kormos_opt.solvers.base import Evaluate
    >>> import numpy as np
    >>> solver, answer, result = minimize(np.ones(2), "L-BFGS-B"), None, None
    >>> while result is None:
    ...     try:
    ...         request = solver.send(answer)
    ...     except StopIteration as end:
    ...         result = end.value
    ...     else:
    ...         x = request.x
    ...         answer = (x @ x, 2 * x) if isinstance(request, Evaluate) else None
    >>> bool(np.allclose(result.x, 0))
    True
    """
    to_scipy, to_caller = SimpleQueue(), SimpleQueue()
    thread = threading.Thread(
        target=_run_scipy,
        args=(x0, method, tol, options, to_scipy, to_caller),
        name="kormos_opt-scipy",
        daemon=True,
    )
    answer = None
    try:
        while True:
            if thread.ident is None:
                thread.start()
            else:
                to_scipy.put(answer)
            iterates, message = to_caller.get()
            for x in iterates:
                yield Iterate(x)
            if isinstance(message, OptimizeResult):
                return message
            if isinstance(message, BaseException):
                raise message
            answer = yield message
    finally:
        to_scipy.put(_ABANDON)
        if thread.ident is not None:
            thread.join()


def check_options(method: str, tol: float | None, options: dict) -> None:
    """Raises `ValueError` for options that scipy does not know, by letting scipy solve a problem of two unknowns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.optimize.OptimizeWarning)
        try:
            result = scipy.optimize.minimize(
                lambda x: (x @ x, 2 * x), np.ones(2), jac=True, method=method, tol=tol, options=options
            )
            reason = result.message if result.message.startswith("ERROR") else None
        except (scipy.optimize.OptimizeWarning, TypeError, ValueError, AttributeError) as error:
            reason = error
    if reason:
        raise ValueError(
            f"Expected `options` that scipy takes for method {method!r}: {', '.join(known_options(method))}. "
            f"Received: options={options!r} ({reason})"
        )


def known_options(method: str) -> list[str]:
    """The option names in scipy's own documentation of `method`."""
    documentation = scipy.optimize.show_options("minimize", method, disp=False)
    options = documentation.partition("Options\n-------")[2].partition("\nReturns\n")[0]
    names = re.findall(r"^\s*(\w+(?:, \w+)*) : ", options, re.MULTILINE)
    return sorted({name for group in names for name in group.split(", ")})


def _run_scipy(x0, method, tol, options, to_scipy, to_caller):
    """Sends pairs of the iterates since the last pair and a request or the end: one change of threads for both."""
    iterates = []

    def tell(message):
        nonlocal iterates
        to_caller.put((iterates, message))
        iterates = []

    def fun(x):
        tell(Evaluate(np.array(x)))
        answer = to_scipy.get()
        if answer is _ABANDON:
            raise _Abandoned
        return answer

    def callback(intermediate_result):
        iterates.append(np.array(intermediate_result.x))

    try:
        result = scipy.optimize.minimize(fun, x0, method=method, jac=True, tol=tol, callback=callback, options=options)
        result.message = _explain(result.message)
    except _Abandoned:
        return
    except BaseException as error:
        result = error
    tell(result)


def _explain(message):
    for beginning, advice in _ADVICE.items():
        if message.startswith(beginning):
            return f"{advice} [scipy: {message.strip().rstrip(':')}]"
    return message
