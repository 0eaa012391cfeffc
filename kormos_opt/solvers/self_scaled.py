"""Self-scaled quasi-Newton methods: updates of a full inverse Hessian, which is scaled in every iteration.

    p = -H g,   s = t p,   y = g(x + s) - g(x),   rho = 1 / y's,   v = rho s - Hy / y'Hy
    H_new = (H - Hy (Hy)' / y'Hy + phi y'Hy v v') / tau + rho s s'

tau = phi = 1 is BFGS. SSBFGS chooses tau, SSBroyden both. H_new is positive definite and has H_new y = s.

Sources: Al-Baali, Numerical experience with a class of self-scaling quasi-Newton algorithms, JOTA 96 (1998); Urban,
Stefanou and Pons, Unveiling the optimization process of physics informed neural networks, J. Comput. Phys. 523 (2025),
whose theta-, theta+ and c are `least`, `most` and `c` here.

H is one triangle of one array, changed in place: an iteration is one product and one update of rank 2.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, blas, cholesky
from scipy.optimize._dcsrch import DCSRCH

from kormos_opt.solvers.base import ArraySpec, EvaluateWithGradient, Iterate, Solver
from kormos_opt.solvers.registry import NumpyMethod, register
from kormos_opt.solvers.termination import TerminationReason

_C1, _C2 = 1e-4, 0.9  # of the strong Wolfe conditions
_MEANS_NOTHING = 1e-12  # a, relative: H^-1 s and y are parallel, and every update of the class is the same


def broyden(b: float, h: float, size: int) -> tuple[float, float]:
    """tau and phi of SSBroyden.

    Args:
        b: s'H^-1 s / y's.
        h: y'Hy / y's.
        size: n.
    """
    a = b * h - 1
    if size == 1 or abs(a) < _MEANS_NOTHING * b * h:
        return 1.0, 1.0
    c = np.sqrt(abs(a) / (1 + a))
    rho = min(1.0, h * (1 - c))
    least, most = (rho - 1) / a, 1 / rho
    theta = max(least, min(most, (1 - b) / b))
    sigma = 1 + a * theta
    of_size = abs(sigma) ** (1 / (1 - size))
    of_b = min(1.0, 1 / b)
    tau = min(of_b * of_size, sigma) if theta <= 0 else of_b * min(of_size, 1 / theta)
    return tau, (1 - theta) / sigma


def scaled_bfgs(b: float, h: float, size: int) -> tuple[float, float]:
    """tau and phi of SSBFGS, with the arguments of `broyden`."""
    return min(1.0, 1 / b), 1.0


def plain_bfgs(b: float, h: float, size: int) -> tuple[float, float]:
    """tau and phi of BFGS, with the arguments of `broyden`."""
    return 1.0, 1.0


def variables(size: int, options: Mapping) -> dict[str, ArraySpec]:
    """All that a run knows. H takes 8 n^2 bytes.

    Args:
        size: n, the number of weights.
        options: The options of the method.
    """
    return {
        "x": ArraySpec((size,)),
        "gradient": ArraySpec((size,)),
        "direction": ArraySpec((size,)),
        "inverse_hessian": ArraySpec((size, size)),
        "fun": ArraySpec(()),
        "reduction": ArraySpec(()),
        "counts": ArraySpec((3,), "int64"),
    }


def on_objective_change(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is kept where f has become another function of the same kind: H, if it is positive definite."""
    matrix = arrays["inverse_hessian"]
    _symmetrize(matrix)
    try:
        cholesky(matrix, lower=True, check_finite=False)
    except LinAlgError:
        return {}
    return {"inverse_hessian": matrix}


