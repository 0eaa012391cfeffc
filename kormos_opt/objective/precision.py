"""Evaluates a float32 model in double precision: its layers compute in float64, its weights stay as they are.

L-BFGS compares values of the loss that differ less and less. In float32 the comparison drowns in rounding long
before the optimum, the usual reason why such fits "stop after a few iterations". So the layers read float64 numbers in
place of their weights: the point x itself, of which the weights are the rounded copy.
"""

import contextlib

import keras
import ml_dtypes
import tensorflow as tf

from kormos_opt.keras_internals import float64
from kormos_opt.keras_internals import model as keras_model


class _Float64Compute(keras.DTypePolicy):
    """Computes in float64 with variables of the dtype that `policy` gave them."""

    def __init__(self, policy):
        super().__init__("float64")
        self._variable_dtype = policy.variable_dtype


def compute_dtype(model: keras.Model) -> str:
    """The coarsest floating dtype that the layers with weights compute in."""
    layers = [layer for layer in keras_model.layers(model) if layer.weights and not isinstance(layer, keras.Model)]
    dtypes = {layer.compute_dtype for layer in layers or [model]}
    return max(filter(keras.backend.is_float_dtype, dtypes), key=resolution)


def resolution(dtype: str) -> float:
    """The machine epsilon of `dtype`."""
    return float(ml_dtypes.finfo(dtype).eps)


def in_float64(batch):
    """A batch with its floating tensors cast to float64, for losses and train steps that compute with them."""

    def cast(leaf):
        floating = leaf is not None and leaf.dtype.is_floating
        return tf.cast(leaf, tf.float64) if floating else leaf

    return keras.tree.map_structure(cast, batch)


@contextlib.contextmanager
def explained():
    """Inside, an error about float32 beside float64 says where such numbers come from, and what to do."""
    try:
        yield
    except _RefusedLayerError:
        raise
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        if not _mixes_floats(str(error)):
            raise
        raise ValueError(
            'Expected a train step and a loss that compute in float64 for precision="float64". Received: a float32 '
            f"tf.Variable or constant beside float64 numbers ({str(error).strip().splitlines()[0]}). Cast it to the "
            "dtype of what it meets, tf.cast(value, y_pred.dtype), or make it a weight, self.add_weight(...), inside a "
            'layer; or use precision="model".'
        ) from error


def _mixes_floats(message):
    return ("float64" in message or "double" in message) and ("float32" in message or "float tensor" in message)


def check_loss(loss) -> None:
    """Raises `ValueError` for a loss that is not float64 where the objective shall be."""
    if loss.dtype != tf.float64:
        raise ValueError(
            f"Expected a loss in float64. Received: a loss of dtype {loss.dtype.name} from the model's loss or "
            'train step. Let it compute in the dtype of the predictions, or use precision="model".'
        )


@contextlib.contextmanager
def float64_compute(model: keras.Model, substitutes=()):
    """Inside, `model` and its losses compute in float64; afterwards they have their own dtypes again.

    Args:
        model: The model.
        substitutes: Pairs of a variable and the float64 tensor that layers read in its place. Defaults to none.

    Raises:
        ValueError: For a layer that does not compute in float64. It is named.
    """
    changed = [
        (layer, layer.dtype_policy)
        for layer in keras_model.layers(model)
        if keras.backend.is_float_dtype(layer.compute_dtype) and layer.compute_dtype != "float64"
    ]
    for layer, _ in changed:
        if layer.quantization_mode is not None:
            _refuse(layer)
    try:
        for layer, policy in changed:
            layer.dtype_policy = _Float64Compute(policy)
        with float64.reading_float64(model, substitutes, _as_float64, _refuse_mixed):
            yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


_ENCODING = (
    keras.layers.CategoryEncoding,
    keras.layers.Discretization,
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
"""Layers that make codes and counts, which float32 holds exactly: their outputs may be cast."""


def _as_float64(layer, outputs):
    """The outputs of a layer that computes in float64.

    Raises:
        ValueError: For outputs in another precision, whose digits are lost.
    """

    def checked(output):
        dtype = keras.backend.standardize_dtype(getattr(output, "dtype", "float64"))
        if not keras.backend.is_float_dtype(dtype) or dtype == "float64" or layer.compute_dtype != "float64":
            return output
        if not isinstance(layer, _ENCODING):
            _refuse(layer)
        return tf.cast(output, tf.float64)

    return keras.tree.map_structure(checked, outputs)


def _refuse_mixed(layer, error):
    mixed = "float" in str(error) or "double" in str(error)
    if layer.compute_dtype == "float64" and mixed and not isinstance(error, _RefusedLayerError):
        _refuse(layer, error)


class _RefusedLayerError(ValueError):
    """Names the innermost layer on its way out through the layers around it."""


def _refuse(layer, error=None):
    raise _RefusedLayerError(
        'Expected layers that compute in float64 for precision="float64". '
        f'Received: layer {layer.name!r} ({type(layer).__name__}), which does not. Use precision="model".'
    ) from error
