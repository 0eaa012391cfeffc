"""Which methods of Keras are replaced. They ask our optimizers first, and leave every other optimizer alone."""

import functools

import keras

from kormos_opt import optimizers
from kormos_opt.integration import fit, sklearn_fit, workarounds
from kormos_opt.keras_internals import trainer
from kormos_opt.keras_internals.model import innermost
from kormos_opt.keras_internals.version import check_version
from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.chain import Chain, current_optimizer


def install() -> None:
    """Lets `keras.Model` ask our optimizers. Idempotent.

    Raises:
        ImportError: For a version of Keras that is too old, or whose methods take other arguments than those that are
            known. A later version with the known arguments is let through with a warning.
    """
    keras.saving.get_custom_objects().update(optimizers.NAMES)
    owner = trainer.METHODS_OF_FIT
    if hasattr(owner.fit, "_kormos_opt_stock"):
        return
    check_version(keras.__version__)
    sklearn_fit.install()
    owner.make_train_function = _dispatching(owner.make_train_function, _make_train_function)
    owner.fit = _dispatching(owner.fit, fit.fit, innermost)
    owner.make_test_function = _dispatching(owner.make_test_function, workarounds.make_test_function)
    owner._maybe_symbolic_build = _dispatching(owner._maybe_symbolic_build, workarounds.symbolic_build)
    owner.__reduce__ = _dispatching(trainer.PICKLE, _reduce, innermost)
    trainer.COMPILE.compile = _with_our_names(trainer.COMPILE.compile)


def _with_our_names(stock):
    @functools.wraps(stock)
    def compile(model, optimizer="rmsprop", *args, **kwargs):
        if isinstance(optimizer, str):
            optimizer = optimizers.find(optimizer) or optimizer
        if isinstance(optimizer, type) and issubclass(optimizer, (BatchOptimizer, Chain)):
            raise ValueError(
                f"Expected an optimizer. Received: optimizer={optimizer.__name__}, which is its class. "
                f"Write optimizer={optimizer.__name__}()."
            )
        if isinstance(optimizer, (BatchOptimizer, Chain)):
            optimizer = optimizer.for_model(model)
        return stock(model, optimizer, *args, **kwargs)

    return compile


def _dispatching(stock, ours, find_optimizer=current_optimizer):
    @functools.wraps(stock)
    def method(model, *args, **kwargs):
        if model.compiled and isinstance(find_optimizer(model.optimizer), (BatchOptimizer, Chain)):
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
    if force and workarounds.is_fitting(model):
        model.train_function.rebuild()
    elif model.train_function is None or force:
        fit.refuse_loss_scaling(model)
        model.train_function = model.optimizer.make_train_function(model)
