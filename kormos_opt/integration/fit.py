"""`Model.fit` with one of our optimizers: checks of what no solver can take, then a fit of an optimizer or a chain."""

import inspect

import keras

from kormos_opt.integration import chained_fit, fit_callbacks, full_batch_fit, sklearn_fit
from kormos_opt.keras_internals import trainer
from kormos_opt.keras_internals.model import innermost
from kormos_opt.optimizers.chain import Chain


def fit(stock, model: keras.Model, *args, **kwargs) -> keras.callbacks.History:
    """All arguments are those of Keras.

    Args:
        stock: Keras's `fit`.
        model: A model that is compiled with a `BatchOptimizer` or a `Chain`.
        *args: Positional arguments of `fit`.
        **kwargs: Its keyword arguments.
    """
    call = inspect.signature(stock).bind(model, *args, **kwargs)
    sklearn_fit.complete(call.arguments)
    call.apply_defaults()
    arguments = call.arguments
    del arguments["self"]
    refuse_loss_scaling(model)
    trainer.split_validation(arguments)
    trainer.remember_what_files_leave_out()
    if isinstance(model.optimizer, Chain):
        return chained_fit.fit(stock, model, arguments)
    fit_callbacks.refuse_learning_rate_callbacks(arguments["callbacks"])
    history = full_batch_fit.fit(stock, model, arguments, fit_callbacks.callback_list)
    if arguments["verbose"]:
        for message in model.train_function.messages():
            trainer.print_message(message)
    return history


def refuse_loss_scaling(model: keras.Model) -> None:
    """Raises `ValueError` for a model whose optimizer Keras has wrapped to scale the loss."""
    if model.optimizer is not innermost(model.optimizer):
        raise ValueError(
            "Expected a model without loss scaling: the solver needs the loss itself. Received: dtype policy "
            f"{model.dtype_policy.name!r}, for which compile() wrapped the optimizer in a LossScaleOptimizer. "
            'Use "mixed_bfloat16" or "float32", or compile(..., auto_scale_loss=False).'
        )
