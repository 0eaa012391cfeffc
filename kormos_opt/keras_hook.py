"""The one place that touches Keras's inner surface. `tests/test_keras_contract.py` tests each fact it relies on.

Two methods of `keras.Model` ask our optimizers first, and leave every other optimizer alone (`compile` only learns to
read their names in any case):

* `make_train_function` lets the optimizer build the train function;
* `fit` sets the training data aside as one full batch and runs the stock `fit` over a data set of empty batches, one
  for each epoch. The stock loop makes two iterators an epoch and calls the train function once a
  batch: 20 ms and more an epoch that no evaluation needs. Everything else of `fit` is Keras's own.

The rest of the file gives names to what other modules need of Keras: layers, losses, batches, printing.
"""

import contextlib
import functools
import inspect
import threading
import types

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope, get_autocast_scope
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import nn as tensorflow_nn
from keras.src.backend.tensorflow import trainer as tensorflow_trainer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.losses import loss as loss_module
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter
from keras.src.trainers.trainer import Trainer
from keras.src.utils import io_utils
from tensorflow.python.distribute.input_ops import auto_shard_dataset


def install(names: dict[str, type]) -> None:
    """Lets `keras.Model` ask optimizers that have a `make_train_function` of their own. Idempotent.

    Args:
        names: Optimizer classes by the names that `compile(optimizer=name)` shall know, in any case.
    """
    keras.saving.get_custom_objects().update(names)
    if not hasattr(TensorFlowTrainer.fit, "_kormos_opt_stock"):
        TensorFlowTrainer.make_train_function = _asking(TensorFlowTrainer.make_train_function, _make_train_function)
        TensorFlowTrainer.fit = _asking(TensorFlowTrainer.fit, _fit)
        TensorFlowTrainer.make_test_function = _asking(TensorFlowTrainer.make_test_function, _make_test_function)
        TensorFlowTrainer._maybe_symbolic_build = _asking(TensorFlowTrainer._maybe_symbolic_build, _symbolic_build)
        TensorFlowTrainer.__reduce__ = _asking(KerasSaveable.__reduce__, _reduce)
        Trainer.compile = _knowing(names, Trainer.compile)  # where `load_model` looks for it


def _knowing(names, stock):
    @functools.wraps(stock)
    def compile(model, optimizer="rmsprop", *args, **kwargs):
        if isinstance(optimizer, str) and optimizer.lower() in names:
            optimizer = optimizer.lower()
        if isinstance(optimizer, type) and hasattr(optimizer, "make_train_function"):
            raise ValueError(
                f"Expected an optimizer. Received: optimizer={optimizer.__name__}, which is its class. "
                f"Write optimizer={optimizer.__name__}()."
            )
        return stock(model, optimizer, *args, **kwargs)

    return compile


def _asking(stock, ours):
    @functools.wraps(stock)
    def method(model, *args, **kwargs):
        if model.compiled and hasattr(_innermost(model.optimizer), "make_train_function"):
            return ours(stock, model, *args, **kwargs)
        return stock(model, *args, **kwargs)

    method._kormos_opt_stock = stock
    return method


def _reduce(stock, model):
    """Pickles with a name of this package in front, so that the process which unpickles imports it."""
    return _unpickle, stock(model)


def _unpickle(make, arguments):
    return make(*arguments)


