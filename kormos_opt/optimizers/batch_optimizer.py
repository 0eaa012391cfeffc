"""The base of the optimizers to compile with: settings, checked when they are given, and what files carry.

What changes during a fit lives in `training/`.
"""

import inspect
from typing import Any

import keras
import numpy as np
from scipy.optimize import OptimizeResult
from typing_extensions import Unpack

from kormos_opt.objective import train_step
from kormos_opt.optimizers import unknown_arguments
from kormos_opt.optimizers.ownership import OwnedByOneModel
from kormos_opt.optimizers.settings import (
    Settings,
    all_settings,
    arguments_docstring,
    complete,
    with_new_names,
)
from kormos_opt.optimizers.solver_state import SavesSolverState
from kormos_opt.training.fit_result import FitResult
from kormos_opt.training.flat_objective import FlatObjective
from kormos_opt.training.train_function import TrainFunction


class BatchOptimizer(OwnedByOneModel, SavesSolverState):
    """Base of the deterministic full-batch optimizers: what they have in common beside the solver.

    It also gives the objective of a model and its data as functions of the flat vector of all weights, with the
    signatures that `scipy.optimize.minimize` expects: `func`, `grad`, `func_and_grad` and `hessp`, after `build`.

    Args:
        name: Name of the optimizer. Defaults to `"batchoptimizer"`.
        {settings}

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

    def __init__(self, name: str | None = "batchoptimizer", *in_order: Any, **settings: Unpack[Settings]):
        named = dict(zip(all_settings(), in_order, strict=False))  # as kormos takes them
        given = with_new_names(named | settings, is_file=False)
        for argument in given.keys() - all_settings().keys():
            raise ValueError(unknown_arguments.message(type(self), argument, given[argument]))
        super().__init__(learning_rate=1.0, name=name)
        for setting, value in complete(given).items():
            setattr(self, setting, value)
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
            self._load_state()

    def get_weights(self) -> np.ndarray:
        """The trainable weights as a float64 vector of shape `(n,)`."""
        return self._built().get_weights()

    def set_weights(self, x) -> None:
        """Assigns a vector of shape `(n,)` to the trainable weights. A list of arrays is Keras's, for the variables of
        the optimizer itself."""
        if isinstance(x, (list, tuple)) and x and all(_is_array(each) for each in x):
            self._solver_state.loaded_values = [np.array(each) for each in x]
            self._load_state()
        else:
            self._built().set_weights(x)

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

    def hessian(self, x=None) -> np.ndarray:
        """The Hessian at `x`, float64 of shape `(n, n)`. Defaults to `None`: at the weights as they are."""
        objective = self._built()
        return objective.hessian(objective.get_weights() if x is None else x)

    def _built(self):
        if self._untracked.objective is None:
            raise RuntimeError(
                f"Expected an optimizer with a model and data. Received: {self.name}, which has none yet. "
                "Call optimizer.build(model, data) first."
            )
        return self._untracked.objective

    @property
    def result(self) -> FitResult | None:
        """What the last fit says of itself, a `scipy.optimize.OptimizeResult`; `None` before the first."""
        return self._untracked.result

    def record(self, result: OptimizeResult | None) -> None:
        """Keeps the result of a fit."""
        self._untracked.result = None if result is None else FitResult(result)

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

    def has_starts(self) -> bool:
        """Whether a fit has to try several initial weights first."""
        return False

    def evaluations_of_starts(self) -> tuple[int, int]:
        """What that has taken: evaluations and Hessian-vector products."""
        return 0, 0

    def make_train_function(self, model: keras.Model) -> TrainFunction:
        """What `Model.fit` calls instead of its own train function."""
        for argument, reason in unknown_arguments.STOCHASTIC.items():
            value = getattr(self, argument, None)
            if argument not in ("learning_rate", "lr", "ema_momentum") and value:
                raise ValueError(f"Expected no `{argument}`: {reason}. Received: optimizer.{argument}={value!r}.")
        return TrainFunction(model, self)

    def scale_loss(self, loss):
        """Called by `Model.train_step` with the loss of a batch."""
        train_step.current_record().record_loss(loss)
        return loss

    def apply(self, grads, trainable_variables=None):
        """Called by `Model.train_step` with the gradients of a batch, which are recorded and not applied.

        Raises:
            RuntimeError: If called by anything but a train step that runs inside `fit` or `train_on_batch`.
        """
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        train_step.current_record().record_gradients(grads, variables)

    def get_config(self):
        return {"name": self.name, **{setting: getattr(self, setting) for setting in all_settings()}}


def _is_array(value):
    """Whether this is an array, in memory or in a file, and no number."""
    return hasattr(value, "shape") and not isinstance(value, np.generic)


_DOCSTRING = inspect.cleandoc(BatchOptimizer.__doc__ or "")
BatchOptimizer.__doc__ = _DOCSTRING.replace("{settings}", arguments_docstring().strip())


class _Untracked:
    """Holds what neither Keras nor TensorFlow shall track: they would wrap and save it."""

    result: FitResult | None = None
    objective: FlatObjective | None = None
    plan: Any = None
    solver: Any = None
    table: list[dict] | None = None
    least_squares: dict | None = None
    counts_of_starts: tuple[int, ...] = 0, 0
