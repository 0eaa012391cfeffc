"""The general optimizer: any method of the registry, or several in a chain; and the base of classes of one method."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from scipy.optimize import Bounds, OptimizeResult
from typing_extensions import Unpack

from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.settings import Settings, deserialized, with_new_names
from kormos_opt.stages import constraints as constraints_of_stages
from kormos_opt.stages.plan import BoundsLike, Plan, StageArguments
from kormos_opt.stages.stage import Stage


@keras.saving.register_keras_serializable("kormos_opt")
class ScipyBatchOptimizer(BatchOptimizer):
    """Trains with `scipy.optimize.minimize`, any of its methods, or several in a chain.

    `method`, `epochs`, `pretrain_fn`, `options` and `tol` may be lists, with an item for each stage of a chain: the
    result of one stage starts the next, which begins when its epochs are over or the method has converged. The
    history then has a column `stage`.

    Args:
        name: Name of the optimizer. Defaults to `"scipy"`.
        method: A method of scipy, or one that `kormos_opt.solvers.register` was given, in any case. Defaults to `None`:
            L-BFGS-B.
        epochs: Epochs of each stage at most. Defaults to `None`: those of `fit`.
        pretrain_fn: Called with the model before a stage starts. It may freeze and unfreeze layers. Defaults to `None`.
        options: As in scipy, handed over as they are. `maxiter` and its like have no limit unless given here, since
            `epochs` is one. Defaults to `None`.
        bounds: As in scipy, a sequence of `(low, high)` for every weight or a `scipy.optimize.Bounds`; or by variable,
            `{"dense/kernel": (0, None), "*/bias": (-1, 1)}`, with patterns on `variable.path`. Keras's constraint
            `NonNeg` becomes a bound too. Defaults to `None`.
        constraints: As in scipy, one or several, or `kormos_opt.VariableConstraint`. Defaults to `None`.
        tol: As in scipy: sets the method's own tolerances. Defaults to `None`.
        **kwargs: The other arguments of `BatchOptimizer`.

    Raises:
        ValueError: For a method that nobody has registered, or an option that it does not know.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> optimizer = kormos_opt.optimizers.ScipyBatchOptimizer(method=["cg", "newton-cg"], epochs=[2, 5])
    >>> model.compile(optimizer=optimizer, loss="mse")
    >>> history = model.fit(x, 3 * x + 1, epochs=7, verbose=0)
    >>> bool(model.optimizer.result.fun < 1e-6)
    True

    Reference: https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.minimize.html
    """

    def __init__(
        self,
        name: str | None = "scipy",
        method: str | Sequence[str] | None = None,
        epochs: int | Sequence[int] | None = None,
        pretrain_fn: Callable[[keras.Model], Any] | Sequence[Callable[[keras.Model], Any] | None] | None = None,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        bounds: BoundsLike = None,
        constraints: Any = None,
        tol: float | Sequence[float | None] | None = None,
        **kwargs: Unpack[Settings],
    ):
        super().__init__(name=name, **kwargs)
        self._untracked.plan = Plan(
            method=method,
            epochs=epochs,
            pretrain_fn=pretrain_fn,
            options=options,
            bounds=bounds,
            constraints=constraints,
            tol=tol,
        )
        if self.curvature != "exact" and not any(
            stage.method.derivatives in ("hvp", "hessian") for stage in self.stages
        ):
            raise ValueError(
                f"Expected a method with second derivatives. Received: curvature={self.curvature!r} for "
                f"{', '.join(stage.name for stage in self.stages)}. Take Newton-CG, trust-ncg, trust-krylov or "
                "trust-exact."
            )

    @property
    def plan(self) -> Plan:
        """The settings of the solver."""
        return self._untracked.plan

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.plan.stages

    @contextlib.contextmanager
    def planned(self, **arguments: Unpack[StageArguments]):
        """Inside, arguments of a stage that are not `None` replace those of the constructor."""
        usual = self.plan
        try:
            self._untracked.plan = usual.changed(**arguments)
            yield
        finally:
            self._untracked.plan = usual

    def minimize(
        self,
        epochs: int | list[int] = 10,
        callback: Callable[[np.ndarray], object] | None = None,
        **arguments: Any,
    ) -> OptimizeResult:
        """Minimizes the loss of the model and the data that `build` was given, without Keras's loop.

        Args:
            epochs: Epochs at most, or a list with those of each stage. Defaults to `10`.
            callback: Called with the weights after each of them, float64 of shape `(n,)`. Defaults to `None`.
            **arguments: The arguments of a stage. They take precedence over those of the constructor.

        Returns:
            The result of the last stage.
        """
        stages = epochs if isinstance(epochs, (list, tuple)) else None
        with self.planned(**{**arguments, "epochs": stages}):
            self._built().minimize(int(np.sum(epochs)), callback)
        return self.result

    def get_config(self):
        settings = dict(self.plan.arguments)
        listed = constraints_of_stages.as_list(settings["constraints"])
        settings["constraints"] = [constraints_of_stages.to_config(each) for each in listed] or None
        if isinstance(settings["bounds"], Bounds):
            settings["bounds"] = {"scipy.optimize.Bounds": dict(vars(settings["bounds"]))}
        return {**super().get_config(), **settings}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer with the settings that `get_config` returned and Keras has serialized."""
        config = with_new_names(config, is_file=True)
        for name in {"pretrain_fn", "options", "bounds", "constraints"} & config.keys():
            config[name] = deserialized(config[name], custom_objects)
        if isinstance(config.get("bounds"), dict) and "scipy.optimize.Bounds" in config["bounds"]:
            config["bounds"] = Bounds(**config["bounds"]["scipy.optimize.Bounds"])
        if config.get("constraints"):
            config["constraints"] = [constraints_of_stages.from_config(each) for each in config["constraints"]]
        return cls(**config)


class StageSettings(Settings, total=False):
    """What the classes of single methods take by keyword, see `ScipyBatchOptimizer`."""

    epochs: int | None
    pretrain_fn: Callable[[keras.Model], Any] | None


class NamedOptimizer(ScipyBatchOptimizer):
    """An optimizer of one method, which its class names.

    Args:
        tol: As in `ScipyBatchOptimizer`.
        options: Options of the method.
        bounds: As in `ScipyBatchOptimizer`.
        constraints: As in `ScipyBatchOptimizer`.
        name: Name of the optimizer. Defaults to `None`: that of the class, in lower case.
        **kwargs: The other arguments of `ScipyBatchOptimizer`.
    """

    method: str

    def __init__(
        self,
        tol: float | None = None,
        options: Mapping[str, Any] | None = None,
        bounds: BoundsLike = None,
        constraints: Any = None,
        name: str | None = None,
        **kwargs: Unpack[StageSettings],
    ):
        name = name or type(self).__name__.lower()
        super().__init__(name, self.method, tol=tol, options=options, bounds=bounds, constraints=constraints, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["method"]
        return config
