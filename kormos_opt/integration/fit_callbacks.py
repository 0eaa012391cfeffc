"""The callbacks of a fit with one of our optimizers: which there are, and what they are told."""

import contextlib
import functools

import keras
import numpy as np

LEARNING_RATE = keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau


def callback_list(model, steps, callbacks, verbose, epochs, **_):
    """The callbacks as `fit` itself would put them together."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    listed = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )
    show_counts(listed)
    return listed


def show_counts(callbacks) -> None:
    """Lets the progress bar show counts as integers, and nothing where there is no number."""
    for logger in callbacks.callbacks:
        if isinstance(logger, keras.callbacks.ProgbarLogger):
            for name in ("_update_progbar", "_finalize_progbar"):
                setattr(logger, name, functools.partial(_with_counts, getattr(type(logger), name), logger))


def _with_counts(stock, logger, *arguments):
    *others, logs = arguments
    shown = {name: _Count(value) if name in _COUNTS else value for name, value in (logs or {}).items()}
    empty = {name for name, value in shown.items() if np.ndim(value) == 0 and np.isnan(value)}
    empty |= {"hessp_evals"} if shown.get("hessp_evals") == 0 else set()
    stock(logger, *others, {name: value for name, value in shown.items() if name not in empty})


_COUNTS = {"fg_evals", "hessp_evals", "stage"}


class _Count(float):
    """A number that the progress bar divides by 1 and formats with digits behind the point."""

    def __truediv__(self, other):
        return _Count(float(self) / other)

    def __format__(self, spec):
        return f"{float(self):.0f}"


@contextlib.contextmanager
def for_epochs_with_a_row(callbacks, train_function):
    """Inside, callbacks are not called at the end of an epoch in which the solver has ended without an iterate.

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


def row_shower(callbacks):
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


def refuse_learning_rate_callbacks(callbacks) -> None:
    """Raises `ValueError` if one of them would set the learning rate, which no solver has."""
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        if isinstance(callback, LEARNING_RATE):
            raise ValueError(
                "Expected callbacks that leave the learning rate alone: a line search chooses every step length. "
                f"Received: callbacks with a {type(callback).__name__}. Remove it."
            )


@contextlib.contextmanager
def without_files(callbacks):
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