def minimize(
    scaling: Callable[[float, float, int], tuple[float, float]],
    x0: np.ndarray,
    state: Mapping[str, np.ndarray] | None = None,
    gtol: float = 1e-8,
    maxls: int = 20,
    maxiter: int | None = None,
    maxfun: int | None = None,
    initial_scale: bool = False,
) -> Solver:
    """Runs a self-scaled quasi-Newton method one request at a time.

    The line search is that of More and Thuente. Its first length is `min(1, 2.02 (f - f_before) / slope)`: with 1, a
    scaled H steps too far at first. Where it finds nothing, H begins again as the identity, once.

    Args:
        scaling: tau and phi: `broyden`, `scaled_bfgs` or `plain_bfgs`.
        x0: Starting point, float64 of shape `(n,)`.
        state: Arrays as `variables` says them, which this run works on. Defaults to `None`: new ones.
        gtol: How small every component of the gradient shall be. Defaults to `1e-8`.
        maxls: How many evaluations a line search may make. Defaults to `20`.
        maxiter: How many iterations there may be. Defaults to `None`: any number.
        maxfun: How many evaluations there may be. Defaults to `None`: any number.
        initial_scale: Whether H is multiplied by `y's / y'y` before its first update (Nocedal and Wright, Numerical
            Optimization, 2006, equation 6.20). Defaults to `False`.

    Returns:
        A solver.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.self_scaled import broyden, minimize
    >>> from kormos_opt.solvers.testing import drive
    >>> drive(minimize(broyden, np.ones(2)), lambda x: (x @ x, 2 * x)).result.x.round(5) + 0
    array([0., 0.])
    """
    if state is None:
        state = {name: np.zeros(shape, dtype) for name, (shape, dtype) in variables(x0.size, {}).items()}
    most_iterations, most_evaluations = (np.inf if limit is None else limit for limit in (maxiter, maxfun))
    return _run(x0, scaling, state, gtol, maxls, most_iterations, most_evaluations, initial_scale)


_ITERATIONS, _EVALUATIONS, _UPDATES = range(3)  # of counts; the updates since H was the identity


def _run(x0, scaling, state, gtol, maxls, maxiter, maxfun, initial_scale):
    point = _Point(state)
    counts = point.counts
    if counts[_EVALUATIONS] == 0:
        fun, gradient = yield EvaluateWithGradient(x0)
        counts[_EVALUATIONS] = 1
        point.begin(x0, fun, gradient)
    while True:
        if np.abs(point.gradient).max() <= gtol:
            return _result(point, TerminationReason.SMALL_GRADIENT, "gtol")
        if counts[_ITERATIONS] >= maxiter:
            return _result(point, TerminationReason.LIMIT, "maxiter")
        if counts[_EVALUATIONS] >= maxfun:
            return _result(point, TerminationReason.LIMIT, "maxfun")
        found, tried = yield from _search(point, maxls)
        counts[_EVALUATIONS] += tried
        if found is None and counts[_UPDATES] == 0:
            return _result(point, TerminationReason.NO_BETTER_POINT)
        if found is None:
            point.forget()
            continue
        point.move(found, scaling, initial_scale)
        counts[_ITERATIONS] += 1
        yield Iterate(point.x.copy())


class _Found(NamedTuple):
    length: float
    x: np.ndarray
    fun: float
    gradient: np.ndarray


def _search(point, maxls):
    """Along p: what satisfies the strong Wolfe conditions, or the best of what lowers f enough, or `None`."""
    slope = point.gradient @ point.direction
    length = min(1.0, 2.02 * point.reduction / -slope) or 1.0 if slope < 0 else 0.0
    search = DCSRCH(None, None, _C1, _C2, xtol=1e-14, stpmin=1e-100, stpmax=1e100)
    value, derivative, task, last, best = point.fun, slope, b"START", None, None
    for count in range(maxls + 1):
        length, value, derivative, task = search._iterate(length, value, derivative, task)
        if task[:2] != b"FG" or not np.isfinite(length) or count == maxls:
            return last if task[:4] == b"CONV" else best, count
        x = point.x + length * point.direction
        value, gradient = yield EvaluateWithGradient(x)
        derivative = gradient @ point.direction
        last = _Found(length, x, value, gradient)
        if value <= point.fun + _C1 * length * slope and value < (point if best is None else best).fun:
            best = last


