"""What a fit tells its user about the model before it starts: once, and with what to do."""

import math

import keras

from kormos_opt.keras_internals import model as keras_model

_RANDOM = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SimpleRNNCell,
    keras.layers.GRUCell,
    keras.layers.LSTMCell,
)
_STRENGTHS = ("rate", "stddev", "dropout", "recurrent_dropout")
_STILL_INITIAL = 0.1  # of the moving statistics: more than that is worth a word
_ENOUGH = 0.01
_NAMED = 3


def on_dropout(model: keras.Model) -> str | None:
    """What to know about layers that draw at random in training, or `None` if there are none."""
    names = [layer.name for layer in keras_model.layers(model) if isinstance(layer, _RANDOM) and _strength(layer) > 0]
    if not names:
        return None
    return (
        f"Dropout or noise in {_listed(names)}: its mask stands still during a fit, so that the loss is a function of "
        "the weights. It does not regularize here. Set its rate to 0 and use kernel_regularizer= or early stopping."
    )


def on_batch_normalization(model: keras.Model, iterations: int) -> str | None:
    """What to know about moving statistics that so many iterations do not bring up to date, or `None`.

    Args:
        model: The model.
        iterations: Those of the fit, and those before.
    """
    slow = [
        layer
        for layer in keras_model.layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and layer.momentum**iterations > _STILL_INITIAL
    ]
    if not slow or iterations < 1:
        return None
    share = max(layer.momentum for layer in slow) ** iterations
    better = math.floor(100 * _ENOUGH ** (1 / iterations)) / 100
    return (
        f"BatchNormalization in {_listed([layer.name for layer in slow])}: its moving statistics advance once per "
        f"iteration. After {iterations} of them {share:.0%} is still their initial value, which predict and evaluate "
        f"will use. Give the layer momentum={better}."
    )


def _listed(names):
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more layers" if more > 0 else "")


def _strength(layer):
    return max(getattr(layer, name, None) or 0 for name in _STRENGTHS)