def _innermost(optimizer):
    """The optimizer itself, or the one that Keras wrapped for `mixed_float16`."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _make_train_function(stock, model, force=False):
    if force and getattr(model.train_function, "is_fitting", False):
        model.train_function.renew()
    elif model.train_function is None or force:
        if model.optimizer is not _innermost(model.optimizer):
            raise ValueError(
                "Expected a model without loss scaling: the solver needs the loss itself. Received: dtype policy "
                f"{model.dtype_policy.name!r}, for which compile() wrapped the optimizer in a LossScaleOptimizer. "
                'Use "mixed_bfloat16" or "float32", or compile(..., auto_scale_loss=False).'
            )
        model.train_function = model.optimizer.make_train_function(model)


def _fit(stock, model, *args, **kwargs):
    call = inspect.signature(stock).bind(model, *args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    _refuse_learning_rate_callbacks(arguments["callbacks"])
    _split_validation(arguments)
    _remember_what_files_leave_out()
    model.make_train_function()
    train_function = model.train_function
    arguments["validation_batch_size"] = arguments["validation_batch_size"] or arguments["batch_size"]
    full_batch = train_function.collect(**{name: arguments.pop(name) for name in _DATA_ARGUMENTS})
    steps = model.steps_per_execution * full_batch.steps
    callbacks = _callback_list(model, steps, **arguments)
    arguments["callbacks"] = callbacks
    call = inspect.signature(stock).bind(x=_empty_batches(model), steps_per_epoch=steps, shuffle=False, **arguments)
    epochs = arguments["epochs"] - arguments["initial_epoch"]
    with (
        _for_epochs_with_a_row(callbacks, train_function),
        contextlib.nullcontext() if train_function.writes_files else _without_files(callbacks),
        train_function.fitting(full_batch, epochs, _row_shower(callbacks)),
    ):
        history = stock(*call.args, **call.kwargs)
    for message in train_function.messages():
        if arguments["verbose"]:
            io_utils.print_msg(message)
    return history


def _callback_list(model, steps, callbacks, verbose, epochs, **_):
    """The callbacks as `fit` itself would put them together."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )


@contextlib.contextmanager
def _for_epochs_with_a_row(callbacks, train_function):
    """Inside, callbacks do not hear of the end of an epoch in which the solver has ended without an iterate.

    History, CSVLogger, EarlyStopping and checkpoints would all take the row before for a new one.
    """
    stock = callbacks.on_epoch_end

    def on_epoch_end(epoch, logs=None):
        if not train_function.has_no_row:
            stock(epoch, logs)
            return
        for callback in callbacks.callbacks:
            if isinstance(callback, keras.callbacks.ProgbarLogger):
                callback.on_epoch_end(epoch, logs)

    callbacks.on_epoch_end = on_epoch_end
    try:
        yield
    finally:
        del callbacks.on_epoch_end


def _row_shower(callbacks):
    """Shows the rows of an epoch so far in the progress bar, if there is one; else `None`."""
    for logger in callbacks.callbacks:
        if isinstance(logger, keras.callbacks.ProgbarLogger) and logger.verbose == 1:
            return functools.partial(_show_rows, logger)
    return None


def _show_rows(logger, rows):
    if logger.progbar is not None:
        if logger.progbar.stateful_metrics is not None:
            logger.progbar.stateful_metrics.add("rows")
        logger.progbar.update(logger.seen, [("rows", rows)], finalize=False)


_DATA_ARGUMENTS = ("x", "y", "sample_weight", "class_weight", "batch_size", "steps_per_epoch", "shuffle")


def _empty_batches(model):
    batches = tf.data.Dataset.from_tensors(0).repeat()
    if model._distribute_strategy is None:
        return batches
    return model.distribute_strategy.distribute_datasets_from_function(lambda context: batches)


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
        with _replaced(tensorflow_trainer, "reduce_per_replica", _mean_over_replicas):
            return test_function(iterator)

    model.test_function = reducing


def _mean_over_replicas(stock, values, strategy, reduction):
    return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)


def _refuse_learning_rate_callbacks(callbacks):
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        if isinstance(callback, (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)):
            raise ValueError(
                "Expected callbacks that leave the learning rate alone: a line search chooses every step length. "
                f"Received: callbacks with a {type(callback).__name__}. Remove it."
            )


def _remember_what_files_leave_out():
    """Keras keeps this set under one name and looks for it under another, so it makes an optimizer at every save, for
    whose variables' names TensorFlow keeps 70 KB for ever."""
    skipset = saving_lib.get_attr_skipset("Optimizer")
    global_state.set_global_attribute("saving_attr_skiplist_Optimizer", skipset)


@contextlib.contextmanager
def _without_files(callbacks):
    """Inside, callbacks write no files: those of all workers but the first would write to the same places."""
    usual = callbacks.callbacks
    writers = [
        callback
        for callback in usual
        if isinstance(callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore))
    ]
    before = [(callback, getattr(callback, "delete_checkpoint", None)) for callback in writers]
    for callback in writers:
        callback._save_model = lambda *arguments, **keywords: None
        callback.delete_checkpoint = False
    loggers = keras.callbacks.CSVLogger, keras.callbacks.TensorBoard
    callbacks.callbacks = [callback for callback in usual if not isinstance(callback, loggers)]
    try:
        yield
    finally:
        callbacks.callbacks = usual
        for callback, delete_checkpoint in before:
            del callback._save_model, callback.delete_checkpoint
            if delete_checkpoint is not None:
                callback.delete_checkpoint = delete_checkpoint


