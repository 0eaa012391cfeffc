"""The base of the optimizers to compile with, and the general one: settings, checked when they are given.

What changes during a fit lives elsewhere. `methods.py` has a class for every method.
"""

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import keras
import numpy as np
from scipy.optimize import Bounds, OptimizeResult
from typing_extensions import Never, Unpack

from kormos_opt.objective import train_step
from kormos_opt.objective.model_state import ModelState
from kormos_opt.optimizers import unknown_arguments
from kormos_opt.stages import constraints as constraints_module
from kormos_opt.stages.stage import Plan, is_positive_integer
from kormos_opt.training.graph_run import Memory
from kormos_opt.training.train_function import TrainFunction
from kormos_opt.training.without_fit import FlatObjective

BoundsLike = Bounds | Sequence[tuple[Any, Any]] | Mapping[str, tuple[Any, Any]] | None


class Settings(TypedDict, total=False):
    """What all optimizers take by keyword, see `BatchOptimizer`."""

    batch_size: int | Literal["auto"] | None
    max_cache_entries: int
    dtype: str
    iterations_per_epoch: int
    cache: bool | Literal["auto"]
    precision: Literal["model", "float64"]


class BatchOptimizer(keras.optimizers.Optimizer):
    """Base of the deterministic full-batch optimizers: what they have in common beside the solver.

    It also gives the objective of a model and its data as functions of the flat vector of all weights, with the
    signatures that `scipy.optimize.minimize` expects: `func`, `grad`, `func_and_grad` and `hessp`, after `build`.

    Args:
        name: Name of the optimizer. Defaults to `"batchoptimizer"`.
        batch_size: Rows that are evaluated at a time. It bounds memory and leaves the result alone. Defaults to `None`:
            as many rows as take about 64 MiB of intermediate results, estimated from the graph. `"auto"` measures
            what the first rows take, inside recurrent layers too, and takes as many as fill an eighth of the memory.
            A number is an upper limit but for models with BatchNormalization: fewer rows are taken, and it is said,
            where they would fill an eighth of the memory.
        max_cache_entries: Points whose values `func`, `grad` and `func_and_grad` keep. Defaults to `10`.
        dtype: Of the flat vector, always `"float64"`, which scipy needs.
        iterations_per_epoch: Solver iterations that make one Keras epoch. More of them spare small problems the cost
            of an epoch in the stock loop. Defaults to `1`.
        cache: Whether the training data is kept in memory: `True`, `False` (every evaluation reads the input pipeline
            anew), or `"auto"` (kept, up to half of the machine's memory). Defaults to `"auto"`.
        precision: `"model"` evaluates the objective in the dtypes of the model, `"float64"` in double precision; the
            weights keep their dtype. Defaults to `"model"`.
        **kwargs: Nothing. Settings of Keras's stochastic optimizers are refused with the reason.

    Raises:
        ValueError: For a value outside those above.

    Example:

    >>> import keras, numpy as np
    >>> from kormos_opt.optimizers import ScipyBatchOptimizer
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)])
    >>> model.compile(optimizer="scipy", loss="mse")
    >>> optimizer = model.optimizer
    >>> optimizer.build(model, (x, 3 * x))
    >>> optimizer.get_weights()
    array([1.])
    >>> abs(optimizer.func(np.array([3.0]))) < 1e-6
    True
    >>> bool(np.abs(optimizer.grad(np.array([3.0]))).max() < 1e-6)
    True
    """

    def __init__(
        self,
        name: str | None = "batchoptimizer",
        batch_size: int | Literal["auto"] | None = None,
        max_cache_entries: int = 10,
        dtype: str = "float64",
        iterations_per_epoch: int = 1,
        cache: bool | Literal["auto"] = "auto",
        precision: Literal["model", "float64"] = "model",
        **kwargs: Never,
    ):
        for argument, value in kwargs.items():
            raise ValueError(unknown_arguments.message(type(self), argument, value))
        if not is_positive_integer(iterations_per_epoch):
            raise ValueError(f"Expected a positive integer. Received: iterations_per_epoch={iterations_per_epoch!r}.")
        if not (batch_size in (None, "auto") or is_positive_integer(batch_size)):
            raise ValueError(f'Expected a positive integer, "auto" or None. Received: batch_size={batch_size!r}.')
        if not is_positive_integer(max_cache_entries):
            raise ValueError(f"Expected a positive integer. Received: max_cache_entries={max_cache_entries!r}.")
        if keras.backend.standardize_dtype(dtype) != "float64":
            raise ValueError(f"Expected float64, in which scipy computes. Received: dtype={dtype!r}. Leave it out.")
        if not (isinstance(cache, bool) or cache == "auto"):
            raise ValueError(f'Expected True, False or "auto". Received: cache={cache!r}.')
        if precision not in ("model", "float64"):
            raise ValueError(f'Expected "model" or "float64". Received: precision={precision!r}.')
        super().__init__(learning_rate=1.0, name=name)
        self.iterations_per_epoch = iterations_per_epoch
        self.batch_size = batch_size
        self.max_cache_entries = max_cache_entries
        self.cache = cache
        self.precision = precision
        self._untracked = _Untracked()

    def build(self, model, Xyw=None):  # noqa: N803  kormos's name
        """Makes `func`, `grad`, `func_and_grad` and `hessp` those of a model and its data.

        Keras calls it with a list of variables, which says nothing about the objective.

        Args:
            model: A model that is compiled with this optimizer, or Keras's list of variables.
            Xyw: A `tf.data.Dataset`, or anything else that `fit` takes, several parts as a tuple `(x, y)` or
                `(x, y, sample_weight)`. It is kept in memory with `cache="auto"` and `True`.
        """
        if isinstance(model, keras.Model):
            self._untracked.objective = FlatObjective(model, self, Xyw)
        elif model and not self.built:  # Keras's reader of .h5 files hands over an empty list
            super().build(model)
            self._add_solver_variables(model)
            self._take_loaded()

    def get_weights(self) -> np.ndarray:
        """The trainable weights as a float64 vector of shape `(n,)`."""
        return self._built().get_weights()

    def set_weights(self, x) -> None:
        """Assigns a vector of shape `(n,)` to the trainable weights. A list of arrays is Keras's, for the variables of
        the optimizer itself."""
        if isinstance(x, (list, tuple)) and x and all(_is_array(each) for each in x):
            self._untracked.loaded = [np.array(each) for each in x]
            self._take_loaded()
        else:
            self._built().set_weights(x)

    def _add_solver_variables(self, variables):
        """Makes the variables of a solver that keeps its memory in them."""

    def _take_loaded(self):
        """Assigns the values of a .h5 file, which are there before the variables are."""
        loaded = self._untracked.loaded
        if loaded is None:
            return
        if not self.built:
            for variable, value in zip(self._variables, loaded, strict=False):
                variable.assign(value)
            return
        if self._untracked.memory is not None:
            self._make_room_for_seeds(len(loaded[-1]))
        self._untracked.loaded = None
        super().set_weights(loaded)

    def func(self, x) -> float:
        """The loss at `x`, of shape `(n,)`."""
        return self._built().func(x)

    def grad(self, x) -> np.ndarray:
        """The gradient at `x`, float64 of shape `(n,)`."""
        return self._built().grad(x)

    def func_and_grad(self, x) -> tuple[float, np.ndarray]:
        """The loss and its gradient at `x`."""
        return self._built().func_and_grad(x)

    def hessp(self, x, vector) -> np.ndarray:
        """The Hessian at `x` times `vector`, float64 of shape `(n,)`."""
        return self._built().hessp(x, vector)

    def _built(self):
        if self._untracked.objective is None:
            raise RuntimeError(
                f"Expected an optimizer with a model and data. Received: {self.name}, which has none yet. "
                "Call optimizer.build(model, data) first."
            )
        return self._untracked.objective

    @property
    def result(self) -> OptimizeResult | None:
        """The `scipy.optimize.OptimizeResult` of the last fit, `None` before the first."""
        return self._untracked.result

    def memory_for(self, model: keras.Model, size: int, pairs: int) -> Memory:
        """The variables of a solver in the graph: those saved with the optimizer, for the first model that asks."""
        saved, owner = self._untracked.memory, self._untracked.owner()
        fits = saved is not None and saved.position_deltas.shape == (pairs, size)
        seeds = len(ModelState(model).seeds)
        if fits and owner in (None, model):
            self._untracked.owner = weakref.ref(model)
            self._make_room_for_seeds(seeds)
            return self._untracked.memory
        memory = Memory.of(lambda shape, **named: keras.Variable(np.zeros(shape), **named), size, pairs, seeds)
        if saved is None:
            self._untracked.memory, self._untracked.owner = memory, weakref.ref(model)
        return memory

    def load_own_variables(self, store):
        """As Keras does, with room for as many seeds as there are in the file."""
        memory = self._untracked.memory
        index = self._index_of(memory.seeds) if memory is not None else None
        if index is not None and str(index) in store.keys():  # noqa: SIM118  a file is no mapping
            self._make_room_for_seeds(store[str(index)].shape[0])
        super().load_own_variables(store)

    def _make_room_for_seeds(self, count):
        """Puts a larger variable in the place of the one there is: an optimizer is built before it knows the seeds."""
        memory = self._untracked.memory
        index = self._index_of(memory.seeds)
        if index is not None and memory.seeds.shape[0] < count:
            seeds = self.add_variable((count, 2), dtype="int64", name="seeds")
            self._variables[index] = self._variables.pop()
            self._untracked.memory = memory._replace(seeds=seeds)

    def _index_of(self, variable):
        return next((i for i, each in enumerate(self._variables) if each is variable), None)

    def has_lost_memory_of(self, model: keras.Model) -> bool:
        """Whether a solver has worked on the model before, and neither its file nor compile() has kept what it knew."""
        models = self._untracked.models
        is_known = model in models or not models
        models.add(model)
        return is_known and int(self.iterations.numpy()) > 0 and self.stages[0].engine == "scipy"

    def record(self, result: OptimizeResult | None) -> None:
        """Keeps the result of a fit."""
        self._untracked.result = result

    @property
    def learning_rate(self):
        """Always 1.0, for callbacks that log it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        raise ValueError(
            "Expected no learning rate: a line search chooses every step length. "
            f"Received: learning_rate={learning_rate}. Remove the callback or the line that sets it."
        )

    @property
    def stages(self) -> tuple:
        """What a fit does, one after the other. Subclasses say it."""
        raise NotImplementedError

    def make_train_function(self, model: keras.Model) -> TrainFunction:
        """What `Model.fit` calls instead of its own train function."""
        for argument, reason in unknown_arguments.STOCHASTIC.items():
            value = getattr(self, argument, None)
            if argument not in ("learning_rate", "lr", "ema_momentum") and value:
                raise ValueError(f"Expected no `{argument}`: {reason}. Received: optimizer.{argument}={value!r}.")
        return TrainFunction(model, self)

    def scale_loss(self, loss):
        """Called by `Model.train_step` with the loss of a batch."""
        train_step.listener().hear_loss(loss)
        return loss

    def apply(self, grads, trainable_variables=None):
        """Called by `Model.train_step` with the gradients of a batch, which are heard and not applied.

        Raises:
            RuntimeError: If called by anything but a train step that runs inside `fit` or `train_on_batch`.
        """
        heard = train_step.listener()
        heard.hear_gradients(grads, self._trainable_variables if trainable_variables is None else trainable_variables)

    def get_config(self):
        return {
            "name": self.name,
            "batch_size": self.batch_size,
            "max_cache_entries": self.max_cache_entries,
            "iterations_per_epoch": self.iterations_per_epoch,
            "cache": self.cache,
            "precision": self.precision,
        }


def _deserialized(value, custom_objects):
    """What Keras has serialized, at any depth; all else, as `get_config` itself returns it, as it is."""
    if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
    if isinstance(value, dict):
        return {name: _deserialized(each, custom_objects) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_deserialized(each, custom_objects) for each in value)
    return value


def _is_array(value):
    """Whether this is an array, in memory or in a file, and no number."""
    return hasattr(value, "shape") and not isinstance(value, np.generic)


class _Untracked:
    """Holds what neither Keras nor TensorFlow shall track: they would wrap and save it."""

    result = None
    objective = None
    plan = None
    memory = None
    loaded = None

    def __init__(self):
        self.owner = _nobody  # of the memory, as a weak reference
        self.models = weakref.WeakSet()


def _nobody():
    return None


@keras.saving.register_keras_serializable("kormos_opt")
class ScipyBatchOptimizer(BatchOptimizer):
    """Trains with `scipy.optimize.minimize`, any of its methods, or several in a chain.

    `method`, `epochs`, `pretrain_fn`, `options` and `tol` may be lists, with an item for each stage of a chain: the
    result of one stage starts the next, which begins when its epochs are over or the method has converged. The
    history then has a column `stage`.

    Args:
        name: Name of the optimizer. Defaults to `"scipy"`.
        method: A method of scipy, in any case. Defaults to `None`: L-BFGS-B.
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
        ValueError: For a method or an option that scipy does not know.

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
        self._untracked.plan = Plan(method, epochs, pretrain_fn, options, bounds, constraints, tol)

    @property
    def plan(self) -> Plan:
        """The settings of the solver."""
        return self._untracked.plan

    @property
    def stages(self) -> tuple:
        return self.plan.stages

    @contextlib.contextmanager
    def planned(self, **settings):
        """Inside, settings of the solver that are not `None` replace those of the constructor."""
        usual = self.plan
        given = {name: value for name, value in settings.items() if value is not None}
        try:
            self._untracked.plan = Plan(**{**usual.settings(), **given}) if given else usual
            yield
        finally:
            self._untracked.plan = usual

    def minimize(
        self,
        epochs: int | list[int] = 10,
        callback: Callable[[np.ndarray], object] | None = None,
        pretrain_fn=None,
        method=None,
        options=None,
        bounds=None,
        constraints=None,
        tol=None,
    ) -> OptimizeResult:
        """Minimizes the loss of the model and the data that `build` was given, without Keras's loop.

        Args:
            epochs: Epochs at most, or a list with those of each stage. Defaults to `10`.
            callback: Called with the weights after each of them, float64 of shape `(n,)`. Defaults to `None`.
            pretrain_fn: As in the constructor, like the following, over which they take precedence.
            method: As in the constructor.
            options: As in the constructor.
            bounds: As in the constructor.
            constraints: As in the constructor.
            tol: As in the constructor.

        Returns:
            The result of the last stage.
        """
        with self.planned(
            epochs=epochs if isinstance(epochs, (list, tuple)) else None,
            pretrain_fn=pretrain_fn,
            method=method,
            options=options,
            bounds=bounds,
            constraints=constraints,
            tol=tol,
        ):
            self._built().minimize(int(np.sum(epochs)), callback)
        return self.result

    def get_config(self):
        settings = self.plan.settings()
        del settings["memory"], settings["engine"]
        settings["constraints"] = [
            constraints_module.to_config(each) for each in constraints_module.as_list(settings["constraints"])
        ] or None
        if isinstance(settings["bounds"], Bounds):
            settings["bounds"] = {"scipy.optimize.Bounds": dict(vars(settings["bounds"]))}
        return {**super().get_config(), **settings}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The inverse of `get_config`, after Keras has serialized it."""
        config = dict(config)
        for name in {"pretrain_fn", "options", "bounds", "constraints"} & config.keys():
            config[name] = _deserialized(config[name], custom_objects)
        if isinstance(config.get("bounds"), dict) and "scipy.optimize.Bounds" in config["bounds"]:
            config["bounds"] = Bounds(**config["bounds"]["scipy.optimize.Bounds"])
        if config.get("constraints"):
            config["constraints"] = [constraints_module.from_config(each) for each in config["constraints"]]
        return cls(**config)
