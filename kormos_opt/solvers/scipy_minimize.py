"""`scipy.optimize.minimize` as a solver of `solvers/base.py`.

scipy calls the objective; a Keras epoch has to call the solver. A thread turns one into the other: it runs
scipy and sleeps whenever scipy wants a value. Only numpy arrays cross over; TensorFlow stays in the thread
that called `fit`, where its device scopes and distribution strategies live.
"""

import threading
from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult

from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct, Iterate, Solver
from kormos_opt.solvers.endings import explain, rests_on_step

_ABANDON = object()


class _Abandoned(BaseException):
    """Unwinds scipy in its thread. Not an `Exception`, so that no handler in between swallows it."""


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
    to_scipy, to_caller = SimpleQueue(), SimpleQueue()
    thread = threading.Thread(
        target=_run_scipy,
        args=(x0, method, derivatives),
        kwargs={
            "arguments": {"tol": tol, "options": options, "bounds": bounds, "constraints": constraints},
            "to_scipy": to_scipy,
            "to_caller": to_caller,
        },
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
            # A garbage collection can bring us here in the middle of another run that holds the lock which the thread
            # needs for its own end: that run must go on, then.
            thread.join(timeout=None if _lock(method) is None else 0.5)


def _functions(derivatives, fun, fun_and_jac, product):
    """What `minimize` is given to call."""
    if derivatives == "none":
        return {"fun": fun}
    first_order = {"fun": fun_and_jac, "jac": True}
    if derivatives == "gradient":
        return first_order
    if derivatives == "product":
        return {**first_order, "hessp": product}
    return {**first_order, "hess": lambda x: product(x, np.eye(len(x)))}


def _lock(method):
    """What scipy holds while a method runs that it takes to be unsafe in two threads, or `None`.

    It is let go while scipy waits for an answer: else one suspended run would stop all others for good.
    """
    if method.lower() == "cobyqa":
        return getattr(scipy.optimize._cobyqa_py, "COBYQA_LOCK", None)
    if method.lower() == "cobyla":
        return getattr(scipy.optimize._cobyla_py, "_module_lock", None)
    return None


def _run_scipy(x0, method, derivatives, arguments, to_scipy, to_caller):
    """Sends pairs of the iterates since the last pair and a request or the end: one change of threads for both."""
    iterates, lock = [], _lock(method)

    def tell(message):
        nonlocal iterates
        to_caller.put((iterates, message))
        iterates = []

    def ask(request):
        if lock is not None:
            lock.release()
        tell(request)
        answer = to_scipy.get()
        if lock is not None:
            lock.acquire()
        if answer is _ABANDON:
            raise _Abandoned
        return answer

    def callback(intermediate_result):
        x = getattr(intermediate_result, "x", intermediate_result)  # TNC hands over x itself
        iterates.append(np.array(x))

    functions = _functions(
        derivatives,
        fun=lambda x: ask(EvaluateValue(np.array(x))),
        fun_and_jac=lambda x: ask(EvaluateWithGradient(np.array(x))),
        product=lambda x, p: ask(HessianProduct(np.array(x), np.array(p, "float64"))),
    )
    try:
        # A trial of scipy's own that overflows is rejected by its method: nothing there for the user to mend.
        with np.errstate(over="ignore", invalid="ignore"):
            result = scipy.optimize.minimize(x0=x0, method=method, callback=callback, **functions, **arguments)
        is_free = arguments["bounds"] is None and not arguments["constraints"]
        result.rests_on_step = is_free and rests_on_step(method, result.message)
        result.ending, result.message = explain(result.message)
    except _Abandoned:
        return
    except BaseException as error:
        result = error
    tell(result)
