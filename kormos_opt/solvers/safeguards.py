"""What every solver is given on top: an end where rounding hides all progress, a way back from NaN.

Both look only at the requests and answers that pass by, so they serve any solver that evaluates gradients.
"""

import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt.solvers.base import Iterate, Solver


def safeguard(solver: Solver, dtype: str = "float64", resolution: float | None = None) -> Solver:
    """Passes requests through, ends at the resolution of f, and backs off from points where f is not finite.

    **Resolution.** Between an iterate x and the first trial point x + d after it the loss changes by about
    `|jac @ d|`, twice the Newton decrement's estimate of what is left to gain (Boyd and Vandenberghe, Convex
    Optimization, section 9.5.1). Once that is below `resolution * |fun|`, no line search can see the change
    in an f of that precision: the solver is closed as converged instead of burning its evaluations.

    **Not finite.** A trial point x + d with NaN or inf is answered by the parabola through `fun` with slope
    `jac @ d` whose minimum is at x + d / 4, so an interpolating line search comes back to a quarter of its
    step, and a trust region shrinks.

    Args:
        solver: The solver to watch over. It is closed with this one.
        dtype: Name of the precision f is computed in, for the message.
        resolution: Relative resolution of f, such as `numpy.finfo("float32").eps`. Defaults to `None`: no such end.

    Returns:
        A solver.
    """
    iterate = latest = None  # (x, fun, jac)
    nit = nfev = 0
    first_trial = False  # of an iteration: later ones are shorter because the line search, or our wall, made them so
    answer = None
    try:
        while True:
            try:
                request = solver.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(request, Iterate):
                nit += 1
                first_trial = True
                iterate = latest
                answer = yield request
                continue
            if resolution is not None and first_trial:
                x, fun, jac = iterate
                if abs(jac @ (request.x - x)) <= resolution * abs(fun):
                    return OptimizeResult(
                        x=x,
                        fun=fun,
                        jac=jac,
                        nit=nit,
                        nfev=nfev,
                        njev=nfev,
                        success=True,
                        status=0,
                        message=_resolution_message(dtype),
                    )
            first_trial = False
            answer = yield request
            nfev += 1
            fun, jac = answer
            if not (np.isfinite(fun) and np.isfinite(jac).all()):
                answer = _wall(request, *iterate)
            latest = (request.x, *answer)
            if iterate is None:
                iterate = latest
    finally:
        solver.close()


def _resolution_message(dtype):
    message = f"Converged: the next step would change the loss by less than {dtype} can show"
    return message if dtype == "float64" else f'{message}. precision="float64" goes further'


def _wall(request, x, fun, jac):
    """The parabola q(t) = fun + slope * t - 2 * slope * t**2 at t = 1, along the step that was tried."""
    step = request.x - x
    slope = min(jac @ step, -np.finfo(float).tiny)
    return fun - slope, (-3 * slope / (step @ step)) * step
