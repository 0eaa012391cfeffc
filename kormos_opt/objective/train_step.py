"""Hears the loss and the gradients of a model's own `train_step`, stock or custom, without applying them.

`train_step` ends in `optimizer.scale_loss(loss)` and `optimizer.apply_gradients(...)`. Our optimizers hand both to
the listener that is open here, so add_loss, regularizers, loss_weights, masks, class weights, metrics and custom
steps need no code of ours.

A custom step may never call `scale_loss`. Then its loss is, in this order: what `GradientTape.gradient` has
differentiated to get the gradients that are applied; what `model.compute_loss` has returned; `logs["loss"]`, unless a
metric made it. The result of a metric is a running mean over the chunks so far, not the loss of this one.
"""

import contextlib
from contextvars import ContextVar

import keras

from kormos_opt.keras_internals import model as keras_model
from kormos_opt.keras_internals import tracing

_listener = ContextVar("kormos_opt_listener", default=None)


class Heard:
    """What one `train_step` said: its scalar `loss`, `gradients` and `variables` by `id(variable)`, and its `logs`."""

    def __init__(self):
        self.loss = None
        self.gradients = None
        self.variables = None
        self.logs = None
        self._targets = []
        self._computed = []
        self._results = []

    def hear_loss(self, loss) -> None:
        """Takes the loss that the step is about to differentiate."""
        self.loss = loss

    def hear_gradient_of(self, target, gradients) -> None:
        """Takes what a tape has differentiated, and what it got."""
        self._targets += [(gradient, target) for gradient in gradients if gradient is not None]

    def hear_computed(self, loss) -> None:
        """Takes what `compute_loss` has returned."""
        self._computed.append(loss)

    def hear_result(self, value) -> None:
        """Takes the result of a metric."""
        self._results.append(value)

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
        pairs = [(variable, gradient) for gradient, variable in zip(gradients, variables, strict=True)]
        self.gradients = {id(variable): gradient for variable, gradient in pairs}
        self.variables = {id(variable): variable for variable, gradient in pairs if gradient is not None}

    def find_loss(self) -> None:
        """Takes the loss of a custom step from all that was heard."""
        targets = self._differentiated()
        if targets is not None:
            self.loss = targets
        elif self.loss is None and self._computed:
            self.loss = self._computed[-1]
        elif self.loss is None and isinstance(self.logs, dict):
            loss = self.logs.get("loss")
            self.loss = None if any(loss is result for result in self._results) else loss

    def _differentiated(self):
        """The one target of all applied gradients, or `None`."""
        targets = {id(gradient): target for gradient, target in self._targets}
        applied = [gradient for gradient in (self.gradients or {}).values() if gradient is not None]
        found = {id(targets.get(id(gradient))): targets.get(id(gradient)) for gradient in applied}
        target = next(iter(found.values()), None)
        return target if len(found) == 1 and hasattr(target, "shape") else None


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
        if keras_model.has_stock_train_step(model):
            heard.logs = model.train_step(batch)
        else:
            with tracing.recorded_step(model, heard.hear_gradient_of, heard.hear_computed, heard.hear_result):
                heard.logs = model.train_step(batch)
            heard.find_loss()
    if heard.loss is None or heard.gradients is None:
        missing = "gradients" if heard.gradients is None else "loss of this batch"
        raise RuntimeError(
            "Expected a `train_step` whose loss can be known: one that calls `loss = self.compute_loss(...)` or "
            "`self.optimizer.scale_loss(loss)`, hands over gradients as `tape.gradient(loss, ...)` returns them, or "
            "returns the loss itself, not a metric's result, as logs['loss']; and that calls "
            f"`self.optimizer.apply_gradients(...)`. Received: no {missing} from {type(model).__name__}."
        )
    if len(heard.loss.shape) != 0:
        raise RuntimeError(
            "Expected a scalar loss. "
            f"Received: a loss of shape {tuple(heard.loss.shape)} from {type(model).__name__}. "
            'Use a loss with reduction="sum_over_batch_size" or "sum", or take the mean of its values.'
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
