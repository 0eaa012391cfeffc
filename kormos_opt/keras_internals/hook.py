"""The patches of `keras.Model`: its methods ask our optimizers first, and leave every other optimizer alone.

    compile                knows our optimizers by name, in any case
    make_train_function    lets the optimizer build the train function
    fit                    sets the data aside as one full batch, and runs the stock `fit` over empty batches; of a
                           chain `chained_fit.py` has one fit for each stage

The stock loop makes two iterators an epoch and calls the train function once a batch: 20 ms and more an epoch that no
evaluation needs. So it is given one empty batch for each epoch. Everything else of `fit` is Keras's own.

Three more methods work around defects of Keras under a strategy and in pickles; each says which.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import trainer as tensorflow_trainer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.trainer import Trainer
from keras.src.utils import io_utils

from kormos_opt.keras_internals import chained_fit, fit_callbacks, sklearn_fit
from kormos_opt.keras_internals.model import at_work, build, innermost, is_chain, is_ours, layers
from kormos_opt.keras_internals.tracing import replaced
from kormos_opt.keras_internals.version import check_version


def install(find: Callable, names: dict[str, type]) -> None:
    """Lets `keras.Model` ask optimizers that have a `make_train_function` of their own. Idempotent.

    Args:
        find: Called with the text of `compile(optimizer=text)`. Returns an optimizer of ours, or `None`.
        names: Optimizer classes by the names that `keras.optimizers.get` shall know.

    Raises:
        ImportError: For a version of Keras that was not tested. A development version is let through, if its methods
            take the arguments that we know.
    """
    keras.saving.get_custom_objects().update(names)
    if hasattr(TensorFlowTrainer.fit, "_kormos_opt_stock"):
        return
    check_version(keras.__version__)
    sklearn_fit.install()
    TensorFlowTrainer.make_train_function = _dispatching(TensorFlowTrainer.make_train_function, _make_train_function)
    TensorFlowTrainer.fit = _dispatching(TensorFlowTrainer.fit, _fit, innermost)
    TensorFlowTrainer.make_test_function = _dispatching(TensorFlowTrainer.make_test_function, _make_test_function)
    TensorFlowTrainer._maybe_symbolic_build = _dispatching(TensorFlowTrainer._maybe_symbolic_build, _symbolic_build)
    TensorFlowTrainer.__reduce__ = _dispatching(KerasSaveable.__reduce__, _reduce, innermost)
    Trainer.compile = _with_our_names(find, Trainer.compile)  # where `load_model` looks for it


def _with_our_names(find, stock):
    @functools.wraps(stock)
    def compile(model, optimizer="rmsprop", *args, **kwargs):
        if isinstance(optimizer, str):
            optimizer = find(optimizer) or optimizer
        if isinstance(optimizer, type) and is_ours(optimizer):
            raise ValueError(
                f"Expected an optimizer. Received: optimizer={optimizer.__name__}, which is its class. "
                f"Write optimizer={optimizer.__name__}()."
            )
        if hasattr(optimizer, "for_model"):
            optimizer = optimizer.for_model(model)
        return stock(model, optimizer, *args, **kwargs)

    return compile


def _dispatching(stock, ours, find_optimizer=at_work):
    @functools.wraps(stock)
    def method(model, *args, **kwargs):
        if model.compiled and is_ours(find_optimizer(model.optimizer)):
            return ours(stock, model, *args, **kwargs)
        return stock(model, *args, **kwargs)

    method._kormos_opt_stock = stock
    return method


def _reduce(stock, model):
    """Pickles with a name of this package in front, so that the process which unpickles imports it."""
    return _unpickle, stock(model)


def _unpickle(make, arguments):
    return make(*arguments)


def _make_train_function(stock, model, force=False):
    if force and getattr(model.train_function, "is_fitting", False):
        model.train_function.renew()
    elif model.train_function is None or force:
        _refuse_loss_scaling(model)
        model.train_function = model.optimizer.make_train_function(model)


def _refuse_loss_scaling(model):
    if model.optimizer is not innermost(model.optimizer):
        raise ValueError(
            "Expected a model without loss scaling: the solver needs the loss itself. Received: dtype policy "
            f"{model.dtype_policy.name!r}, for which compile() wrapped the optimizer in a LossScaleOptimizer. "
            'Use "mixed_bfloat16" or "float32", or compile(..., auto_scale_loss=False).'
        )


def _fit(stock, model, *args, **kwargs):
    call = inspect.signature(stock).bind(model, *args, **kwargs)
    sklearn_fit.complete(call.arguments)
    call.apply_defaults()
    arguments = call.arguments
    del arguments["self"]
    _refuse_loss_scaling(model)
    _split_validation(arguments)
    _remember_what_files_leave_out()
    if is_chain(model.optimizer):
        return chained_fit.fit(stock, _fit_full_batch, model, arguments)
    fit_callbacks.refuse_learning_rate_callbacks(arguments["callbacks"])
    history = _fit_full_batch(stock, model, arguments, fit_callbacks.callback_list)
    if arguments["verbose"]:
        for message in model.train_function.messages():
            io_utils.print_msg(message)
    return history


def _fit_full_batch(stock, model, arguments, callback_list):
    """An epoch of the stock loop is an iteration of a solver."""
    model.make_train_function()
    arguments, train_function = dict(arguments), model.train_function
    arguments["validation_batch_size"] = arguments["validation_batch_size"] or arguments["batch_size"]
    full_batch = train_function.collect(**{name: arguments.pop(name) for name in _DATA_ARGUMENTS})
    steps = model.steps_per_execution * full_batch.steps
    callbacks = callback_list(model, steps, **arguments)
    arguments["callbacks"] = callbacks
    epochs = arguments["epochs"] - arguments["initial_epoch"]
    with (
        fit_callbacks.for_epochs_with_a_row(callbacks, train_function),
        contextlib.nullcontext() if train_function.writes_files else fit_callbacks.without_files(callbacks),
        train_function.fitting(full_batch, epochs, fit_callbacks.row_shower(callbacks)),
    ):
        history = stock(model, x=_empty_batches(model), steps_per_epoch=steps, shuffle=False, **arguments)
    table = getattr(at_work(model.optimizer), "table", None)
    if table is not None:
        history.starts = table
    return history


_DATA_ARGUMENTS = ("x", "y", "sample_weight", "class_weight", "batch_size", "steps_per_epoch", "shuffle")


def _empty_batches(model):
    if model._distribute_strategy is None:
        return _endless()
    return model.distribute_strategy.distribute_datasets_from_function(lambda context: _endless())


@functools.cache
def _endless():
    """Made once: it takes as long as fifty iterations on a small problem."""
    with tf.init_scope():
        return tf.data.Dataset.from_tensors(0).repeat()


def _symbolic_build(stock, model, iterator=None, data_batch=None):
    """Under a strategy Keras builds from the mean of the parts of a batch, and fails where they differ in rows."""
    strategy = model._distribute_strategy
    is_fitting = getattr(model.train_function, "is_fitting", False)  # and has built it, of real batches
    if strategy is None or is_fitting or _is_built(model):
        return
    if data_batch is None:
        *_, batches = next(iter(iterator))
        data_batch = keras.tree.map_structure(
            lambda leaf: None if leaf is None else strategy.experimental_local_results(leaf)[0], next(batches)
        )
    build(model, data_batch)


def _is_built(model):
    compiled = [each for each in (model._compile_metrics, model._compile_loss) if each is not None]
    return all(layer.built for layer in layers(model)) and all(each.built for each in compiled)


def _make_test_function(stock, model, force=False):
    """With several workers Keras takes the mean of a scalar along its first axis, which it does not have."""
    if model.test_function is not None and not force:
        return
    stock(model, force)
    test_function = model.test_function
    if not isinstance(model._distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return

    def reducing(iterator):
        with replaced(tensorflow_trainer, "reduce_per_replica", _mean_over_replicas):
            return test_function(iterator)

    model.test_function = reducing


def _mean_over_replicas(stock, values, strategy, reduction):
    return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)


def _remember_what_files_leave_out():
    """Works around a leak in Keras: without this, every save makes an optimizer whose variable names TensorFlow never
    frees, 70 KB each."""
    skipset = saving_lib.get_attr_skipset("Optimizer")
    global_state.set_global_attribute("saving_attr_skiplist_Optimizer", skipset)


def _split_validation(arguments):
    if arguments["validation_split"] and arguments["validation_data"] is None:
        data = (arguments["x"], arguments["y"], arguments["sample_weight"])
        split = array_slicing.train_validation_split(data, validation_split=arguments["validation_split"])
        (arguments["x"], arguments["y"], arguments["sample_weight"]), arguments["validation_data"] = split
    arguments["validation_split"] = 0.0
