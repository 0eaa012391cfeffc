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


def collect(model: keras.Model, iterations: int, captured) -> dict[str, str | None]:
    """All of it, by topic.

    Args:
        model: The model.
        iterations: How many there will be with this fit, 0 where nobody knows.
        captured: What f depends on beside the weights, a `CapturedVariables`.
    """
    layers_that_draw = {"dropout": on_dropout(model), "augmentation": on_augmentation(model)}
    is_other = captured.is_random and not any(layers_that_draw.values())
    return {
        **layers_that_draw,
        "random": on_random_operations(captured.random_operations, is_other),
        "variables": on_foreign_variables(captured.foreign_names(model)),
        "frozen": on_frozen_layers(model),
        "statistics": on_batch_normalization(model, iterations),
    }


def on_dropout(model: keras.Model) -> str | None:
    """What to know about layers that draw at random in training, or `None` if there are none."""
    layers = keras_model.layers(model)
    names = [layer.name for layer in layers if isinstance(layer, _RANDOM) and _strength(layer) > 0]
    if not names:
        return None
    return (
        f"Dropout or noise in {_listed(names)}: its mask stands still during a fit, so that the loss is a function of "
        "the weights. It does not regularize here. Set its rate to 0 and use kernel_regularizer= or early stopping."
    )


def on_augmentation(model: keras.Model) -> str | None:
    """What to know about layers that change their inputs at random in training, or `None` if there are none."""
    names = [layer.name for layer in keras_model.layers(model) if keras_model.is_random_augmentation(layer)]
    if not names:
        return None
    return (
        f"Random augmentation in {_listed(names)}: what it draws stands still during a fit, so that the loss is a "
        "function of the weights. It adds no new data here. Augment the data before fit, or leave the layers out."
    )


def on_random_operations(kinds: list[str], draws: bool) -> str | None:
    """What to know about random numbers that no layer of Keras draws, or `None` if there are none.

    Args:
        kinds: The kinds of operations that draw other numbers in every call, such as `RandomUniform`.
        draws: Whether any numbers are drawn.
    """
    if not kinds and draws:
        return (
            "The loss draws random numbers from a generator with a state, which stands still during a fit, so that the "
            "loss is a function of the weights. kormos_opt.callbacks.ResampleData draws new ones in between."
        )
    if not kinds:
        return None
    return (
        f"The loss draws other random numbers in every evaluation ({_listed(kinds)}), so it is no function of the "
        "weights and no solver converges. Draw the numbers before fit, or with keras.random and a "
        "keras.random.SeedGenerator of the model; kormos_opt.callbacks.ResampleData gives new ones in between."
    )


def on_foreign_variables(names: list[str]) -> str | None:
    """What to know about trainable variables that the loss reads and the model does not own, or `None`.

    Args:
        names: Their names.
    """
    if not names:
        return None
    return (
        f"The loss reads {_listed(names)}, a trainable tf.Variable that is no weight of the model: the solver leaves "
        "it as it is. Make it a weight, self.name = self.add_weight(shape=(), name=...), or give it trainable=False."
    )


def on_batch_normalization(model: keras.Model, iterations: int) -> str | None:
    """What to know about moving statistics that so many iterations do not bring up to date, or `None`.

    Args:
        model: The model.
        iterations: How many there will be with this fit.
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
        if not layer.trainable:  # `Normalization` and its like have weights that nobody trains
            frozen.append(layer)
    held, whole = (sum(math.prod(weight.shape) for weight in each) for each in (_weights(frozen), model.weights))
    if not model.trainable_weights or held <= _MUCH * whole:
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