def _split_validation(arguments):
    if arguments["validation_split"] and arguments["validation_data"] is None:
        data = (arguments["x"], arguments["y"], arguments["sample_weight"])
        split = array_slicing.train_validation_split(data, validation_split=arguments["validation_split"])
        (arguments["x"], arguments["y"], arguments["sample_weight"]), arguments["validation_data"] = split
    arguments["validation_split"] = 0.0


def whole_arrays(x, y, sample_weight, class_weight):
    """The training data of `fit` as one batch of numpy arrays, or `None` if they are not plain dense arrays."""
    if not array_data_adapter.can_convert_arrays((x, y, sample_weight)):
        return None
    leaves = [leaf for leaf in keras.tree.flatten((x, y, sample_weight)) if leaf is not None]
    dense = all(hasattr(leaf, "shape") and not _is_sparse(leaf) for leaf in leaves)
    if not leaves or not dense or leaves[0].shape[0] == 0:
        return None
    adapter = get_data_adapter(x, y, sample_weight, batch_size=leaves[0].shape[0], class_weight=class_weight)
    return next(iter(adapter.get_numpy_iterator()))


def array_rows(x) -> int | None:
    """The rows of arrays, `None` for data of another kind."""
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    return leaves[0].shape[0] if leaves and array_data_adapter.can_convert_arrays((x,)) else None


def _is_sparse(array):
    return isinstance(array, (tf.SparseTensor, tf.RaggedTensor)) or hasattr(array, "tocoo")


_AS_THEY_ARE = (tf.data.experimental.AutoShardPolicy.OFF, tf.data.experimental.AutoShardPolicy.FILE)


class Batches:
    """The batches of one epoch that this process has to see, as often as they are asked for, read ahead by two.

    With several workers they are the shard of this one: some of the files, or every so many elements, as the
    `AutoShardPolicy` of the data set says. Of fewer elements than workers each one takes a part of the rows.

    Args:
        replicas: Those of the model's strategy, `None` if it has none.
        **data: The data arguments of `fit`.

    Raises:
        ValueError: If they never end.
    """

    def __init__(self, replicas, x, y, sample_weight, class_weight, batch_size, steps_per_epoch):
        self._replicas = replicas
        self._steps = steps_per_epoch
        self._has_few = False
        self._iterator = TFEpochIterator(
            x=x,
            y=y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,
            distribute_strategy=self,
        )
        if steps_per_epoch is None and _is_infinite(x):
            raise ValueError(
                "Expected data with an end: the objective is a sum over all of it. "
                "Received: an infinite data set and steps_per_epoch=None. "
                "Pass steps_per_epoch=, or leave out .repeat()."
            )

    def experimental_distribute_dataset(self, dataset):
        """What Keras asks of a strategy: here, the shard of this process."""
        if self._replicas is not None and self._replicas.workers > 1:
            if self._steps is not None:
                dataset = dataset.take(self._steps)
            policy = dataset.options().experimental_distribute.auto_shard_policy
            few = 0 < int(dataset.cardinality()) < self._replicas.workers
            self._has_few = few and policy not in _AS_THEY_ARE
            if not self._has_few:
                dataset = auto_shard_dataset(dataset, self._replicas.workers, self._replicas.worker)
        return dataset.prefetch(2)

    def __iter__(self):
        self._iterator.reset()
        is_whole = False
        try:
            for *_, iterator in self._iterator:
                try:
                    batch = next(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    break
                yield from self._local(batch)
            else:
                is_whole = True
        finally:
            if not is_whole:  # Keras stops the workers of a PyDataset at the end of an epoch only
                self._iterator.reset()

    def no_rows(self):
        """A batch without rows, of the dtypes and inner shapes of the others."""

        def zeros(spec):
            return tf.zeros([0, *(size or 1 for size in spec.shape[1:])] if spec.shape.rank else [], spec.dtype)

        return keras.tree.map_structure(zeros, self._iterator._distributed_dataset.element_spec)

    def _local(self, batch):
        """The batches of the replicas of this process, if the data set came distributed."""
        if any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in keras.tree.flatten(batch)):
            parts = self._replicas.parts(batch)
        else:
            parts = [self._replicas.share(batch, int(rows_of(batch))) if self._has_few else batch]
        return [part for part in parts if rows_of(part) > 0]


