"""The fifteen methods of `scipy.optimize.minimize`: what each one needs, takes and holds in memory."""

import functools

from kormos_opt.solvers import scipy_lbfgsb, scipy_minimize, scipy_options
from kormos_opt.solvers.registry import NumpyMethod, register

METHODS: dict[str, NumpyMethod] = {}
"""The rows of scipy, by their names in lower case. `tests/unit/test_memory.py` measures their matrices."""


def _row(name, derivatives, reference, limits=("maxiter",), tolerances=("gtol",), start=None, **others):
    page = name.lower().replace("l-bfgs-b", "lbfgsb").replace("-", "")
    METHODS[name.lower()] = register(
        NumpyMethod(
            name,
            derivatives,
            start=start or functools.partial(scipy_minimize.minimize, method=name, derivatives=derivatives),
            options=scipy_options.known_options(name),
            limits=limits,
            tolerances=tolerances,
            reference=f"{reference};\nhttps://docs.scipy.org/doc/scipy/reference/optimize.minimize-{page}.html",
            **others,
        )
    )


_row(
    "Nelder-Mead",
    "none",
    ("Gao and Han, Implementing the Nelder-Mead simplex algorithm with adaptive parameters (2012)"),
    limits=("maxiter", "maxfev"),
    tolerances=("xatol", "fatol"),
    bounds=True,
    matrices=3,
    stops_at_precision=False,
)
_row(
    "Powell",
    "none",
    (
        "Powell, An efficient method for finding the minimum of a function of several variables without "
        "derivatives (1964)"
    ),
    limits=("maxiter", "maxfev"),
    tolerances=("xtol", "ftol"),
    bounds=True,
    matrices=1,
    stops_at_precision=False,
)
_row(
    "CG",
    "gradient",
    "Nocedal and Wright, Numerical Optimization (2006), section 5.2",
)
_row(
    "BFGS",
    "gradient",
    "Nocedal and Wright, Numerical Optimization (2006), section 6.1",
    tolerances=("gtol", "xrtol"),
    set_by_tol=("gtol",),
    matrices=6,
)
_row(
    "Newton-CG",
    "hvp",
    "Nocedal and Wright, Numerical Optimization (2006), section 7.1",
    tolerances=("xtol",),
)
_row(
    "L-BFGS-B",
    "gradient",
    ("Byrd, Lu, Nocedal and Zhu, A Limited Memory Algorithm for Bound Constrained Optimization (1995)"),
    limits=("maxiter", "maxfun"),
    tolerances=("ftol", "gtol"),
    bounds=True,
    **({"start": scipy_lbfgsb.minimize, "variables": scipy_lbfgsb.variables} if scipy_lbfgsb.is_known() else {}),
)
_row(
    "TNC",
    "gradient",
    "Nash, Newton-type minimization via the Lanczos method (1984)",
    limits=("maxfun",),
    tolerances=("ftol", "gtol", "xtol"),
    bounds=True,
    stops_at_precision=False,
)
_row(
    "COBYLA",
    "none",
    (
        "Powell, A direct search optimization method that models the objective and constraint functions "
        "by linear interpolation (1994)"
    ),
    tolerances=("tol",),
    bounds=True,
    constraints=True,
    matrices=12,
    constrained_matrices=28,
    stops_at_precision=False,
)
_row(
    "COBYQA",
    "none",
    "Ragonneau, Model-Based Derivative-Free Optimization Methods and Software (2022)",
    limits=("maxiter", "maxfev"),
    tolerances=("final_tr_radius",),
    bounds=True,
    constraints=True,
    matrices=58,
    constrained_matrices=58,
    stops_at_precision=False,
)
_row(
    "SLSQP",
    "gradient",
    "Kraft, A software package for sequential quadratic programming (1988)",
    tolerances=("ftol",),
    bounds=True,
    constraints=True,
    matrices=11,
    constrained_matrices=11,
)
_row(
    "trust-constr",
    "hvp",
    ("Byrd, Hribar and Nocedal, An interior point algorithm for large-scale nonlinear programming (1999)"),
    tolerances=("gtol", "xtol", "barrier_tol"),
    bounds=True,
    constraints=True,
    constrained_matrices=45,
    instead="SLSQP",
    stops_at_precision=False,
)
_row(
    "dogleg",
    "hessian",
    "Nocedal and Wright, Numerical Optimization (2006), section 4.1",
    matrices=6,
    instead="trust-ncg",
)
_row(
    "trust-ncg",
    "hvp",
    "Nocedal and Wright, Numerical Optimization (2006), section 7.1",
)
_row(
    "trust-exact",
    "hessian",
    "Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3",
    matrices=8,
    instead="trust-krylov",
)
_row(
    "trust-krylov",
    "hvp",
    ("Lenders, Kirches and Potschka, trlib: a vector-free implementation of the GLTR method (2016)"),
)
