"""The fifteen methods of `scipy.optimize.minimize`: what each one needs, takes and holds in memory."""

from typing import NamedTuple

_NO_LIMIT = 2**31 - 1


class Method(NamedTuple):
    """One method of scipy.

    Attributes:
        name: As scipy spells it.
        derivatives: What it asks for beside f: `"none"`, `"gradient"`, `"product"` (Hessian-vector products) or
            `"hessian"` (the full matrix).
        limits: The options that limit its length, switched off, since `epochs` limits it.
        tolerances: The options that say when it has converged.
        bounds: Whether it takes bounds.
        constraints: Whether it takes constraints.
        matrices: How many n x n matrices of float64 it holds at its peak, see `tests/test_memory.py`.
        constrained_matrices: The same with nonlinear constraints and bounds.
        instead: The method to take where those do not fit.
        ends_at_resolution: Whether the first trial point of an iteration is a step that the method hopes to take, from
            which the end at the resolution of f can be told.
    """

    name: str
    derivatives: str
    limits: tuple[str, ...] = ("maxiter",)
    tolerances: tuple[str, ...] = ("gtol",)
    bounds: bool = False
    constraints: bool = False
    matrices: float = 0
    constrained_matrices: float = 0
    instead: str = "L-BFGS-B"
    ends_at_resolution: bool = True

    @property
    def unlimited(self) -> dict:
        """Options that switch the method's own limits off."""
        return dict.fromkeys(self.limits, _NO_LIMIT)


METHODS = {
    method.name.lower(): method
    for method in (
        Method(
            "Nelder-Mead",
            "none",
            ("maxiter", "maxfev"),
            ("xatol", "fatol"),
            bounds=True,
            matrices=3,
            ends_at_resolution=False,
        ),
        Method(
            "Powell",
            "none",
            ("maxiter", "maxfev"),
            ("xtol", "ftol"),
            bounds=True,
            matrices=1,
            ends_at_resolution=False,
        ),
        Method("CG", "gradient"),
        Method("BFGS", "gradient", tolerances=("gtol", "xrtol"), matrices=6),
        Method("Newton-CG", "product", tolerances=("xtol",)),
        Method("L-BFGS-B", "gradient", ("maxiter", "maxfun"), ("ftol", "gtol"), bounds=True),
        Method("TNC", "gradient", ("maxfun",), ("ftol", "gtol", "xtol"), bounds=True, ends_at_resolution=False),
        Method(
            "COBYLA",
            "none",
            tolerances=("tol",),
            bounds=True,
            constraints=True,
            matrices=12,
            constrained_matrices=28,
            ends_at_resolution=False,
        ),
        Method(
            "COBYQA",
            "none",
            ("maxiter", "maxfev"),
            ("final_tr_radius",),
            bounds=True,
            constraints=True,
            matrices=58,
            constrained_matrices=58,
            ends_at_resolution=False,
        ),
        Method(
            "SLSQP",
            "gradient",
            tolerances=("ftol",),
            bounds=True,
            constraints=True,
            matrices=11,
            constrained_matrices=11,
        ),
        Method(
            "trust-constr",
            "product",
            tolerances=("gtol", "xtol", "barrier_tol"),
            bounds=True,
            constraints=True,
            constrained_matrices=45,
            instead="SLSQP",
            ends_at_resolution=False,
        ),
        Method("dogleg", "hessian", matrices=5, instead="trust-ncg"),
        Method("trust-ncg", "product"),
        Method("trust-exact", "hessian", matrices=8, instead="trust-krylov"),
        Method("trust-krylov", "product"),
    )
}


def method(name: str) -> Method:
    """The method of that name, in any case.

    Raises:
        ValueError: For a name that scipy does not know.
    """
    try:
        return METHODS[name.lower()]
    except (KeyError, AttributeError):
        known = ", ".join(method.name for method in METHODS.values())
        raise ValueError(f"Expected one of {known}. Received: method={name!r}.") from None
