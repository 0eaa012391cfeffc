"""`Model.fit` with a `Chain`: a fit of Keras for every stage, over one list of callbacks, which see one fit.

The chain stays the optimizer that the model is compiled with, so that files hold all of it; the train step reaches the
optimizer that is at work through it.
"""

import contextlib
import logging
import math
import types
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.integration import fit_callbacks, full_batch_fit
from kormos_opt.integration.fit_callbacks import LEARNING_RATE, refuse_learning_rate_callbacks
from kormos_opt.keras_internals import trainer
from kormos_opt.keras_internals.model import strategy_of
from kormos_opt.optimizers.batch_optimizer import BatchOptimizer

_log = logging.getLogger("kormos_opt")


def fit(stock: Callable, model: keras.Model, arguments: dict) -> keras.callbacks.History:
    """All stages that the epochs of the fit allow.

    Args:
        stock: Keras's `fit`, for the optimizers of Keras.
        model: A model that is compiled with a `Chain`.
        arguments: All arguments of `fit`.
    """
    chain = model.optimizer
    stochastic = [optimizer for optimizer in chain.chained if not isinstance(optimizer, BatchOptimizer)]
    if stochastic:
        _refuse_workers(model, stochastic[0])
    else:
        refuse_learning_rate_callbacks(arguments["callbacks"])
    _refuse_generators(**arguments)
    chain.begin(trainer.compilation_of(model))
    usual = model._initial_epoch
    callbacks = _OneFit(model, **arguments)
    try:
        goes_on = True
        while goes_on:
            before = callbacks.epoch, chain.standing().stage
            _fit_stage(stock, model, {**arguments, "initial_epoch": callbacks.epoch}, callbacks)
            has_moved = before != (callbacks.epoch, chain.standing().stage)
            goes_on = has_moved and not callbacks.is_over
    finally:
        model._initial_epoch = usual
    callbacks.end()
    return model.history


def _fit_stage(stock, model, arguments, callbacks):
    chain = model.optimizer
    stage = chain.standing().stage
    model.train_function = chain.train_functions().get(stage)
    model._initial_epoch = callbacks.epoch or None  # a fit that takes its first epoch from a file leaves it here
    callbacks.begin_stage()
    try:
        _run_stage(stock, model, arguments, callbacks, stage)
    except BaseException:
        callbacks.count_interrupted_epoch()
        raise
    finally:
        chain.train_functions()[stage] = model.train_function
    chain.advance()
    model.train_function = chain.train_functions().get(chain.standing().stage)


def _run_stage(stock, model, arguments, callbacks, stage):
    chain = model.optimizer
    if chain.is_stochastic():
        with callbacks.keeping_finite_weights():
            stock(model, **{**arguments, "callbacks": callbacks.with_steps(model, _steps(**arguments))})
    else:
        full_batch_fit.fit(stock, model, arguments, callbacks.with_steps)
        if callbacks.has_worked and model.train_function.has_ended:
            chain.end_stage()
        if arguments["verbose"]:
            for message in model.train_function.messages():
                trainer.print_message(f"Stage {stage} ({chain.current().name}): {message}")


def _refuse_generators(x, steps_per_epoch, **_):
    if isinstance(x, types.GeneratorType) and steps_per_epoch is None:
        raise ValueError(
            "Expected data that every stage of a chain can read from its beginning. Received: x, a Python generator. "
            "Give a PyDataset, a tf.data.Dataset or arrays, or steps_per_epoch= for a generator without end."
        )


def _refuse_workers(model, optimizer):
    if isinstance(strategy_of(model), tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected optimizers of kormos_opt in all stages under several workers, where Keras's own fit fails. "
            f"Received: {optimizer.name!r}. Train with it on one worker before."
        )


