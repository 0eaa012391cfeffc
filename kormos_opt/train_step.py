"""Hears the loss and the gradients of a model's own `train_step`, stock or custom, without applying them.

`train_step` ends in `optimizer.scale_loss(loss)` and `optimizer.apply_gradients(...)`. Our optimizers hand both to
the listener that is open here, so add_loss, regularizers, loss_weights, masks, class weights, metrics and custom
steps need no code of ours.
"""

import contextlib
from contextvars import ContextVar

import keras

_listener = ContextVar("kormos_opt_listener", default=None)


class Heard:
    """What one `train_step` said: its scalar `loss`, `gradients` by `id(variable)`, and its `logs`."""

    def __init__(self):
        self.loss = None
        self.gradients = None
        self.logs = None

    def hear_loss(self, loss) -> None:
        """Takes the loss that the step is about to differentiate."""
        self.loss = loss

    def hear_gradients(self, gradients, variables) -> None:
        """Takes the gradients that the step wants to apply.

        Raises:
            RuntimeError: The second time.
        """
        if self.gradients is not None:
            raise RuntimeError(
                "Expected a `train_step` that applies gradients once: one objective, one step. "
                "Received: a second call of `optimizer.apply`. Add the losses up and apply their gradients together."
            )
        self.gradients = {id(variable): gradient for gradient, variable in zip(gradients, variables, strict=True)}


def listener() -> Heard:
    """The listener of the `train_step` that runs now.

    Raises:
        RuntimeError: Where none runs, as in a custom training loop.
    """
    heard = _listener.get()
    if heard is None:
        raise RuntimeError(
            "Expected to be called by `Model.fit` or `Model.train_on_batch`: a deterministic solver needs the whole "
            "objective, not the gradients of one step. Received: `apply_gradients` or `apply` from a custom loop. "
            "Call model.fit(...), or scipy.optimize.minimize with a function of your own."
        )
    return heard


def run(model: keras.Model, batch) -> Heard:
    """Runs `model.train_step(batch)` and returns what it said, its gradients not applied.

    Raises:
        RuntimeError: If no scalar loss or no gradients were heard.
    """
    with _listening() as heard:
        heard.logs = model.train_step(batch)
    if heard.loss is None and isinstance(heard.logs, dict):
        heard.loss = heard.logs.get("loss")
    if heard.loss is None or heard.gradients is None:
        missing = "loss" if heard.loss is None else "gradients"
        raise RuntimeError(
            "Expected a `train_step` that calls `self.optimizer.scale_loss(loss)` or returns the loss as logs['loss'], "
            f"and calls `self.optimizer.apply_gradients(...)`. Received: no {missing} from {type(model).__name__}."
        )
    if len(heard.loss.shape) != 0:
        raise RuntimeError(
            "Expected a scalar loss. "
            f"Received: a loss of shape {tuple(heard.loss.shape)} from {type(model).__name__}. "
            'Use a loss with reduction="sum_over_batch_size" or "sum".'
        )
    return heard


@contextlib.contextmanager
def _listening():
    heard = Heard()
    token = _listener.set(heard)
    try:
        yield heard
    finally:
        _listener.reset(token)
