"""The optimizers to compile with, by name: settings, and what files carry. No pass over data, no thread."""

import keras

from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.lbfgs import LBFGS
from kormos_opt.optimizers.least_squares import LevenbergMarquardt
from kormos_opt.optimizers.methods import (
    BFGS,
    CG,
    COBYLA,
    COBYQA,
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
from kormos_opt.optimizers.scipy_batch_optimizer import ScipyBatchOptimizer
from kormos_opt.optimizers.self_scaled import SSBFGS, SSBroyden
from kormos_opt.solvers import registry

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
    SSBroyden,
    SSBFGS,
    LevenbergMarquardt,
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
    if name.lower() in NAMES:
        return NAMES[name.lower()]()
    return ScipyBatchOptimizer(method=name) if name.lower() in registry.METHODS else None


def any_optimizer(identifier: str | keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer of that name, in any case, or the one that is handed over, Keras's or ours."""
    found = find(identifier) if isinstance(identifier, str) else None
    return found or keras.optimizers.get(identifier)


def get(identifier: str | BatchOptimizer) -> BatchOptimizer:
    """The optimizer of that name, in any case, or the one that is handed over.

    Args:
        identifier: `"scipy"`, a method of `scipy.optimize.minimize`, one that `kormos_opt.solvers.register` was given,
            or a `BatchOptimizer`.

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
    known = ", ".join(dict.fromkeys([*NAMES, *registry.METHODS]))
    raise ValueError(f"Expected a BatchOptimizer or one of {known}. Received: identifier={identifier!r}.")
