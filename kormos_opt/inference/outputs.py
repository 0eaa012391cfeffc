"""The outputs of a model and their derivatives in its weights: what all inference rests on.

An output is the residual of a model that shall be zero: so the Jacobian of least squares is that of the outputs.
"""

import keras
import numpy as np

from kormos_opt.data import collect
from kormos_opt.keras_internals.model import has_mask
from kormos_opt.objective import train_step
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.build import bind, build, residuals_of
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.objective import ObjectiveSettings
from kormos_opt.objective.residual_recorder import mean_square


class InInference(keras.Model):
    """The model in inference mode, to compile in another way while its own compiled state stays as it is."""

    def __init__(self, model: keras.Model):
        super().__init__(name="in_inference")
        self.inner = model

    def build(self, input_shape=None):
        """The model inside is built already."""

    def call(self, x):
        outputs = self.inner(x, training=False)
        if not hasattr(outputs, "shape"):
            raise ValueError(f"Expected a model with one output. Received: a {type(outputs).__name__} of outputs.")
        return outputs


class _Outputs(InInference):
    """Its residuals are the outputs of so many rows, without a factor that would round them."""

    def __init__(self, model: keras.Model, rows: int):
        super().__init__(model)
        self.rows = rows

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = keras.ops.size(y_pred) / keras.ops.shape(y_pred)[0]
        return mean_square(y_pred, weight=self.rows * outputs)


class _WeightedSum(InInference):
    """Its loss is the mean over rows of the outputs times their weights, the targets."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = keras.ops.reshape(y_pred, (-1, y.shape[-1]))
        return keras.ops.mean(keras.ops.sum(y * outputs, axis=-1))


def shape_and_mask(model: keras.Model, x) -> tuple[tuple, bool]:
    """The shape of the outputs of the first row, and whether they have a mask.

    Raises:
        ValueError: For a model without weights to speak of, or inputs that are no arrays.
    """
    FlatParameters(model.trainable_variables)
    if any(not hasattr(leaf, "shape") for leaf in keras.tree.flatten(x)):
        raise ValueError(
            f"Expected inputs as arrays. Received: x of type {type(x).__name__}. Draw it into arrays first."
        )
    outputs = InInference(model)(keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf[:1]), x))
    return tuple(outputs.shape), has_mask(outputs)


class Means:
    """The outputs of a model for some inputs, at any point.

    Args:
        model: A built model with one output.
        x: What it takes, as arrays.
    """

    def __init__(self, model: keras.Model, x):
        self._rows = len(keras.tree.flatten(x)[0])
        self._residuals = residuals_of(objective_of(_Outputs(model, self._rows), (x,)))

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The outputs with the weights `x`, float64 of shape `(rows, outputs)`."""
        return self._residuals.values(x).reshape(self._rows, -1)

    @property
    def weights(self) -> np.ndarray:
        """The weights of the model, of shape `(n,)`."""
        return self._residuals.parameters.ravel()

    def product(self, p: np.ndarray) -> np.ndarray:
        """The derivative of the outputs along `p` of shape `(n,)`: of shape `(rows, outputs)`."""
        return self._residuals.product(self.weights, p).reshape(self._rows, -1)

    def transposed_product(self, r: np.ndarray) -> np.ndarray:
        """The derivative of the sum of `r` times the outputs, of their shape, in the weights: of shape `(n,)`."""
        return self._residuals.transposed_product(self.weights, np.ravel(r))

    def jacobian(self) -> np.ndarray:
        """The derivatives of the outputs at the weights of the model, of shape `(rows, outputs, n)`."""
        return self._residuals.jacobian(self.weights).reshape(self._rows, -1, self.weights.size)


def curvature(model: keras.Model, x, weights: np.ndarray) -> np.ndarray:
    """The Hessian of the sum of all outputs times `weights`, of shape `(rows, outputs)`: of shape `(n, n)`."""
    bound = objective_of(_WeightedSum(model), (x, weights))
    x = bound.parameters.ravel()
    return len(weights) * bound.hvps(x, np.eye(x.size))


class _Recorder(keras.optimizers.SGD):
    """Hands the loss and the gradients of a train step to the objective, as our optimizers do."""

    def scale_loss(self, loss):
        train_step.current_record().record_loss(loss)
        return loss

    def apply(self, grads, trainable_variables=None):
        train_step.current_record().record_gradients(grads, trainable_variables or self._trainable_variables)


def objective_of(model: InInference, data: tuple, loss=None) -> BoundObjective:
    """The loss of `data` as a function of the weights, in float64.

    Args:
        model: The model.
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
        loss: As `compile` takes it. Defaults to `None`: that of the model's `compute_loss`.
    """
    model.compile(optimizer=_Recorder(), loss=loss, jit_compile=False)
    x, y, sample_weight = (*data, None, None)[:3]
    rows = collect.of_fit(None, "auto", x, y, sample_weight, None, None, None)
    return bind(build(model, ObjectiveSettings(float64=True), rows), rows)
