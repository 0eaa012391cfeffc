"""Records the loss and the gradients of a model's own `train_step`, stock or custom, without applying them.

`train_step` ends in `optimizer.scale_loss(loss)` and `optimizer.apply_gradients(...)`. Our optimizers hand both to the
record that is open here, so add_loss, regularizers, loss_weights, masks, class weights, metrics and custom steps need
no code of ours.

A custom step may never call `scale_loss`. Then its loss is, in this order: what `GradientTape.gradient` has
differentiated to get the gradients that are applied; what `model.compute_loss` has returned; `logs["loss"]`, unless a
metric made it. The result of a metric is a running mean over the chunks so far, not the loss of this one.
"""

import contextlib
from contextvars import ContextVar

import keras

from kormos_opt.keras_internals import model as keras_model
from kormos_opt.keras_internals import recorded

_current = ContextVar("kormos_opt_record", default=None)


class StepRecord:
    """What one `train_step` said: its scalar `loss`, `gradients` and `variables` by `id(variable)`, and its `logs`."""

    def __init__(self):
        self.loss = None
        self.gradients = None
        self.variables = None
        self.logs = None
        self._targets = []
        self._computed = []
        self._results = []

    def record_loss(self, loss) -> None:
        """Takes the loss that the step is about to differentiate."""
        self.loss = loss

    def record_gradient_of(self, target, gradients) -> None:
        """Takes what a tape has differentiated, and what it got."""
        self._targets += [(gradient, target) for gradient in gradients if gradient is not None]

    def record_computed(self, loss) -> None:
        """Takes what `compute_loss` has returned."""
        self._computed.append(loss)

    def record_result(self, value) -> None:
        """Takes the result of a metric."""
        self._results.append(value)

    def record_gradients(self, gradients, variables) -> None:
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
        """Takes the loss of a custom step from all that was recorded."""
        targets = self._differentiated()
        if targets is not None:
            self.loss = targets
        elif self.loss is None and self._computed:
            self.loss = self._computed[-1]
        elif self.loss is None and isinstance(self.logs, dict):
            loss = self.logs.get("loss")
            self.loss = None if any(loss is result for result in self._results) else loss

    def _differentiated(self):
        """The target of all applied gradients, `None` unless they have the same."""
        targets = {id(gradient): target for gradient, target in self._targets}
        applied = [gradient for gradient in (self.gradients or {}).values() if gradient is not None]
        found = {id(targets.get(id(gradient))): targets.get(id(gradient)) for gradient in applied}
        target = next(iter(found.values()), None)
        return target if len(found) == 1 and hasattr(target, "shape") else None


def current_record() -> StepRecord:
    """The record of the `train_step` that runs now.

    Raises:
        RuntimeError: Where none runs, as in a custom training loop.
    """
    record = _current.get()
    if record is None:
        raise RuntimeError(
            "Expected to be called by `Model.fit` or `Model.train_on_batch`: a deterministic solver needs the whole "
            "objective, not the gradients of one step. Received: `apply_gradients` or `apply` from a custom loop. "
            "Call model.fit(...), or scipy.optimize.minimize with a function of your own."
        )
    return record


def run(model: keras.Model, batch) -> StepRecord:
    """Runs `model.train_step(batch)` and returns what it said, its gradients not applied.

    Raises:
        RuntimeError: If no scalar loss or no gradients were recorded.
    """
    with _recording() as record:
        if keras_model.has_stock_train_step(model):
            record.logs = model.train_step(batch)
        else:
            with recorded.recorded_step(model, record.record_gradient_of, record.record_computed, record.record_result):
                record.logs = model.train_step(batch)
            record.find_loss()
    if record.loss is None or record.gradients is None:
        missing = "gradients" if record.gradients is None else "loss of this batch"
        raise RuntimeError(
            "Expected a `train_step` whose loss can be known: one that calls `loss = self.compute_loss(...)` or "
            "`self.optimizer.scale_loss(loss)`, hands over gradients as `tape.gradient(loss, ...)` returns them, or "
            "returns the loss itself, not a metric's result, as logs['loss']; and that calls "
            f"`self.optimizer.apply_gradients(...)`. Received: no {missing} from {type(model).__name__}."
        )
    if len(record.loss.shape) != 0:
        raise RuntimeError(
            "Expected a scalar loss. "
            f"Received: a loss of shape {tuple(record.loss.shape)} from {type(model).__name__}. "
            'Use a loss with reduction="sum_over_batch_size" or "sum", or take the mean of its values.'
        )
    return record


@contextlib.contextmanager
def _recording():
    record = StepRecord()
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)
