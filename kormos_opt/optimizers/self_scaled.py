"""The self-scaled quasi-Newton methods, for losses whose last digits count, as those of physics-informed networks."""

import functools
from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from kormos_opt.optimizers.docstrings import documented
from kormos_opt.optimizers.scipy_batch_optimizer import NamedOptimizer, StageSettings
from kormos_opt.stages.plan import BoundsLike, Plan

_documented = functools.partial(
    documented,
    arguments="initial_scale: Whether the first pair scales the identity that the method begins with. Defaults to "
    "`False`.",
)


class _SelfScaled(NamedOptimizer):
    def __init__(
        self,
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        bounds: BoundsLike = None,
        constraints: Any = None,
        name: str | None = None,
        initial_scale: bool = False,
        **kwargs: Unpack[StageSettings],
    ):
        super().__init__(tol, options, bounds, constraints, name, **kwargs)
        self.initial_scale = initial_scale
        self._untracked.plan = Plan({self.method: {"initial_scale": initial_scale}}, **self.plan.arguments)

    def get_config(self):
        return {**super().get_config(), "initial_scale": self.initial_scale}


@_documented
class SSBroyden(_SelfScaled):
    """Self-scaled Broyden with a full n x n inverse Hessian: the most accurate one for physics-informed networks.

    Every update scales the matrix and chooses a member of Broyden's class, so that curvature of very different sizes
    is learnt at once. Memory 8 n^2 bytes and about 4 n^2 operations an iteration: up to a few thousand weights.
    """

    method = "SS-Broyden"


@_documented
class SSBFGS(_SelfScaled):
    """Self-scaled BFGS with a full n x n inverse Hessian: BFGS that shrinks curvature it has taken for too large.

    The matrix is scaled before every update, where that makes it smaller. SSBroyden was more accurate on Burgers'
    equation, where both were given a minute (`benchmarks/pinn.py`).
    """

    method = "SS-BFGS"
