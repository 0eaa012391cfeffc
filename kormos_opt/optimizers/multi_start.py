"""An optimizer that tries many initial weights before the first epoch and goes on with the best."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kormos_opt.keras_internals import initial_weights
from kormos_opt.optimizers import any_optimizer
from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.scipy_batch_optimizer import ScipyBatchOptimizer
from kormos_opt.optimizers.settings import deserialized
from kormos_opt.stages.options import is_positive_integer
from kormos_opt.training.runs.multi_start import Start

_TAKEN = "evaluations_of_starts"  # in files


@keras.saving.register_keras_serializable("kormos_opt")
class MultiStart(BatchOptimizer):
    """Fits from many initial weights and goes on with the best, for losses with several minima.

    Before the first epoch every start has `iterations` iterations; then the better half of them twice as many, and so
    on until `keep` are left. The epochs go on with the best of these. The first start is the weights as they are.

    Starts take turns over one objective and one copy of the data. `History` has the rows of the winner and, as
    `history.starts`, a table of all starts; `fg_evals` counts the evaluations of all of them.

    Args:
        optimizer: One of the optimizers of this package, whose solver and settings count, or its name.
        starts: How many starts. Defaults to `16`.
        iterations: Solver iterations of each in the first round. Defaults to `10`.
        initialize: Called with the model and the number of the start, from 1; assigns the initial weights. Defaults to
            `None`: every layer is made anew and draws its own, from seeds that `keras.utils.set_random_seed` fixes.
        keep: How many starts the last round leaves; `table` has their weights. Defaults to `1`.
        name: Name of the optimizer. Defaults to `"multistart"`.

    Raises:
        ValueError: For numbers that are not positive, or `keep` above `starts`.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-3, 3, 60)[:, None]
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.MultiStart(kormos_opt.LBFGS(), starts=4), loss="mse")
    >>> history = model.fit(x, np.sin(2 * x), epochs=20, verbose=0)
    >>> len(history.starts), len(history.history["loss"])
    (4, 20)

    Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016)
    """

    def __init__(
        self,
        optimizer: BatchOptimizer | str,
        starts: int = 16,
        iterations: int = 10,
        initialize: Callable[[keras.Model, int], Any] | None = None,
        keep: int = 1,
        name: str = "multistart",
    ):
        optimizer = any_optimizer(optimizer)
        if not isinstance(optimizer, ScipyBatchOptimizer):
            raise ValueError(
                f"Expected an optimizer of kormos_opt with a solver of its own. Received: optimizer={optimizer.name!r}."
            )
        for argument, value in {"starts": starts, "iterations": iterations, "keep": keep}.items():
            if not is_positive_integer(value):
                raise ValueError(f"Expected a positive integer. Received: {argument}={value!r}.")
        if keep > starts:
            raise ValueError(f"Expected to keep at most all starts. Received: keep={keep}, starts={starts}.")
        settings = BatchOptimizer.get_config(optimizer)
        super().__init__(**{**settings, "name": name})
        self._untracked.solver = optimizer
        self.starts = starts
        self.first_iterations = iterations
        self.initialize = initialize
        self.keep = keep

    @property
    def stages(self) -> tuple:
        return self._untracked.solver.stages

    @property
    def table(self) -> list[dict] | None:
        """All starts of the last tournament, the best first, `None` before: `number`, `loss`, `iterations`, `fg_evals`,
        `hessp_evals`, and of those that were kept `x`, float64 of shape `(n,)`."""
        return self._untracked.table

    def has_starts(self) -> bool:
        """Whether there are starts to try: before the first iteration."""
        return self.table is None and int(self.iterations.numpy()) == 0

    def draw(self, model: keras.Model, start: int) -> None:
        """Assigns the initial weights of a start, from 1."""
        if self.initialize is None:
            initial_weights.draw(model, start)
        else:
            self.initialize(model, start)

    def evaluations_of_starts(self) -> tuple[int, int]:
        """What the starts have taken: evaluations and Hessian-vector products."""
        evaluations, products = self._untracked.counts_of_starts
        return evaluations, products

    def save_own_variables(self, store):
        """Saves the optimizer as its base does, and what the starts have taken."""
        super().save_own_variables(store)
        store[_TAKEN] = np.array(self._untracked.counts_of_starts, "int64")

    def load_own_variables(self, store):
        """Reads what `save_own_variables` has written."""
        values = {name: store[name] for name in store.keys()}  # noqa: SIM118  a group of h5py, or Keras's own
        self._untracked.counts_of_starts = tuple(int(count) for count in np.array(values.pop(_TAKEN, (0, 0))))
        super().load_own_variables(values)

    def record_starts(self, starts: list[Start]) -> None:
        """Keeps the table of the starts, the best first."""
        self._untracked.counts_of_starts = (
            sum(each.fg_evals for each in starts),
            sum(each.hessp_evals for each in starts),
        )
        self._untracked.table = [
            {**start.row(), **({"x": start.x} if place < self.keep else {})} for place, start in enumerate(starts)
        ]

    def fresh(self):
        """A new optimizer with the same settings."""
        return type(self)(
            self._untracked.solver.fresh(), self.starts, self.first_iterations, self.initialize, self.keep, self.name
        )

    def get_config(self):
        return {
            "optimizer": keras.saving.serialize_keras_object(self._untracked.solver),
            "starts": self.starts,
            "iterations": self.first_iterations,
            "initialize": self.initialize,
            "keep": self.keep,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer with the settings that `get_config` returned."""
        return cls(**deserialized(config, custom_objects))
