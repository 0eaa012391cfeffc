"""A model of any precision that computes in float64 for a while, its weights as they are."""

import contextlib

import keras
from keras.src.backend import AutocastScope, get_autocast_scope

from kormos_opt.keras_internals.replaced import replaced


class _Float64Scope(AutocastScope):
    """Casts variables that are read to float64, or puts a tensor in their place."""

    def __init__(self, substitutes):
        super().__init__("float64")
        self._substitutes = {id(variable.value): tensor for variable, tensor in substitutes}

    def maybe_cast(self, value):
        return self._substitutes[id(value)] if id(value) in self._substitutes else super().maybe_cast(value)


@contextlib.contextmanager
def reading_float64(model: keras.Model, substitutes, on_output, on_error):
    """Inside, layers, losses and penalties read variables as float64, and losses are not cast to `floatx()`.

    Args:
        model: The model.
        substitutes: Pairs of a variable and the float64 tensor that is read instead of it.
        on_output: Called as `on_output(layer, outputs)` after every call of a layer. Returns the outputs.
        on_error: Called as `on_error(layer, error)` after every failed call of a layer.
    """
    scope = _Float64Scope(substitutes)

    def call_loss(stock, loss, *args, **kwargs):
        with _dtype_of(loss):
            return stock(loss, *args, **kwargs)

    def call_layer(stock, layer, *args, **kwargs):
        try:
            with scope if get_autocast_scope() is None else contextlib.nullcontext():
                outputs = stock(layer, *args, **kwargs)
        except Exception as error:
            on_error(layer, error)
            raise
        return on_output(layer, outputs)

    def penalties(stock, layer):
        with scope:
            return stock(layer)

    with (
        _casting_everything(model),
        replaced(keras.Layer, "__call__", call_layer),
        replaced(keras.Layer, "_get_regularization_losses", penalties),
        replaced(keras.losses.Loss, "__call__", call_loss),
        _dtype_of(model._compile_loss),
    ):
        yield


@contextlib.contextmanager
def _casting_everything(model):
    """Inside, the layers and variables that Keras leaves out of casting (normalization, embeddings) take part in it."""
    silent_layers = [layer for layer in model._flatten_layers() if not layer.autocast]
    silent_variables = [variable for variable in model.variables if not variable._autocast]
    try:
        for layer in silent_layers:
            layer.autocast = True
        for variable in silent_variables:
            variable._autocast = True
        yield
    finally:
        for layer in silent_layers:
            layer.autocast = False
        for variable in silent_variables:
            variable._autocast = False


@contextlib.contextmanager
def _dtype_of(loss):
    if loss is None:
        yield
        return
    dtype, loss._dtype = loss._dtype, "float64"
    try:
        yield
    finally:
        loss._dtype = dtype