def _is_infinite(x):
    if isinstance(x, tf.data.Dataset):
        return int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
    return isinstance(x, keras.utils.PyDataset) and x.num_batches is None


def can_be_read_again(x) -> bool:
    """Whether the training data is there for a second pass. A generator is used up by the first."""
    return not isinstance(x, types.GeneratorType)


def rows_of(batch) -> tf.Tensor:
    """The number of rows of a batch, counted in the first input that has rows."""
    return tf.shape(_with_rows(batch))[0]


def has_rows(batch) -> bool:
    """Whether this is a batch of data, and not one of the empty ones that `fit` hands to the stock loop."""
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    return any(len(getattr(leaf, "shape", ())) for leaf in leaves)


def known_rows_of(batch) -> int:
    """`rows_of`, for a batch whose shapes are known while a graph is traced."""
    return _with_rows(batch).shape[0]


def _with_rows(batch):
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    leaves = [leaf for leaf in keras.tree.flatten(x) if leaf is not None]
    return next((leaf for leaf in leaves if len(leaf.shape)), leaves[0])


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


def layers(model: keras.Model) -> list[keras.Layer]:
    """The model and all layers inside it, at any depth."""
    return list(model._flatten_layers())


def tensorflow_variables(variable: keras.Variable) -> list[tf.Variable]:
    """What holds the value of a variable: under a strategy one for each replica here."""
    value = variable.value
    return [value, *value.values] if isinstance(value, tf.distribute.DistributedValues) else [value]


def names_of_compiled_metrics(model: keras.Model) -> list[str]:
    """The names of the metrics that `compile` was given, once they are built."""
    compiled = model._compile_metrics
    return [metric.name for metric in compiled.metrics] if compiled is not None and compiled.built else []


def variables_in_attributes(model: keras.Model) -> list[tf.Variable]:
    """TensorFlow's variables that the model and its layers hold as attributes, beside Keras's."""
    values = [value for layer in layers(model) for value in vars(layer).values()]
    return [value for value in values if isinstance(value, tf.Variable)]


def flat_call(function: tf.types.experimental.ConcreteFunction):
    """Calls `function` with flat tensors, past the matching of arguments, which takes as long as a small evaluation."""
    captured = function.captured_inputs
    return lambda *tensors: function._call_flat(list(tensors), captured)


@contextlib.contextmanager
def corrected_losses(model: keras.Model, reduce):
    """Inside, losses outside of metrics and of other losses are reduced by `reduce`.

    Args:
        model: The model, whose metrics keep the losses that they call as they are.
        reduce: Called as `reduce(stock, loss, y_true, y_pred, values, sample_weight, mask)`. `values` is what
            `loss.call` has returned. `stock` is Keras's reduction, called as `stock(values, sample_weight, mask,
            reduction)`.
    """
    outer = []  # the calls that run, of losses (their arguments) and of metrics (None)

    def call_loss(stock, loss, y_true, y_pred, sample_weight=None):
        with _pushed(outer, (loss, y_true, y_pred)):
            return stock(loss, y_true, y_pred, sample_weight)

    def update_metric(stock, *args, **kwargs):
        with _pushed(outer, None):
            return stock(*args, **kwargs)

    def reduce_values(stock, values, sample_weight=None, mask=None, reduction="sum_over_batch_size", dtype=None):
        if len(outer) != 1 or outer[0] is None:
            return stock(values, sample_weight, mask, reduction, dtype)
        return reduce(functools.partial(stock, dtype=dtype), *outer[0], values, sample_weight, mask)

    with contextlib.ExitStack() as replaced:
        replaced.enter_context(_replaced(keras.losses.Loss, "__call__", call_loss))
        replaced.enter_context(_replaced(loss_module, "reduce_weighted_values", reduce_values))
        for owner in _owners(model.metrics, "update_state"):
            replaced.enter_context(_replaced(owner, "update_state", update_metric))
        yield


@contextlib.contextmanager
def _pushed(stack, item):
    stack.append(item)
    try:
        yield
    finally:
        stack.pop()


