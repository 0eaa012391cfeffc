"""What other modules need to know of a Keras model, where Keras has no public name for it."""

import contextlib

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.models.functional import Functional
from keras.src.trainers.trainer import Trainer


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """The `tf.distribute` strategy that the model was made under, `None` if there was none."""
    return model._distribute_strategy


def build(model: keras.Model, batch) -> None:
    """Makes the variables of the model, its metrics and its optimizer, as a strategy needs them before the first step.

    Args:
        model: A compiled model, made under a strategy.
        batch: A batch, or the specifications of its tensors; with any number of rows.
    """
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=keras.tree.map_structure(any_rows, batch))


def any_rows(leaf):
    """What to trace a batch for: the dtype and shape of `leaf` with any number of rows."""
    if not isinstance(leaf, tf.Tensor) or leaf.shape.rank == 0:
        return leaf
    return tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)


@contextlib.contextmanager
def compiled_with(model: keras.Model, optimizer):
    """Inside, the train step of `model` talks to `optimizer`, whatever the model is compiled with."""
    usual = model.optimizer
    model.optimizer = optimizer
    try:
        yield
    finally:
        model.optimizer = usual


def innermost(optimizer):
    """The optimizer itself, or the one that Keras wrapped for `mixed_float16`."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def layers(model: keras.Model) -> list[keras.Layer]:
    """The model and all layers inside it, at any depth."""
    return list(model._flatten_layers())


def tensorflow_variables(variable: keras.Variable) -> list[tf.Variable]:
    """What holds the value of a variable: under a strategy one for each replica here."""
    value = variable if isinstance(variable, tf.Variable) else variable.value
    return [value, *value.values] if isinstance(value, tf.distribute.DistributedValues) else [value]


def names_of_compiled_metrics(model: keras.Model) -> list[str]:
    """The names of the metrics that `compile` was given, once they are built."""
    compiled = model._compile_metrics
    return [metric.name for metric in compiled.metrics] if compiled is not None and compiled.built else []


def variables_in_attributes(model: keras.Model) -> list[tf.Variable]:
    """TensorFlow's variables that the model and its layers hold as attributes, beside Keras's."""
    values = [value for layer in layers(model) for value in vars(layer).values()]
    return [value for value in values if isinstance(value, tf.Variable)]


def has_stock_train_step(model: keras.Model) -> bool:
    """Whether the model trains with Keras's own `train_step`."""
    return type(model).train_step is TensorFlowTrainer.train_step


def has_own_loss(model: keras.Model) -> bool:
    """Whether the loss is more than Keras's own computation of it says: a custom step, `compute_loss` or `add_loss`."""
    is_stock = has_stock_train_step(model) and type(model).compute_loss is Trainer.compute_loss
    return not is_stock or any(layer._losses for layer in layers(model))


def has_known_rows(model: keras.Model) -> bool:
    """Whether all of the model is Keras's own, made of layers that treat every row by itself."""
    plain = keras.Sequential.call, Functional.call
    inside = [each for each in layers(model) if isinstance(each, Functional)]
    operations = [operation for each in inside for operation in each.operations]
    own = [each for each in layers(model) if type(each).call not in plain]
    return (
        type(model).call in plain
        and all(isinstance(operation, keras.Layer) for operation in operations)
        and all(_treats_rows_alone(layer) for layer in own)
    )


def _treats_rows_alone(layer):
    """Whether this is a layer of Keras with functions of Keras, along other axes than that of the rows."""
    functions = [layer, getattr(layer, "activation", None), getattr(layer, "recurrent_activation", None)]
    modules = [getattr(each, "__module__", type(each).__module__) for each in functions if each is not None]
    axes = keras.tree.flatten(getattr(layer, "axis", None) or -1 if getattr(layer, "axis", None) != 0 else 0)
    is_named = all(module.startswith("keras.") for module in modules) and not isinstance(layer, keras.layers.Lambda)
    return is_named and all(not isinstance(axis, int) or axis == -1 or axis > 0 for axis in axes)


def function_of_loss(loss: keras.losses.Loss) -> tuple:
    """The function that a loss of Keras wraps, and its arguments; `None` and none for a loss of another kind."""
    return getattr(loss, "fn", None), getattr(loss, "_fn_kwargs", {})


def are_probabilities(outputs) -> bool:
    """Whether these are the outputs of a sigmoid or a softmax of Keras."""
    return hasattr(outputs, "_keras_logits")


def fixed_batch(model: keras.Model) -> int | None:
    """The rows that a batch of the model must have, where layers have a state for each row; `None` for any number."""
    if not any(getattr(layer, "stateful", False) for layer in layers(model)):
        return None
    sizes = {each.shape[0] for each in getattr(model, "inputs", None) or [] if len(each.shape)}
    return next((size for size in sizes if size is not None), None)


def is_random_augmentation(layer: keras.Layer) -> bool:
    """Whether it is one of Keras's layers that change images or spectra at random in training."""
    return type(layer).__module__.startswith("keras.src.layers.preprocessing") and hasattr(layer, "generator")


def has_mask(outputs) -> bool:
    """Whether a layer has told which entries of its outputs are valid."""
    return getattr(outputs, "_keras_mask", None) is not None
