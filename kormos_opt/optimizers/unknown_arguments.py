"""What to say about an argument that our optimizers do not take: what it is called here, or why there is none."""

import difflib
import inspect

from kormos_opt.optimizers.settings import all_settings
from kormos_opt.solvers import registry

# Settings of Keras's stochastic optimizers.
STOCHASTIC = {
    "learning_rate": "a line search chooses every step length",
    "lr": "a line search chooses every step length",
    "weight_decay": "use kernel_regularizer=keras.regularizers.L2(...), which is part of the objective",
    "clipnorm": "a solver needs the gradient as it is",
    "clipvalue": "a solver needs the gradient as it is",
    "global_clipnorm": "a solver needs the gradient as it is",
    "use_ema": "the last iterate is the best one",
    "ema_momentum": "the last iterate is the best one",
    "ema_overwrite_frequency": "the last iterate is the best one",
    "loss_scale_factor": "a solver needs the loss as it is",
    "gradient_accumulation_steps": "the gradient is that of the full batch already",
}

# Names of torch.optim.LBFGS, tfp, scikit-learn and scipy.
_PAIRS = "the number of pairs is memory="
ELSEWHERE = {
    "history_size": _PAIRS,
    "num_correction_pairs": _PAIRS,
    "maxcor": _PAIRS,
    "max_iter": "fit(epochs=...) limits the iterations, or options={'maxiter': ...}",
    "max_iterations": "fit(epochs=...) limits the iterations, or options={'maxiter': ...}",
    "maxiter": "fit(epochs=...) limits the iterations, or options={'maxiter': ...}",
    "max_eval": "the limit of evaluations is options={'maxfun': ...}",
    "tolerance_grad": "the tolerance of the gradient is options={'gtol': ...}",
    "tolerance_change": "the tolerance of the loss is options={'ftol': ...}",
    "tolerance": "write tol=, or options={'gtol': ...}",
    "line_search_fn": "there is a line search always",
}


def message(optimizer: type, argument: str, value: object) -> str:
    """The text of the error.

    Args:
        optimizer: The class that was called.
        argument: The name that it does not know.
        value: What it was given.
    """
    reason, what_next = _reason(optimizer, argument)
    return f"Expected no `{argument}`: {reason}. Received: {argument}={value!r}. {what_next}"


def _reason(optimizer, argument):
    if argument in STOCHASTIC:
        return STOCHASTIC[argument], "Leave it out."
    if argument in ELSEWHERE:
        return ELSEWHERE[argument], "Write that instead."
    if argument in registry.find(getattr(optimizer, "method", None) or registry.DEFAULT_METHOD).options:
        return "it is an option of scipy", f"Write options={{'{argument}': ...}}."
    near = difflib.get_close_matches(argument, _arguments(optimizer), n=1)
    if near:
        return "it is no argument of this class", f"Did you mean {near[0]}=?"
    return "it is no argument of this class", "Leave it out."


def _arguments(optimizer):
    ours = [owner for owner in optimizer.__mro__ if owner.__module__.partition(".")[0] == "kormos_opt"]
    named = {name for owner in ours for name in inspect.signature(owner.__init__).parameters}
    return (named | all_settings().keys()) - {"self", "kwargs", "settings"}