def _owners(objects, name):
    """The classes that define the method `name` of these objects."""
    return {next(owner for owner in type(each).__mro__ if name in vars(owner)) for each in objects}


@contextlib.contextmanager
def recorded_step(model: keras.Model, on_gradient, on_loss, on_result):
    """Inside, what a custom train step computes on its way is told.

    Args:
        model: The model.
        on_gradient: Called as `on_gradient(target, gradients)` after every `GradientTape.gradient`.
        on_loss: Called with what `model.compute_loss` returns.
        on_result: Called with the result of every metric that is read.
    """

    def gradient(stock, tape, target, *args, **kwargs):
        gradients = stock(tape, target, *args, **kwargs)
        on_gradient(target, tf.nest.flatten(gradients))
        return gradients

    def compute_loss(stock, *args, **kwargs):
        loss = stock(*args, **kwargs)
        on_loss(loss)
        return loss

    def result(stock, *args, **kwargs):
        value = stock(*args, **kwargs)
        for leaf in keras.tree.flatten(value):
            on_result(leaf)
        return value

    with contextlib.ExitStack() as replaced:
        replaced.enter_context(_replaced(tf.GradientTape, "gradient", gradient))
        for owner in _owners([model], "compute_loss"):
            replaced.enter_context(_replaced(owner, "compute_loss", compute_loss))
        for owner in _owners(model.metrics, "result"):
            replaced.enter_context(_replaced(owner, "result", result))
        yield


def added_to_valid_entries() -> float:
    """What Keras adds to the number of valid entries of a mask before it divides by it: 0 since version 3.13."""
    version = tuple(int(number) for number in keras.__version__.split(".")[:2])
    return 0.0 if version >= (3, 13) else keras.config.epsilon()


@contextlib.contextmanager
def undivided_losses():
    """Inside, the loss of a replica is that of its batch: Keras would divide its means by the number of replicas."""
    with (
        _replaced(loss_module, "scale_loss_for_distribution", lambda stock, loss: loss),
        _replaced(loss_module, "unscale_loss_for_distribution", lambda stock, loss: loss),
    ):
        yield


@contextlib.contextmanager
def twice_differentiable():
    """Inside, the variance that normalization layers compute has the right second derivative.

    `tf.nn.moments` stops the gradient of the mean inside the variance: its first derivative is zero there anyway, but
    not its second.
    """

    def moments(stock, x, axes, keepdims):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    with _replaced(tensorflow_nn, "_compute_moments", moments):
        yield


def has_stock_train_step(model: keras.Model) -> bool:
    """Whether the model trains with Keras's own `train_step`."""
    return type(model).train_step is TensorFlowTrainer.train_step


def has_own_loss(model: keras.Model) -> bool:
    """Whether the loss is more than Keras's own computation of it says: a custom step, `compute_loss` or `add_loss`."""
    is_stock = has_stock_train_step(model) and type(model).compute_loss is Trainer.compute_loss
    return not is_stock or any(layer._losses for layer in layers(model))


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
        on_output: Called as `on_output(layer, outputs)` after every call of a layer.
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
        on_output(layer, outputs)
        return outputs

    def penalties(stock, layer):
        with scope:
            return stock(layer)

    with (
        _casting_everything(model),
        _replaced(keras.Layer, "__call__", call_layer),
        _replaced(keras.Layer, "_get_regularization_losses", penalties),
        _replaced(keras.losses.Loss, "__call__", call_loss),
        _dtype_of(model._compile_loss),
    ):
        yield


@contextlib.contextmanager
def _casting_everything(model):
    """Inside, the layers and variables that Keras leaves out of casting (normalization, embeddings) take part in it."""
    silent_layers = [layer for layer in layers(model) if not layer.autocast]
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


_replacing = threading.RLock()


@contextlib.contextmanager
def _replaced(owner, name, function):
    """Inside, `owner.name(...)` calls `function(stock, ...)` in this thread; one thread at a time replaces anything."""
    with _replacing:
        stock, thread = getattr(owner, name), threading.get_ident()

        @functools.wraps(stock)
        def method(*args, **kwargs):
            if threading.get_ident() != thread:
                return stock(*args, **kwargs)
            return function(stock, *args, **kwargs)

        setattr(owner, name, method)
        try:
            yield
        finally:
            setattr(owner, name, stock)
