"""The optimizers to compile with, by name."""

from kormos_opt.optimizers.batch_optimizer import BatchOptimizer, ScipyBatchOptimizer
from kormos_opt.optimizers.methods import (
    BFGS,
    CG,
    COBYLA,
    COBYQA,
    LBFGS,
    SLSQP,
    TNC,
    Dogleg,
    NelderMead,
    NewtonCG,
    Powell,
    TrustConstr,
    TrustExact,
    TrustKrylov,
    TrustNCG,
)

METHODS = (
    NelderMead,
    Powell,
    CG,
    BFGS,
    NewtonCG,
    LBFGS,
    TNC,
    COBYLA,
    COBYQA,
    SLSQP,
    TrustConstr,
    Dogleg,
    TrustNCG,
    TrustExact,
    TrustKrylov,
)

# What `compile(optimizer=name)` and `get` know, in lower case: scipy's names and those of the classes.
NAMES = {"scipy": ScipyBatchOptimizer, "l-bfgs": LBFGS}
NAMES |= {optimizer.method.lower(): optimizer for optimizer in METHODS}
NAMES |= {optimizer.__name__.lower(): optimizer for optimizer in METHODS}


def find(name: str) -> BatchOptimizer | None:
    """The optimizer of that name, in any case, or `None` if there is none.

    Args:
        name: As in `get`.
    """
    name = name.lower()
    return NAMES[name]() if name in NAMES else None


def get(identifier: str | BatchOptimizer) -> BatchOptimizer:
    """The optimizer of that name, in any case, or the one that is handed over.

    Args:
        identifier: `"scipy"`, a method of `scipy.optimize.minimize`, or a `BatchOptimizer`.

    Raises:
        ValueError: For anything else.

    Example:

    >>> import kormos_opt
    >>> kormos_opt.optimizers.get("Newton-CG").method
    'Newton-CG'
    """
    if isinstance(identifier, BatchOptimizer):
        return identifier
    found = find(identifier) if isinstance(identifier, str) else None
    if found is not None:
        return found
    raise ValueError(f"Expected a BatchOptimizer or one of {', '.join(NAMES)}. Received: identifier={identifier!r}.")
