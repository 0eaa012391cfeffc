"""Limited-memory BFGS in its engines: scipy's, ours in the graph, that of TensorFlow Probability."""

from collections.abc import Mapping
from typing import Any, Literal

import keras
from typing_extensions import Unpack

from kormos_opt.optimizers.scipy_batch_optimizer import NamedOptimizer, StageSettings
from kormos_opt.stages.options import is_positive_integer
from kormos_opt.stages.plan import BoundsLike, Plan

_METHODS_OF_ENGINES = {
    "scipy": "L-BFGS-B",
    "graph": "L-BFGS-graph",
    "tfp": "L-BFGS-TFP",
    "auto": "L-BFGS-auto",
}


@keras.saving.register_keras_serializable("kormos_opt")
class LBFGS(NamedOptimizer):
    """Limited-memory BFGS, the first choice for smooth objectives of any number of weights.

    Every iteration multiplies the gradient with an approximation of the inverse Hessian, built from the last `memory`
    changes of x and the gradient, and searches along that direction for a point that satisfies the strong Wolfe
    conditions: usually one evaluation per iteration.

    Args:
        memory: Pairs of changes that are kept, scipy's `maxcor`. Defaults to `10`.
        tol: As in scipy: sets `ftol` and `gtol`. Defaults to `None`.
        options: Options of scipy's L-BFGS-B, handed over as they are. Defaults to `None`.
        engine: `"scipy"`, L-BFGS-B; `"graph"`, L-BFGS wholly inside the graph, an epoch in one call, under XLA one
            program; `"tfp"`, that of TensorFlow Probability with the Hager-Zhang line search; or `"auto"`: graph where
            it can do the job, scipy with bounds and for data that is streamed or cannot be joined. `result.method` says
            which. The options of graph and tfp are `gtol`, `ftol`, `xtol`, `maxls` (evaluations or iterations of a line
            search), `maxiter` and `maxfun`. Defaults to `"scipy"`.
        bounds: As in `ScipyBatchOptimizer`. Defaults to `None`.
        constraints: None are taken. Defaults to `None`.
        name: Name of the optimizer. Defaults to `"lbfgs"`.
        **kwargs: The other arguments of `ScipyBatchOptimizer`.

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
        *,
        engine: Literal["scipy", "graph", "tfp", "auto"] = "scipy",
        bounds: BoundsLike = None,
        constraints: Any = None,
        name: str | None = "lbfgs",
        **kwargs: Unpack[StageSettings],
    ):
        if not is_positive_integer(memory):
            raise ValueError(f"Expected a positive integer. Received: memory={memory!r}.")
        if engine not in _METHODS_OF_ENGINES:
            raise ValueError(f'Expected "scipy", "graph", "tfp" or "auto". Received: engine={engine!r}.')
        super().__init__(tol, None, bounds, constraints, name, **kwargs)
        self.memory = int(memory)
        self.engine = engine
        preset = {method: {"memory": self.memory} for method in _METHODS_OF_ENGINES.values()}
        preset["L-BFGS-B"] = {"maxcor": self.memory}
        arguments = self.plan.arguments | {"method": _METHODS_OF_ENGINES[engine], "options": options}
        self._untracked.plan = Plan(preset, **arguments)

    def get_config(self):
        return {**super().get_config(), "memory": self.memory, "engine": self.engine}
