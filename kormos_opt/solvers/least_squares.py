"""`scipy.optimize.least_squares` as a solver of `solvers/base.py`, in a suspended thread.

    f(x) = sum of r_i(x)^2

scipy asks for the Jacobian of the residuals once at every point that it accepts, whichever its method: those points
are the iterates.
"""

from typing import Literal

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult
from scipy.sparse.linalg import LinearOperator

from kormos_opt.solvers.base import Jacobian, JacobianProduct, Residuals, Solver, TransposedProduct
from kormos_opt.solvers.registry import NumpyMethod, register
from kormos_opt.solvers.scipy_thread import in_thread
from kormos_opt.solvers.termination import TerminationReason

DENSE_ENTRIES = 2**27  # of a Jacobian that is kept as a matrix: 1 GiB
_EPSILON = np.finfo("float64").eps
_SMALL_OFFSET, _SHORT_STEP = 1e-3, 1e-6
_PARALLEL = 1e-6  # singular values, of the largest, whose directions do not count
_ENDINGS = {
    0: (TerminationReason.LIMIT, "options={'max_nfev': ...}"),
    1: (TerminationReason.SMALL_GRADIENT, "options={'gtol': ...}"),
    2: (TerminationReason.SMALL_REDUCTION, "options={'ftol': ...}"),
    3: (TerminationReason.SHORT_STEP, "options={'xtol': ...}"),
    4: (TerminationReason.SMALL_CHANGE, "tol"),
}


def minimize(
    x0: np.ndarray,
    bounds: Bounds | None = None,
    method: Literal["trf", "dogbox", "lm"] = "trf",
    loss: str = "linear",
    f_scale: float = 1.0,
    x_scale: float | np.ndarray | str | None = None,
    jacobian: Literal["auto", "matrix", "products"] = "auto",
    ftol: float | None = 1e-15,
    xtol: float | None = 1e-12,
    gtol: float | None = None,
    max_nfev: int | None = None,
    tr_options: dict | None = None,
) -> Solver:
    """Runs `scipy.optimize.least_squares` one request at a time.

    Args:
        x0: Starting point, float64 of shape `(n,)`.
        bounds: As in `scipy.optimize.minimize`. Defaults to `None`.
        method: `"trf"`, `"dogbox"` or `"lm"`. Defaults to `"trf"`.
        loss: What becomes of the squares: `"linear"`, `"soft_l1"`, `"huber"`, `"cauchy"` or `"arctan"`. Defaults to
            `"linear"`.
        f_scale: The residual from which on `loss` takes it for an outlier, where f is the mean of the squares of m
            residuals: `sqrt(m)` times scipy's. Defaults to `1.0`.
        x_scale: As in scipy. Defaults to `None`: `"jac"`, or `1.0` with products.
        jacobian: `"matrix"`, `"products"` for one that is only multiplied with vectors, or `"auto"` for a matrix of at
            most `DENSE_ENTRIES` numbers. Defaults to `"auto"`.
        ftol: As in scipy. Defaults to `1e-15`.
        xtol: As in scipy. Defaults to `1e-12`.
        gtol: As in scipy. Defaults to `None`: the gradient ends nothing, since its size depends on the units of f.
        max_nfev: How many vectors of residuals there may be. Defaults to `None`: any number.
        tr_options: As in scipy. Defaults to `None`.

    Returns:
        A solver. Its result has the `cost` that scipy minimized, which is f / 2 where `loss="linear"`.

    Raises:
        ValueError: For `method="lm"` with bounds, another loss, products, or fewer residuals than weights.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.least_squares import minimize
    >>> from kormos_opt.solvers.testing import drive_residuals
    >>> drive_residuals(minimize(np.ones(2)), lambda x: (x - 3, np.eye(2))).result.x
    array([3., 3.])
    """
    tolerances = {"ftol": ftol, "xtol": xtol, "gtol": gtol}
    settings = {"method": method, "loss": loss, "f_scale": f_scale, "tr_options": tr_options}
    return _run(x0, bounds, settings, tolerances, x_scale, jacobian, max_nfev)


def _run(x0, bounds, settings, tolerances, x_scale, jacobian, max_nfev):
    residuals = yield Residuals(x0)
    fits = residuals.size * x0.size <= DENSE_ENTRIES
    products = jacobian == "products" or (jacobian == "auto" and not fits)
    if settings["method"] == "lm":
        _check_lm(residuals, x0, bounds, settings["loss"], products)
        tolerances = {name: max(value or 0.0, _EPSILON) for name, value in tolerances.items()}
        del settings["loss"], settings["f_scale"], settings["tr_options"]
    else:
        settings["f_scale"] /= np.sqrt(residuals.size)
        if bounds is not None:
            settings["bounds"] = bounds
    if x_scale is None:
        x_scale = 1.0 if products else "jac"
    settings |= tolerances | {"x_scale": x_scale, "max_nfev": max_nfev}
    if products:
        settings["tr_solver"] = "lsmr"
    return (yield from in_thread(_Call(x0, residuals, products, settings)))


class _LossIsZeroError(Exception):
    """Unwinds scipy, which would go on for ever where the loss goes to 0 at infinity."""