def _steps(x, batch_size, steps_per_epoch, **_):
    """The batches of an epoch of Keras's own `fit`, for its progress bar; `None` where nobody knows."""
    if steps_per_epoch is not None:
        return steps_per_epoch
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    if isinstance(x, tf.data.Dataset):
        batches = int(x.cardinality())
        return batches if batches >= 0 else None
    shapes = [np.shape(leaf) for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")]
    return math.ceil(shapes[0][0] / (batch_size or 32)) if shapes and shapes[0] else None


class _OneFit(keras.callbacks.CallbackList):
    """The callbacks of a fit of several stages, which see one.

    Args:
        model: The model.
        callbacks: The callbacks that `fit` was given.
        verbose: As in `keras.Model.fit`.
        epochs: The last epoch, as in `keras.Model.fit`.
        initial_epoch: The first epoch, counted from 0.

    Attributes:
        epoch: The next epoch.
        has_worked: Whether the stage has had an epoch in this fit.
    """

    def __init__(self, model, callbacks, verbose, epochs, initial_epoch, **_):
        callbacks = getattr(callbacks, "callbacks", callbacks)
        shown = {"add_history": True, "add_progbar": verbose != 0}
        super().__init__(callbacks, model=model, verbose=verbose, epochs=epochs, steps=None, **shown)
        fit_callbacks.show_counts(self)
        self.epoch = initial_epoch
        self.has_worked = False
        self._all = self.callbacks
        self._has_begun = self._is_stopped = self._is_uncounted = False
        self._logs = self._logs_so_far = None

    @property
    def is_over(self) -> bool:
        """Whether there are no more epochs, a callback has stopped the fit, or the last stage has ended."""
        is_last = self.epoch >= self.params["epochs"]
        return is_last or self._is_stopped or self.model.optimizer.standing().is_over

    def begin_stage(self) -> None:
        """A stage begins or goes on: of a solver, without the callbacks that set the learning rate."""
        self.has_worked = False
        deaf = () if self.model.optimizer.is_stochastic() else LEARNING_RATE
        self.callbacks = [each for each in self._all if not isinstance(each, deaf)]

    def with_steps(self, model, steps: int | None, **_):
        """This list, for a fit whose epochs have so many batches."""
        self.set_params({**self.params, "steps": steps})
        return self

    def on_train_begin(self, logs=None):
        if self._has_begun:
            return
        self._has_begun = True
        chain, model = self.model.optimizer, self.model
        before = chain.standing().stage
        self.callbacks, taking_part = self._all, self.callbacks
        super().on_train_begin(logs)
        self.callbacks = taking_part
        if chain.standing().stage != before or chain.standing().is_over:  # a callback has loaded a file
            self.epoch = model._initial_epoch or self.epoch
            model._initial_epoch = self.params["epochs"]

    def on_epoch_begin(self, epoch, logs=None):
        self.has_worked = True
        self._is_uncounted = not self.model.optimizer.is_stochastic()
        if self._is_uncounted:
            self.model.train_function.logs_of_epoch = None
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.is_stochastic():
            self._is_uncounted, self._logs_so_far = batch + 1 == self.params["steps"], logs
        super().on_train_batch_end(batch, logs)

    def on_test_begin(self, logs=None):
        self._is_uncounted = True  # batches of which nobody knew the number are over
        super().on_test_begin(logs)

    def count_interrupted_epoch(self) -> None:
        """Something has interrupted an epoch after its training: the stage has had that epoch."""
        model, chain = self.model, self.model.optimizer
        logs = self._logs_so_far if chain.is_stochastic() else model.train_function.logs_of_epoch
        if not self._is_uncounted or logs is None:
            return
        self._is_uncounted = False
        has_ended = not chain.is_stochastic() and model.train_function.has_ended
        chain.count_epoch({name: float(value) for name, value in logs.items() if np.ndim(value) == 0}, has_ended)
        if chain.stage_is_over():
            self._end_stage(has_ended)

    def on_epoch_end(self, epoch, logs=None):
        model, chain = self.model, self.model.optimizer
        self._is_uncounted = False
        has_ended = not chain.is_stochastic() and model.train_function.has_ended
        is_asked_to_stop = model.stop_training and not has_ended
        logs = chain.count_epoch(logs, has_ended)
        if chain.is_stochastic():
            self._keep_weights(logs.get("loss", 0.0))
        elif any(isinstance(each, LEARNING_RATE) for each in self._all):
            logs.setdefault("learning_rate", np.nan)  # a column has a value for every row
        if chain.stage_is_over():
            self._end_stage(has_ended)
        model.stop_training = is_asked_to_stop
        super().on_epoch_end(epoch, logs)
        self.epoch, self._is_stopped = epoch + 1, model.stop_training
        model.stop_training |= chain.stage_is_over()

    def on_train_end(self, logs=None):
        self._logs = logs or self._logs

    def end(self) -> None:
        """The last stage of this fit is over."""
        self.callbacks = self._all
        super().on_train_end(self._logs)

    def _end_stage(self, has_ended):
        """Before callbacks write files: they shall hold what the next stage begins with."""
        model, chain = self.model, self.model.optimizer
        if chain.is_stochastic():
            if not self._put_back_finite_weights():
                chain.finalize_variable_values(model.trainable_weights)
        elif not has_ended:
            model.train_function.end()

    @contextlib.contextmanager
    def keeping_finite_weights(self):
        """Inside, mini-batches may lead to NaN: afterwards the weights are those before the best epoch."""
        self._before_epoch = self._before_best = self._snapshot() if self.model.built else None
        self._best, self._is_finite = np.inf, True
        try:
            yield
        finally:
            self._put_back_finite_weights()

    def _keep_weights(self, loss):
        now = self._snapshot()
        self._is_finite = bool(np.isfinite(loss)) and _are_finite(now[0])
        if loss < self._best and (self._is_finite or self._before_epoch is not None):
            self._best, self._before_best = loss, self._before_epoch or now
        self._before_epoch = now

    def _snapshot(self):
        """The weights, and the variables of the optimizer, whose averages may run into NaN too."""
        variables = self.model.optimizer.current().variables
        return self.model.get_weights(), [np.array(keras.ops.convert_to_numpy(each)) for each in variables]

    def _put_back_finite_weights(self):
        """Whether there was need for it."""
        if self._is_finite or self._before_best is None:
            return False
        optimizer, (weights, values) = self.model.optimizer.current(), self._before_best
        self.model.set_weights(weights)
        for i, variable in enumerate(optimizer.variables):  # made since then: as new
            variable.assign(values[i] if i < len(values) else np.zeros(variable.shape))
        self._is_finite = True
        _log.warning(
            "Mini-batches have led to a loss or weights that are not finite: the model has the weights from before its "
            "best epoch again. Lower the learning rate or clip the gradients of %s.",
            optimizer.name,
        )
        return True


def _are_finite(weights):
    return all(np.isfinite(weight).all() for weight in weights if weight.dtype.kind == "f")
