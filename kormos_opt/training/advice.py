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
_MUCH = 0.5  # of the weights, in frozen layers at the beginning
_STILL_INITIAL = 0.1  # of the moving statistics: more than that is worth a word
_ENOUGH = 0.01
_NAMED = 3


def on(model: keras.Model, iterations: int) -> dict[str, str | None]:
    """All of it, by topic.

    Args:
        model: The model.
        iterations: Those of the fit, and those before, 0 where nobody knows.
    """
    return {
        "dropout": on_dropout(model),
        "frozen": on_frozen_layers(model),
        "statistics": on_batch_normalization(model, iterations),
    }


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


def on_frozen_layers(model: keras.Model) -> str | None:
    """What to know about a model that begins with frozen layers which hold more than half of its weights, or `None`."""
    frozen = []
    for layer in model.layers:
        if layer.trainable_weights:
            break
        frozen.append(layer)
    held, whole = (sum(math.prod(weight.shape) for weight in each) for each in (_weights(frozen), model.weights))
    if len(frozen) == len(model.layers) or held <= _MUCH * whole:
        return None
    return (
        f"{held / whole:.0%} of the weights lie in frozen layers at the beginning of the model "
        f"({_listed([layer.name for layer in frozen if layer.weights])}), which every evaluation runs again. Compute "
        "their outputs once with predict, and fit a model of the other layers on them: examples/transfer.py."
    )


def _weights(layers):
    return [weight for layer in layers for weight in layer.weights]


def _listed(names):
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more layers" if more > 0 else "")


def _strength(layer):
    return max(getattr(layer, name, None) or 0 for name in _STRENGTHS)
