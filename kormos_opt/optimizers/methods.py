"""A class for every method of `scipy.optimize.minimize`, with what it is good at.

All take the arguments of `ScipyBatchOptimizer` but `method`. Which one when: `docs/how_to_choose_a_solver.md`. What is
the same in all docstrings comes from the registry.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

import keras
from typing_extensions import Unpack

from kormos_opt.optimizers.docstrings import documented
from kormos_opt.optimizers.scipy_batch_optimizer import ScipyBatchOptimizer
from kormos_opt.optimizers.settings import Settings
from kormos_opt.stages.options import is_positive_integer
from kormos_opt.stages.plan import BoundsLike, Plan


class _StageSettings(Settings, total=False):
    epochs: int | None
    pretrain_fn: Callable[[keras.Model], Any] | None


class _Named(ScipyBatchOptimizer):
    method = None

    def __init__(
        self,
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        bounds: BoundsLike = None,
        constraints: Any = None,
        name: str | None = None,
        **kwargs: Unpack[_StageSettings],
    ):
        name = name or type(self).__name__.lower()
        super().__init__(name, self.method, tol=tol, options=options, bounds=bounds, constraints=constraints, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["method"]
        return config


class _OtherSettings(TypedDict, total=False):
    bounds: BoundsLike
    constraints: Any
    epochs: int | None
    pretrain_fn: Callable[[keras.Model], Any] | None
    max_cache_entries: int
    dtype: str
    save_memory: bool | Literal["auto"]


_METHODS_OF_ENGINES = {
    "scipy": "L-BFGS-B",
    "graph": "L-BFGS-graph",
    "tfp": "L-BFGS-TFP",
    "auto": "L-BFGS-auto",
}


@keras.saving.register_keras_serializable("kormos_opt")
class LBFGS(_Named):
    """Limited-memory BFGS, the first choice for smooth objectives of any number of weights.

    Every iteration multiplies the gradient with an approximation of the inverse Hessian, built from the last `memory`
    changes of x and the gradient, and searches along that direction for a point that satisfies the strong Wolfe
    conditions: usually one evaluation per iteration.

    Args:
        memory: Pairs of changes that are kept, scipy's `maxcor`. Defaults to `10`.
        tol: As in scipy: sets `ftol` and `gtol`. Defaults to `None`.
        options: Options of scipy's L-BFGS-B, handed over as they are. Defaults to `None`.
        iterations_per_epoch: Solver iterations that make one Keras epoch. Defaults to `1`.
        batch_size: Rows that are evaluated at a time. Defaults to `None`: chosen to bound memory.
        cache: Whether the training data is kept in memory. Defaults to `"auto"`: up to half of the machine's.
        precision: `"model"` or `"float64"`. Defaults to `"model"`.
        name: Name of the optimizer. Defaults to `"lbfgs"`.
        engine: `"scipy"`, L-BFGS-B; `"graph"`, L-BFGS wholly inside the graph, an epoch in one call, under XLA one
            program; `"tfp"`, that of TensorFlow Probability with the Hager-Zhang line search; or `"auto"`: graph where
            it can do the job, scipy with bounds and for data that is streamed or cannot be joined. `result.method` says
            which. The options of graph and tfp are `gtol`, `ftol`, `xtol`, `maxls` (evaluations or iterations of a line
            search), `maxiter` and `maxfun`. Defaults to `"scipy"`.
        **kwargs: `bounds`, and the other arguments of `ScipyBatchOptimizer`.

    Raises:
        ValueError: For an option that scipy does not know, or a setting of another kind of optimizer.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> y = x @ [1.0, -2.0, 3.0]
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.LBFGS(precision="float64"), loss="mse")
    >>> history = model.fit(x, y, epochs=50, verbose=0)
    >>> model.layers[0].kernel.numpy().ravel().round(4).tolist()
    [1.0, -2.0, 3.0]

    Reference: Byrd, Lu, Nocedal and Zhu, A Limited Memory Algorithm for Bound Constrained Optimization (1995);
    https://docs.scipy.org/doc/scipy/reference/optimize.minimize-lbfgsb.html
    """

    method = "L-BFGS-B"

    def __init__(
        self,
        memory: int = 10,
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        iterations_per_epoch: int = 1,
        batch_size: int | Literal["auto"] | None = None,
        cache: bool | Literal["auto"] = "auto",
        precision: Literal["model", "float64"] = "model",
        name: str | None = "lbfgs",
        engine: Literal["scipy", "graph", "tfp", "auto"] = "scipy",
        **kwargs: Unpack[_OtherSettings],
    ):
        if not is_positive_integer(memory):
            raise ValueError(f"Expected a positive integer. Received: memory={memory!r}.")
        if engine not in _METHODS_OF_ENGINES:
            raise ValueError(f'Expected "scipy", "graph", "tfp" or "auto". Received: engine={engine!r}.')
        super().__init__(
            tol,
            None,
            iterations_per_epoch=iterations_per_epoch,
            batch_size=batch_size,
            cache=cache,
            precision=precision,
            name=name,
            **kwargs,
        )
        self.memory = int(memory)
        self.engine = engine
        preset = {method: {"memory": self.memory} for method in _METHODS_OF_ENGINES.values()}
        preset["L-BFGS-B"] = {"maxcor": self.memory}
        arguments = self.plan.arguments | {"method": _METHODS_OF_ENGINES[engine], "options": options}
        self._untracked.plan = Plan(preset, **arguments)

    def get_config(self):
        return {**super().get_config(), "memory": self.memory, "engine": self.engine}


@documented
class NelderMead(_Named):
    """The simplex method, without derivatives: a handful of weights and a loss that is not smooth.

    A simplex of n + 1 points is reflected, expanded, contracted and shrunk by comparing values of the loss. An
    iteration costs one or two evaluations; hundreds of iterations for two weights are usual.
    """

    method = "Nelder-Mead"


@documented
class Powell(_Named):
    """Line searches along directions that become conjugate, without derivatives: few weights.

    An iteration is one line search along each of the n directions: n times ten evaluations or so.
    """

    method = "Powell"


@documented
class CG(_Named):
    """Nonlinear conjugate gradients: the memory of a few vectors, where even that of L-BFGS is too much.

    The Polak-Ribiere direction adds a multiple of the last direction to the gradient, and a line search follows.
    """

    method = "CG"


@documented
class BFGS(_Named):
    """BFGS with a full n x n approximation of the inverse Hessian: up to a few thousand weights.

    It knows more of the curvature than L-BFGS, at the price of n^2 memory and arithmetic in every iteration.
    """

    method = "BFGS"


@documented
class NewtonCG(_Named):
    """Newton's method with exact Hessian-vector products: an accurate optimum in few iterations.

    Every iteration solves the Newton equations by conjugate gradients, one product an inner step, and ends them early
    at negative curvature; a line search follows.
    """

    method = "Newton-CG"


@documented
class TNC(_Named):
    """A truncated Newton method that takes bounds and needs gradients only.

    The products with the Hessian are difference quotients of the gradient, each of which costs an evaluation.
    """

    method = "TNC"


@documented
class COBYLA(_Named):
    """Linear models on a simplex, without derivatives: a few weights under constraints.

    The loss and the constraints are interpolated linearly on a simplex, inside a trust region that shrinks.
    """

    method = "COBYLA"


@documented
class COBYQA(_Named):
    """Quadratic models without derivatives: a few weights, with bounds and constraints.

    An epoch is one evaluation, since scipy calls back after each. The first 2n + 1 of them only build the model.
    """

    method = "COBYQA"


@documented
class SLSQP(_Named):
    """Sequential quadratic programming: up to some hundred weights under smooth constraints.

    Every iteration solves a quadratic program of the loss and the linearized constraints, n^3 arithmetic.
    """

    method = "SLSQP"


@documented
class TrustConstr(_Named):
    """A trust-region method for constraints of all kinds, with exact Hessian-vector products.

    Without inequalities it is the Byrd-Omojokun method, with them a barrier method.
    """

    method = "trust-constr"


@documented
class Dogleg(_Named):
    """The dogleg trust-region method with the full Hessian, which has to be positive definite.

    For convex losses such as those of generalized linear models. The Hessian costs n products in every iteration.
    """

    method = "dogleg"


@documented
class TrustNCG(_Named):
    """Newton's method in a trust region, by conjugate gradients: goes on where the Hessian is not positive definite.

    Steihaug's method: the inner iteration stops at the region's edge or at negative curvature and takes what it has.
    """

    method = "trust-ncg"


@documented
class TrustExact(_Named):
    """A trust-region method that solves every subproblem almost exactly, with the full Hessian.

    The fewest iterations of all, for small and hard problems: n products and several factorizations in each.
    """

    method = "trust-exact"


@documented
class TrustKrylov(_Named):
    """A trust-region method on Krylov subspaces: trust-ncg that goes on along the region's edge.

    Needs fewer iterations than trust-ncg where the Hessian is indefinite, and more products in each.
    """

    method = "trust-krylov"
