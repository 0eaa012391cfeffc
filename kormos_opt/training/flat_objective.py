"""The objective of a model and its data as functions of the flat vector of its weights, the way kormos gave them."""

from collections import OrderedDict
from collections.abc import Callable

import keras
import numpy as np

from kormos_opt.data import collect
from kormos_opt.data.replicas import Replicas
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective.build import bind, build
from kormos_opt.objective.objective import ObjectiveSettings


class FlatObjective:
    """Values, gradients and Hessian-vector products, the last few values kept.

    Args:
        model: A compiled model. Its optimizer is set aside while this one records.
        optimizer: The `BatchOptimizer` with the settings.
        data: A data set, or a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
    """

    def __init__(self, model: keras.Model, optimizer, data):
        if not model.compiled:
            raise ValueError("Expected a compiled model. Received: another. Call model.compile(loss=...) first.")
        self._model = model
        self._optimizer = optimizer
        parts = data if isinstance(data, tuple) else (data,)
        x, y, sample_weight = (*parts, None, None)[:3]
        replicas = Replicas.of(model)
        drawn = None if optimizer.batch_size == "auto" else optimizer.batch_size
        self._data = collect.of_fit(replicas, optimizer.cache, x, y, sample_weight, None, drawn, None)
        settings = ObjectiveSettings.of(optimizer)
        with self._recording():
            self._objective = bind(build(model, settings, self._data, replicas), self._data)
        self._values: OrderedDict[bytes, tuple] = OrderedDict()

    def get_weights(self) -> np.ndarray:
        """The trainable weights, float64 of shape `(n,)`."""
        return self._objective.parameters.ravel()

    def set_weights(self, x) -> None:
        """Assigns `x` of shape `(n,)`."""
        self._objective.parameters.assign(self._vector(x))

    def func(self, x) -> float:
        """The loss at `x`."""
        return self.func_and_grad(x)[0]

    def grad(self, x) -> np.ndarray:
        """Its gradient at `x`."""
        return self.func_and_grad(x)[1]

    def func_and_grad(self, x) -> tuple[float, np.ndarray]:
        """The loss and its gradient at `x`."""
        x = self._vector(x)
        key = x.tobytes()
        if key not in self._values:
            with self._recording():
                evaluation = self._objective.evaluate(x)
            self._values[key] = evaluation.fun, evaluation.jac
            if len(self._values) > self._optimizer.max_cache_entries:
                self._values.popitem(last=False)
        fun, jac = self._values[key]
        return fun, jac.copy()

    def hessp(self, x, vector) -> np.ndarray:
        """The Hessian at `x` times `vector`."""
        with self._recording():
            return self._objective.hvps(self._vector(x), self._vector(vector))

    def hessian(self, x) -> np.ndarray:
        """The Hessian at `x`, float64 of shape `(n, n)`."""
        with self._recording():
            product = self._objective.hvps(self._vector(x), np.eye(len(x)))
        return (product + product.T) / 2

    def minimize(self, epochs: int, callback: Callable | None) -> None:
        """Runs the optimizer's stages from the weights as they are."""
        train_function = self._optimizer.make_train_function(self._model)
        with self._recording(), train_function.fitting(self._data, epochs):
            for _ in range(epochs):
                train_function.epoch()
                if callback is not None:
                    callback(self.get_weights())
                if train_function.has_ended:
                    break
        train_function.close()

    def _recording(self):
        return keras_model.compiled_with(self._model, self._optimizer)

    def _vector(self, x):
        x = np.array(x, "float64")
        if x.shape != (self._objective.parameters.size,):
            raise ValueError(f"Expected shape ({self._objective.parameters.size},). Received: shape {x.shape}.")
        return x