class _Point:
    """Where a run stands, in the arrays of `variables`. They change when a point is accepted, and only then."""

    def __init__(self, state):
        self.x, self.gradient, self.direction = (state[name] for name in ("x", "gradient", "direction"))
        self.matrix, self.counts = state["inverse_hessian"], state["counts"]
        self._fun, self._reduction = state["fun"], state["reduction"]

    @property
    def fun(self):
        return float(self._fun)

    @property
    def reduction(self):
        return float(self._reduction)

    def begin(self, x, fun, gradient):
        """From here, with the H that there is, or the identity."""
        self.x[:], self._fun[()], self.gradient[:] = x, fun, gradient
        if not self.matrix.any():
            self.forget()
            return
        self.counts[_UPDATES] = 1
        self.direction[:] = -_product(self.matrix, gradient)
        self._reduction[()] = -gradient @ self.direction / 2  # of the step 1

    def forget(self):
        """H is the identity. The first step is about 1 long."""
        self.counts[_UPDATES] = 0
        self.matrix[:] = 0
        np.fill_diagonal(self.matrix, 1)
        self.direction[:] = -self.gradient
        self._reduction[()] = np.linalg.norm(self.gradient) / 2

    def move(self, found, scaling, initial_scale):
        """To the point that was found, with H and the direction there."""
        s, y, p = found.length * self.direction, found.gradient - self.gradient, self.direction.copy()
        inverse_s_s = -found.length * (s @ self.gradient)
        self._reduction[()] = self._fun - found.fun
        self.x[:], self._fun[()], self.gradient[:] = found.x, found.fun, found.gradient
        y_s = y @ s
        if initial_scale and self.counts[_UPDATES] == 0 and y_s > 0:
            factor = y_s / (y @ y)
            self.matrix *= factor
            p, inverse_s_s = factor * p, inverse_s_s / factor
        h_gradient = _product(self.matrix, self.gradient)
        h_y = h_gradient + p
        y_h_y = y @ h_y
        if not (y_s > 0 and y_h_y > 0):
            self.direction[:] = -h_gradient
            return
        rho = 1 / y_s
        tau, phi = scaling(rho * inverse_s_s, rho * y_h_y, s.size)
        if not (np.isfinite(tau) and np.isfinite(phi) and tau > 0):
            tau = phi = 1.0
        of_ss, of_sy, of_yy = phi * y_h_y * rho**2 / tau + rho, -phi * rho / tau, (phi - 1) / (y_h_y * tau)
        left = of_ss * s + of_sy * h_y, of_sy * s + of_yy * h_y
        both = np.stack([s, h_y], axis=1), np.stack(left, axis=1) / 2
        blas.dsyr2k(1.0, *both, beta=1 / tau, c=self.matrix.T, lower=1, overwrite_c=1)
        self.counts[_UPDATES] += 1
        s_g, y_g = s @ self.gradient, h_y @ self.gradient
        self.direction[:] = -(h_gradient / tau + s_g * left[0] + y_g * left[1])


def _product(matrix, vector):
    """H times a vector. BLAS reads columns, so the lower triangle of the transpose holds H."""
    return blas.dsymv(1.0, matrix.T, vector, lower=1)


def _symmetrize(matrix):
    """Copies the triangle that holds H to the other one."""
    for i in range(len(matrix) - 1):
        matrix[i + 1 :, i] = matrix[i, i + 1 :]


def _result(point, ending, option=""):
    _symmetrize(point.matrix)
    nit, nfev, _ = (int(count) for count in point.counts)
    fields = {"x": point.x.copy(), "fun": point.fun, "jac": point.gradient.copy(), "hess_inv": point.matrix}
    message = ending.message(option=f"options={{'{option}': ...}}")
    return ending.result(message=message, nit=nit, nfev=nfev, njev=nfev, **fields)


for name, scaling in (("SS-Broyden", broyden), ("SS-BFGS", scaled_bfgs)):
    register(
        NumpyMethod(
            name,
            "gradient",
            functools.partial(minimize, scaling),
            variables=variables,
            on_objective_change=on_objective_change,
            tolerances=("gtol",),
            matrices=2,
            reference=(
                "Urban, Stefanou and Pons, Unveiling the optimization process of physics informed neural networks, "
                "Journal of Computational Physics 523 (2025);\nhttps://doi.org/10.1016/j.jcp.2024.113656"
            ),
        )
    )
