"""L-BFGS-B of scipy without a thread: scipy's own routine, called by reverse communication.

`scipy.optimize.minimize(method="L-BFGS-B")` is a loop around a compiled routine that says what it wants next. This is
that loop as a generator, with the same iterates to the last bit. All that the routine knows between two calls lies in
arrays, so a run can be saved and goes on from a copy of them.

The routine is private to scipy. Where its arguments are others than those known here, the thread of `scipy_minimize.py`
serves.
"""

import functools
from collections.abc import Mapping

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import Bounds, LbfgsInvHessProduct, OptimizeResult, _lbfgsb_py

from kormos_opt.solvers.base import ArraySpec, EvaluateWithGradient, Iterate, Solver
from kormos_opt.solvers.termination import explain

_NEW_X, _WANTS_F_AND_G, _CONVERGENCE, _STOP = 1, 3, 4, 5  # task[0]
_TOO_MANY_EVALUATIONS, _TOO_MANY_ITERATIONS = 502, 504  # task[1]
_ITERATIONS, _EVALUATIONS = 0, 1  # counts
_UPDATES = 30  # isave
_INTEGER = "int64" if getattr(lapack, "HAS_ILP64", False) else "int32"  # as scipy was built


def variables(size: int, options: Mapping) -> dict[str, ArraySpec]:
    """All that a run knows: where it stands, 2 m n numbers of memory, work space and counts.

    Args:
        size: n, the number of weights.
        options: As scipy takes them. `maxcor` is m.
    """
    m = options.get("maxcor", 10)
    return {
        "x": ArraySpec((size,)),
        "f": ArraySpec(()),
        "g": ArraySpec((size,)),
        "wa": ArraySpec((2 * m * size + 5 * size + 11 * m * m + 8 * m,)),
        "iwa": ArraySpec((3 * size,), _INTEGER),
        "task": ArraySpec((2,), _INTEGER),
        "ln_task": ArraySpec((2,), _INTEGER),
        "lsave": ArraySpec((4,), _INTEGER),
        "isave": ArraySpec((44,), _INTEGER),
        "dsave": ArraySpec((29,)),
        "counts": ArraySpec((2,), "int64"),
    }


def minimize(
    x0: np.ndarray,
    bounds: Bounds | None = None,
    state: Mapping[str, np.ndarray] | None = None,
    **options,
) -> Solver:
    """Runs scipy's L-BFGS-B one request at a time.

    Args:
        x0: Starting point, float64 of shape `(n,)`, between the bounds.
        bounds: As in scipy. Defaults to `None`.
        state: Arrays as `variables` says them, which this run works on: zeros for a new run, or a copy of those of an
            earlier one, which goes on from there. Defaults to `None`: new ones.
        **options: As in scipy.

    Returns:
        A solver whose result is scipy's, with a message that says what to do next.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.scipy_lbfgsb import minimize
    >>> from kormos_opt.solvers.testing import drive
    >>> drive(minimize(np.ones(2)), lambda x: (x @ x, 2 * x)).result.x.round(5) + 0
    array([0., 0.])
    """
    if state is None:
        state = {name: np.zeros(shape, dtype) for name, (shape, dtype) in variables(x0.size, options).items()}
    return _run(x0, bounds, state, **options)


def _run(
    x0,
    bounds,
    state,
    maxcor=10,
    ftol=2.2204460492503131e-09,
    gtol=1e-5,
    maxfun=15000,
    maxiter=15000,
    maxls=20,
    **ignored,
):
    """The loop of scipy. Other options of its concern differences and printing."""
    if not maxls > 0:
        raise ValueError("maxls must be positive.")
    x, f, g, task, ln_task, counts = (state[name] for name in ("x", "f", "g", "task", "ln_task", "counts"))
    work = [state[name] for name in ("wa", "iwa", "task", "lsave", "isave", "dsave")]
    lower, upper, kinds = _limits(bounds, x0.size)
    factor = ftol / np.finfo(float).eps
    if task[0] == 0:
        x[:] = x0
    while True:
        if task[0] == _WANTS_F_AND_G:
            f[()], g[:] = yield EvaluateWithGradient(x.copy())
            counts[_EVALUATIONS] += 1
        elif task[0] == _NEW_X:
            counts[_ITERATIONS] += 1
            yield Iterate(x.copy())
            if counts[_ITERATIONS] >= maxiter:
                task[:] = _STOP, _TOO_MANY_ITERATIONS
            elif counts[_EVALUATIONS] > maxfun:
                task[:] = _STOP, _TOO_MANY_EVALUATIONS
        elif task[0] != 0:
            return _result(state, maxcor, counts[_EVALUATIONS] > maxfun or counts[_ITERATIONS] >= maxiter)
        _lbfgsb_py._lbfgsb.setulb(maxcor, x, lower, upper, kinds, float(f), g, factor, gtol, *work, maxls, ln_task)


def _limits(bounds, size):
    """Lower bounds, upper bounds, and which of them there are: none, a lower one, both, an upper one."""
    if bounds is None:
        return np.zeros(size), np.zeros(size), np.zeros(size, _INTEGER)
    lower, upper = (np.broadcast_to(each, (size,)).astype("float64") for each in (bounds.lb, bounds.ub))
    has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
    kinds = np.select([has_lower & has_upper, has_lower, has_upper], [2, 1, 3], 0).astype(_INTEGER)
    return np.where(has_lower, lower, 0.0), np.where(has_upper, upper, 0.0), kinds


def _result(state, maxcor, is_limited):
    kind, reason = (int(number) for number in state["task"])
    nit, nfev = (int(count) for count in state["counts"])
    x, g = state["x"].copy(), state["g"].copy()
    message = f"{_lbfgsb_py.status_messages[kind]}: {_lbfgsb_py.task_messages[reason]}"
    ending, message = explain(message)
    s, y = state["wa"][: 2 * maxcor * x.size].reshape(2, maxcor, x.size)
    pairs = min(int(state["isave"][_UPDATES]), maxcor)
    return OptimizeResult(
        x=x,
        fun=float(state["f"]),
        jac=g,
        nit=nit,
        nfev=nfev,
        njev=nfev,
        success=kind == _CONVERGENCE,
        status=0 if kind == _CONVERGENCE else 1 if is_limited else 2,
        message=message,
        ending=ending,
        hess_inv=LbfgsInvHessProduct(s[:pairs].copy(), y[:pairs].copy()),
    )


@functools.cache
def is_known() -> bool:
    """Whether scipy's routine takes the arguments that it is given here: it minimizes x^2."""
    try:
        solver = minimize(np.ones(1))
        x = next(solver).x
        for _ in range(9):
            request = solver.send((float(x @ x), 2 * x))
            while isinstance(request, Iterate):
                request = solver.send(None)
            x = request.x
    except StopIteration as end:
        return bool(end.value.success)
    except Exception:
        return False
    return False
