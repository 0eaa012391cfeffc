"""The optimizers to compile with: settings, checked when they are given. What changes during a fit lives elsewhere."""

import keras
import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt import train_step
from kormos_opt.solvers import scipy_thread
from kormos_opt.solvers.base import Solver
from kormos_opt.train_function import TrainFunction

_NO_STEP_SETTINGS = {
    "learning_rate": "a line search chooses every step length",
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


class BatchOptimizer(keras.optimizers.Optimizer):
    """Base of the deterministic full-batch optimizers: what they have in common beside the solver.

    Args:
        iterations_per_epoch: Solver iterations that make one Keras epoch. More of them spare small problems the cost
            of an epoch in the stock loop. Defaults to `1`.
        batch_size: Rows that are evaluated at a time. It bounds memory and leaves the result alone. Defaults to `None`:
            as many rows as take about 64 MiB of intermediate results.
        cache: Whether the training data is kept in memory: `True`, `False` (every evaluation reads the input pipeline
            anew), or `"auto"` (kept, up to half of the machine's memory). Defaults to `"auto"`.
        precision: `"model"` evaluates the objective in the dtypes of the model, `"float64"` in double precision; the
            weights keep their dtype. Defaults to `"model"`.
        name: Name of the optimizer. Defaults to the class's.
        **kwargs: Nothing. Settings of Keras's stochastic optimizers are refused with the reason.

    Raises:
        ValueError: For a value outside those above.
    """

    def __init__(self, iterations_per_epoch=1, batch_size=None, cache="auto", precision="model", name=None, **kwargs):
        for argument, value in kwargs.items():
            reason = _NO_STEP_SETTINGS.get(argument, "it is no argument of this class")
            raise ValueError(f"Expected no `{argument}`: {reason}. Received: {argument}={value!r}. Leave it out.")
        if not _is_positive_integer(iterations_per_epoch):
            raise ValueError(f"Expected a positive integer. Received: iterations_per_epoch={iterations_per_epoch!r}.")
        if batch_size is not None and not _is_positive_integer(batch_size):
            raise ValueError(f"Expected a positive integer or None. Received: batch_size={batch_size!r}.")
        if not (isinstance(cache, bool) or cache == "auto"):
            raise ValueError(f'Expected True, False or "auto". Received: cache={cache!r}.')
        if precision not in ("model", "float64"):
            raise ValueError(f'Expected "model" or "float64". Received: precision={precision!r}.')
        super().__init__(learning_rate=1.0, name=name)
        self.iterations_per_epoch = iterations_per_epoch
        self.batch_size = batch_size
        self.cache = cache
        self.precision = precision
        self._outcome = _Outcome()

    @property
    def result(self) -> OptimizeResult | None:
        """The `scipy.optimize.OptimizeResult` of the last fit, `None` before the first."""
        return self._outcome.result

    def record(self, result: OptimizeResult | None) -> None:
        """Keeps the result of a fit."""
        self._outcome.result = result

    @property
    def learning_rate(self):
        """Always 1.0, for callbacks that log it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        raise ValueError(
            "Expected no learning rate: a line search chooses every step length. "
            f"Received: learning_rate={learning_rate}. Remove the callback or the line that sets it."
        )

    def solver(self, x0: np.ndarray) -> Solver:
        """A new solver from `x0`, float64 of shape `(n,)`. Subclasses say which."""
        raise NotImplementedError

    @property
    def at_resolution(self) -> bool:
        """Whether to end where the precision of the loss hides all progress."""
        return True

    def make_train_function(self, model: keras.Model) -> TrainFunction:
        """What `Model.fit` calls instead of its own train function."""
        for argument, reason in _NO_STEP_SETTINGS.items():
            value = getattr(self, argument, None)
            if argument not in ("learning_rate", "ema_momentum") and value:
                raise ValueError(f"Expected no `{argument}`: {reason}. Received: optimizer.{argument}={value!r}.")
        return TrainFunction(model, self)

    def scale_loss(self, loss):
        """Called by `Model.train_step` with the loss of a batch."""
        train_step.listener().hear_loss(loss)
        return loss

    def apply(self, grads, trainable_variables=None):
        """Called by `Model.train_step` with the gradients of a batch, which are heard and not applied.

        Raises:
            RuntimeError: If called by anything but a train step that runs inside `fit` or `train_on_batch`.
        """
        heard = train_step.listener()
        heard.hear_gradients(grads, self._trainable_variables if trainable_variables is None else trainable_variables)

    def get_config(self):
        return {
            "name": self.name,
            "iterations_per_epoch": self.iterations_per_epoch,
            "batch_size": self.batch_size,
            "cache": self.cache,
            "precision": self.precision,
        }


class _Outcome:
    """Holds a result where neither Keras nor TensorFlow tracks it: they would wrap and save it."""

    result = None


@keras.saving.register_keras_serializable("kormos_opt")
class ScipyBatchOptimizer(BatchOptimizer):
    """Trains with `scipy.optimize.minimize`.

    Args:
        method: A method of scipy. Defaults to `"L-BFGS-B"`.
        tol: As in scipy: sets the method's own tolerances. Defaults to `None`.
        options: As in scipy, handed over as they are. `maxiter` and `maxfun` have no limit unless given here, since
            `epochs` is one. Defaults to `None`.
        **kwargs: The arguments of `BatchOptimizer`.

    Raises:
        ValueError: For a method or an option that scipy does not know.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.optimizers.ScipyBatchOptimizer(options={"maxcor": 5}), loss="mse")
    >>> history = model.fit(x, 3 * x + 1, epochs=20, verbose=0)
    >>> bool(model.optimizer.result.fun < 1e-6)
    True

    Reference: https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.minimize.html
    """

    def __init__(self, method="L-BFGS-B", tol=None, options=None, **kwargs):
        super().__init__(**kwargs)
        if method not in _METHODS:
            raise ValueError(f"Expected one of {', '.join(_METHODS)}. Received: method={method!r}.")
        self.method = method
        self.tol = tol
        self._options = tuple((options or {}).items())
        scipy_thread.check_options(method, tol, self.options)

    @property
    def options(self) -> dict:
        """The options as they were given."""
        return dict(self._options)

    @property
    def at_resolution(self) -> bool:
        """True unless tolerances were given: then they decide."""
        return self.tol is None and not self.options.keys() & {"ftol", "gtol"}

    def solver_options(self) -> dict:
        """What scipy is given: the limits that `epochs` replaces, overridden by the options as they were given."""
        return _METHODS[self.method] | self.options

    def solver(self, x0: np.ndarray) -> Solver:
        return scipy_thread.minimize(x0, self.method, self.tol, self.solver_options())

    def get_config(self):
        return {**super().get_config(), "method": self.method, "tol": self.tol, "options": self.options or None}


# The methods, each with the limits that `epochs` replaces.
_METHODS = {"L-BFGS-B": {"maxiter": 2**31 - 1, "maxfun": 2**31 - 1}}


@keras.saving.register_keras_serializable("kormos_opt")
class LBFGS(ScipyBatchOptimizer):
    """Limited-memory BFGS, the first choice for smooth objectives of any number of parameters.

    Every iteration multiplies the gradient with an approximation of the inverse Hessian, built from the last `memory`
    changes of x and the gradient, and searches along that direction for a point that satisfies the strong Wolfe
    conditions: usually one evaluation per iteration.

    Args:
        memory: Pairs of changes that are kept, scipy's `maxcor`. Defaults to `10`.
        tol: As in scipy: sets `ftol` and `gtol`. Defaults to `None`.
        options: Options of scipy's L-BFGS-B, handed over as they are. Defaults to `None`.
        iterations_per_epoch: Solver iterations that make one Keras epoch. Defaults to `1`.
        batch_size: Rows that are evaluated at a time. Defaults to `None`: chosen to bound memory.
        cache: Whether the training data is kept in memory. Defaults to `"auto"`: up to half of the machine's.
        precision: `"model"` or `"float64"`. Defaults to `"model"`.
        name: Name of the optimizer. Defaults to `"lbfgs"`.

    Raises:
        ValueError: For an option that scipy does not know, or a setting of another kind of optimizer.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> y = x @ [1.0, -2.0, 3.0]
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.LBFGS(precision="float64"), loss="mse")
    >>> history = model.fit(x, y, epochs=50, verbose=0)
    >>> model.layers[0].kernel.numpy().ravel().round(4).tolist()
    [1.0, -2.0, 3.0]

    Reference: Byrd, Lu, Nocedal and Zhu, A Limited Memory Algorithm for Bound Constrained Optimization (1995);
    https://docs.scipy.org/doc/scipy/reference/optimize.minimize-lbfgsb.html
    """

    def __init__(
        self,
        memory=10,
        tol=None,
        options=None,
        iterations_per_epoch=1,
        batch_size=None,
        cache="auto",
        precision="model",
        name="lbfgs",
        **kwargs,
    ):
        if not _is_positive_integer(memory):
            raise ValueError(f"Expected a positive integer. Received: memory={memory!r}.")
        super().__init__(
            "L-BFGS-B",
            tol,
            options,
            iterations_per_epoch=iterations_per_epoch,
            batch_size=batch_size,
            cache=cache,
            precision=precision,
            name=name,
            **kwargs,
        )
        self.memory = memory

    def solver_options(self) -> dict:
        return {"maxcor": self.memory} | super().solver_options()

    def get_config(self):
        config = {**super().get_config(), "memory": self.memory}
        del config["method"]
        return config


def _is_positive_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0
