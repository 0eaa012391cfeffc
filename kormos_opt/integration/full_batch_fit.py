"""One fit of one of our optimizers: an epoch of the stock loop is an iteration of a solver.

The stock loop makes two iterators an epoch and calls the train function once a batch: 20 ms and more an epoch that no
evaluation needs. So the data is set aside as one full batch, and the stock `fit` runs over empty batches, one for each
epoch. Everything else of `fit` is Keras's own.
"""

import contextlib
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from kormos_opt.integration import fit_callbacks
from kormos_opt.keras_internals.model import strategy_of
from kormos_opt.optimizers.chain import current_optimizer

_DATA_ARGUMENTS = ("x", "y", "sample_weight", "class_weight", "batch_size", "steps_per_epoch", "shuffle")


def fit(stock: Callable, model: keras.Model, arguments: dict, callback_list: Callable) -> keras.callbacks.History:
    """The fit of the optimizer that is at work.

    Args:
        stock: Keras's `fit`.
        model: The model.
        arguments: All arguments of `fit`.
        callback_list: Called as `callback_list(model, steps, **arguments)` with those that are not of the data.
            Returns the list of callbacks.
    """
    model.make_train_function()
    arguments, train_function = dict(arguments), model.train_function
    arguments["validation_batch_size"] = arguments["validation_batch_size"] or arguments["batch_size"]
    full_batch = train_function.collect(**{name: arguments.pop(name) for name in _DATA_ARGUMENTS})
    steps = model.steps_per_execution  # one call of the train function
    callbacks = callback_list(model, steps, **arguments)
    arguments["callbacks"] = callbacks
    epochs = arguments["epochs"] - arguments["initial_epoch"]
    with (
        fit_callbacks.for_epochs_with_a_row(callbacks, train_function),
        contextlib.nullcontext() if train_function.writes_files else fit_callbacks.without_files(callbacks),
        train_function.fitting(full_batch, epochs, fit_callbacks.row_shower(callbacks)),
    ):
        history = stock(model, x=_empty_batches(model), steps_per_epoch=steps, shuffle=False, **arguments)
    table = getattr(current_optimizer(model.optimizer), "table", None)
    if table is not None:
        history.starts = table
    return history


def _empty_batches(model):
    if strategy_of(model) is None:
        return _endless()
    return model.distribute_strategy.distribute_datasets_from_function(lambda context: _endless())


@functools.cache
def _endless():
    """Made once: it takes as long as fifty iterations on a small problem."""
    with tf.init_scope():
        return tf.data.Dataset.from_tensors(0).repeat()