class _Call:
    """A call of scipy, which counts and finds the iterates.

    Args:
        x0: Starting point.
        residuals: The residuals there.
        products: Whether the Jacobian is only multiplied with vectors.
        settings: The arguments of scipy.
    """

    def __init__(self, x0, residuals, products, settings):
        self._x0, self._first, self._products, self._settings = x0, residuals, products, settings
        self._iterate, self._nit, self._nfev, self._njev = x0, 0, 1, 0
        self._latest = x0, residuals

    def __call__(self, ask, accept) -> OptimizeResult:
        is_lm = self._settings["method"] == "lm"

        def fun(x):
            if np.array_equal(x, self._x0):
                return self._first
            self._nfev += 1
            residuals = ask(Residuals(np.array(x)))
            self._latest = np.array(x), residuals
            if is_lm and not np.isfinite(residuals).all():  # trf and dogbox step back by themselves
                return np.full_like(residuals, np.sqrt(np.finfo("float64").max / residuals.size) / 10)
            return residuals

        def jac(x):
            x = np.array(x)
            if not np.array_equal(x, self._iterate):
                self._nit += 1
                self._iterate = x
                accept(x)
                if np.array_equal(x, self._latest[0]) and self._is_zero(self._latest[1]):
                    raise _LossIsZeroError
            self._njev += 1
            return self._operator(ask, x) if self._products else ask(Jacobian(x))

        try:
            return self._settled(scipy.optimize.least_squares(fun, self._x0, jac, **self._settings))
        except _LossIsZeroError:
            return TerminationReason.ZERO_LOSS.result(x=self._iterate, nit=self._nit, nfev=self._nfev, njev=self._njev)

    def _is_zero(self, residuals):
        return np.linalg.norm(residuals) <= _EPSILON * np.linalg.norm(self._first)

    def _operator(self, ask, x):
        return LinearOperator(
            (self._first.size, x.size),
            matvec=lambda p: ask(JacobianProduct(x, np.ravel(p).astype("float64"))),
            rmatvec=lambda r: ask(TransposedProduct(x, np.ravel(r).astype("float64"))),
            dtype="float64",
        )

    def _settled(self, result):
        ending, option = _ENDINGS[result.status]
        words = {"option": option}
        if ending not in (TerminationReason.LIMIT, TerminationReason.SMALL_GRADIENT) and not self._products:
            free = result.active_mask == 0
            jacobian, residuals = result.jac[:, free], result.fun
            if self._settings.get("loss", "linear") != "linear":
                residuals = scipy.linalg.lstsq(jacobian.T, result.grad[free])[0]  # of the loss that scipy minimized
            if not is_at_optimum(jacobian, residuals, result.x[free], np.sqrt(2 * result.cost)):
                ending, words = TerminationReason.ONLY_SHORT_STEPS, {"norm": 2 * np.linalg.norm(result.grad[free])}
        return ending.result(
            x=result.x,
            cost=result.cost,
            optimality=result.optimality,
            active_mask=result.active_mask,
            nit=self._nit,
            nfev=self._nfev,
            njev=self._njev,
            message=f"{ending.message(**words)} [scipy: {result.message}]",
        )


def is_at_optimum(jacobian: np.ndarray, residuals: np.ndarray, x: np.ndarray, size: float) -> bool:
    """Whether the tangent plane holds next to nothing of the residuals, or the step that would take it out is short.

    The first has no units, unlike the gradient. Source: Bates and Watts, A relative offset orthogonality convergence
    criterion for nonlinear least squares, Technometrics 23 (1981).

    Args:
        jacobian: Of shape `(m, n)`.
        residuals: Of shape `(m,)`, or their part in the tangent plane.
        x: The weights that the columns belong to, of shape `(n,)`.
        size: The norm of all residuals.
    """
    scale = np.linalg.norm(jacobian, axis=0)
    scale[scale == 0] = 1.0
    scaled = jacobian / scale
    step = scipy.linalg.lstsq(scaled, residuals, cond=_PARALLEL)[0]
    is_short = np.linalg.norm(step / scale) <= _SHORT_STEP * np.linalg.norm(x)
    return bool(is_short or np.linalg.norm(scaled @ step) <= _SMALL_OFFSET * size)


def _check_lm(residuals, x0, bounds, loss, products):
    if bounds is not None:
        received = "bounds"
    elif loss != "linear":
        received = f"loss={loss!r}"
    elif products:
        received = "a Jacobian that is only multiplied with vectors"
    elif residuals.size < x0.size:
        received = f"{residuals.size} residuals and {x0.size} weights"
    else:
        return
    raise ValueError(
        f'Expected no bounds, loss="linear", a Jacobian as a matrix and at least as many residuals as weights for '
        f'method="lm". Received: {received}. Take method="trf".'
    )


register(
    NumpyMethod(
        "Levenberg-Marquardt",
        "jacobian",
        minimize,
        limits=("max_nfev",),
        tolerances=("ftol", "xtol", "gtol"),
        bounds=True,
        stops_at_precision=False,
        reference="More, The Levenberg-Marquardt algorithm: implementation and theory (1978);\n"
        "https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.least_squares.html",
    )
)
