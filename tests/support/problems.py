"""Small models with data, and the laws' helpers, shared by the tests."""

import keras
import numpy as np

from kormos_opt.data.collect import of_fit
from kormos_opt.data.replicas import Replicas
from kormos_opt.objective.build import bind, build
from kormos_opt.objective.objective import ObjectiveSettings
from kormos_opt.optimizers import LBFGS


def regression(rows=60, columns=4, dtype="float32"):
    """Linear data with a little noise: x of shape (rows, columns), y of shape (rows, 1)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    y = x @ np.arange(1.0, columns + 1)[:, None] + 0.1 * rng.normal(size=(rows, 1))
    return x.astype(dtype), y.astype(dtype)


def network(columns=4, units=5, **dense):
    """A tanh network with one output."""
    return keras.Sequential(
        [keras.Input((columns,)), keras.layers.Dense(units, "tanh", **dense), keras.layers.Dense(1)]
    )


def linear(columns=4, **dense):
    """A linear model."""
    return keras.Sequential([keras.Input((columns,)), keras.layers.Dense(1, **dense)])


class Curve(keras.Model):
    """`function(x, weights)` with a vector of weights that starts where it is told."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        initial = keras.initializers.Constant(np.array(start, "float64"))
        self.weights_of_curve = self.add_weight(shape=(len(start),), initializer=initial, name="b")

    def call(self, x):
        return self.function(x, self.weights_of_curve)


def compiled(model, optimizer=None, loss="mse", **compile_arguments):
    """The model, compiled with one of our optimizers."""
    model.compile(optimizer=optimizer or LBFGS(), loss=loss, **compile_arguments)
    return model


def prepared(model, x, y=None, sample_weight=None, class_weight=None, batch_size=None, steps_per_epoch=None):
    """The objective of a compiled model, bound to its data."""
    optimizer = model.optimizer
    replicas = Replicas.of(model)
    data = of_fit(replicas, optimizer.cache, x, y, sample_weight, class_weight, batch_size, steps_per_epoch)
    return bind(build(model, ObjectiveSettings.of(optimizer), data, replicas), data)


def rebound(model, x, y):
    """The objective that a model was trained with, bound to the data once more: nothing is traced again."""
    data = of_fit(None, "auto", x, y, None, None, None, None)
    return bind(model.train_function._objective, data)


def finite_differences(fun, x, direction, step=1e-4):
    """The slope of `fun` at `x` along `direction`, by five-point central differences: an error of order `step**4`."""
    near = fun(x + step * direction) - fun(x - step * direction)
    far = fun(x + 2 * step * direction) - fun(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def excess(x, y, result):
    """What is left above the optimum of least squares with an intercept, of the variance of y."""
    deviations, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.linalg.norm(deviations, axis=0)
    columns = deviations / np.where(scale > 0, scale, 1.0)
    best = np.mean((columns @ np.linalg.lstsq(columns, targets, rcond=None)[0] - targets) ** 2)
    return (result.fun - best) / y.var()
