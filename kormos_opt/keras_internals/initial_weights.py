"""Fresh initial weights of a built model, as its layers draw them."""

import keras

from kormos_opt.keras_internals.model import layers


def draw(model: keras.Model, start: int) -> None:
    """Gives the trainable weights other initial values: every layer is made anew from its configuration.

    Args:
        model: A built model.
        start: Added to the seeds that initializers were given, which would draw the same values again.

    Raises:
        ValueError: For a layer, or a model with weights of its own, that cannot be made from its configuration.
    """
    trainable = {id(variable) for variable in model.trainable_variables}
    for layer in layers(model):
        variables = layer._trainable_variables
        if any(id(variable) in trainable for variable in variables):
            for variable, fresh in zip(variables, _made_anew(layer, start)._trainable_variables, strict=True):
                if id(variable) in trainable:
                    variable.assign(fresh)


def _made_anew(layer, start):
    try:
        copy = type(layer).from_config(_with_other_seeds(layer.get_config(), start))
        if not copy.built or not copy._trainable_variables:
            copy.build_from_config(layer.get_build_config())
        return copy
    except Exception as error:
        raise ValueError(
            "Expected layers that can be made again from get_config() to draw fresh initial weights. Received: "
            f"{layer.name!r}, a {type(layer).__name__}, which raises {type(error).__name__}. Pass initialize=, a "
            "function of the model and the number of the start that assigns the weights."
        ) from error


def _with_other_seeds(config, start):
    if isinstance(config, dict):
        return {
            name: value + start
            if name == "seed" and isinstance(value, int) and not isinstance(value, bool)
            else _with_other_seeds(value, start)
            for name, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_other_seeds(each, start) for each in config)
    return config
