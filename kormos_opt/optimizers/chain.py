"""A chain of optimizers, Keras's and ours, in one fit: which of them is at work, and where it stands.

`integration/chained_fit.py` runs it.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kormos_opt.keras_internals.model import innermost
from kormos_opt.optimizers import any_optimizer
from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.chain_state import ChainState
from kormos_opt.optimizers.ownership import OwnedByOneModel
from kormos_opt.optimizers.settings import deserialized
from kormos_opt.stages.options import is_positive_integer
from kormos_opt.training.fit_result import FitResult
from kormos_opt.training.train_function import TrainFunction

_STANDING, _CONDITION = "chain_standing", "chain_condition"  # in files
_Until = Callable[[Mapping[str, Any]], bool]
_log = logging.getLogger("kormos_opt")


@keras.saving.register_keras_serializable("kormos_opt")
class Chain(OwnedByOneModel, keras.optimizers.Optimizer):
    """Several optimizers in one fit, one after the other: Keras's own and those of this package.

    An optimizer of Keras does what it does in `fit`: mini-batches of `batch_size`, shuffled, dropout alive, its
    learning rate scheduled. One of ours takes an iteration an epoch over all rows. All share one set of callbacks, one
    file, and one History, whose column `stage` says which was at work and whose column `fg_evals` counts passes over
    the data.

    A stage is over when it has had its `epochs`, when its `until` says so, or when a solver ends by itself. When `fit`
    ends before, the next one goes on where it was.

    Args:
        optimizers: The optimizers, or their names.
        epochs: Epochs of each stage at most; `None` for a stage, or for all: no bound but that of `fit`. Defaults to
            `None`.
        until: A condition for each stage, called with the logs of every epoch, such as `kormos_opt.until.plateau()`;
            `None` for a stage, or for all: none. Defaults to `None`.
        name: Name of the optimizer. Defaults to `"chain"`.

    Raises:
        ValueError: For an optimizer of Keras that would never end and is not the last one, or for lists of another
            length than `optimizers`.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> model = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> chain = kormos_opt.Chain([keras.optimizers.Adam(0.01), kormos_opt.LBFGS()], epochs=[5, 20])
    >>> model.compile(optimizer=chain, loss="mse")
    >>> history = model.fit(x, np.sin(3 * x), epochs=25, verbose=0).history
    >>> history["stage"].count(0), history["loss"][-1] < history["loss"][4]
    (5, True)
    """

    def __init__(
        self,
        optimizers: Sequence[keras.optimizers.Optimizer | str],
        epochs: Sequence[int | None] | None = None,
        until: Sequence[_Until | None] | None = None,
        name: str = "chain",
    ):
        if isinstance(optimizers, (str, keras.optimizers.Optimizer)) or not len(optimizers):
            raise ValueError(f"Expected a list of optimizers. Received: optimizers={optimizers!r}.")
        super().__init__(learning_rate=1.0, name=name)
        self.chained = [_optimizer(each) for each in optimizers]
        epochs, until = (
            _for_each_stage(name, values, self.chained) for name, values in (("epochs", epochs), ("until", until))
        )
        _check(self.chained, epochs, until)
        self._untracked = _Untracked(epochs, until)

    def belongs_to_another(self, model: keras.Model) -> bool:
        """Whether another model was compiled with it, or with one of its optimizers."""
        chained = [each for each in self.chained if isinstance(each, BatchOptimizer)]
        return super().belongs_to_another(model) or any(each.belongs_to_another(model) for each in chained)

    def for_model(self, model: keras.Model):
        """The chain for `model`: this one, or a new one with the same settings."""
        mine = super().for_model(model)
        for each in mine.chained:
            if isinstance(each, BatchOptimizer):
                each.for_model(model)
        return mine

    def fresh(self):
        """A new chain with the same settings."""
        optimizers = [
            each.fresh() if isinstance(each, BatchOptimizer) else each.from_config(each.get_config())
            for each in self.chained
        ]
        until = copy.deepcopy(self._untracked.until)
        chain = type(self)(optimizers, self._untracked.epochs, until, self.name)
        for each in until:
            if hasattr(each, "reset"):
                each.reset()
        return chain

    # Methods and no properties, for Keras looks into every attribute for what to save.

    def current(self) -> keras.optimizers.Optimizer:
        """The optimizer that is at work, or will be next."""
        return self.chained[self._untracked.state.stage]

    def standing(self) -> ChainState:
        """Where the chain stands."""
        return self._untracked.state

    def is_stochastic(self) -> bool:
        """Whether the optimizer at work is one of Keras."""
        return not isinstance(self.current(), BatchOptimizer)

    def train_functions(self) -> dict:
        """The train functions that `fit` has made, by stage, for the next fit."""
        return self._untracked.train_functions

    def begin(self, compilation: object) -> None:
        """A fit begins: where the last one has ended. After the last stage it goes on in the last stage.

        Args:
            compilation: Another object after every `compile`, which forgets the train functions.
        """
        self.advance()
        state = self._untracked.state
        if state.is_over:
            self._untracked.next_state = state._replace(is_over=False, epochs=0)
            self.advance()
            if len(self.chained) > 1:
                _log.warning(_GOES_ON_IN_THE_LAST.format(self.current().name))
        if self._untracked.compilation is not compilation:
            self._untracked.train_functions.clear()
        self._untracked.compilation = compilation

    def reset(self) -> None:
        """The next fit begins with the first stage, from the weights as they are."""
        self._untracked.next_state = ChainState()
        self.advance()
        for train_function in self._untracked.train_functions.values():
            if isinstance(train_function, TrainFunction):
                train_function.close()

    def count_epoch(self, logs: dict, has_ended: bool) -> dict:
        """Takes an epoch of the stage, which may have been its last one: see `stage_is_over`.

        Args:
            logs: Its logs.
            has_ended: Whether the solver has ended by itself.

        Returns:
            The logs with the columns of the chain.
        """
        before = self._untracked.state
        if self.is_stochastic():
            state = before._replace(epochs=before.epochs + 1, passes=before.passes + 1)
            self._untracked.stochastic_result = self._result_of_epochs(state, logs)
        else:
            state = before.counted(int(logs["fg_evals"]), int(logs["hessp_evals"]))
        self._untracked.state = self._untracked.next_state = state
        columns = {"fg_evals": state.passes, "hessp_evals": state.products, "stage": state.stage}
        logs = {"grad": np.nan, **logs, **columns}
        until = self._untracked.until[state.stage]
        is_met = until is not None and bool(until(logs))
        if has_ended or is_met or state.epochs == self._untracked.epochs[state.stage]:
            self.end_stage()
        return logs

    def end_stage(self) -> None:
        """The stage is over. Files say so from here on; it stays at work until `advance`."""
        self._untracked.next_state = self._untracked.state.after_stage(len(self.chained))

    def stage_is_over(self) -> bool:
        """Whether `advance` goes on to another stage, or to the end."""
        return self._untracked.next_state.is_over or self._untracked.next_state.stage != self._untracked.state.stage

    def advance(self) -> None:
        """Goes on to the next stage if this one is over."""
        if self._untracked.state != self._untracked.next_state:
            self._untracked.state = self._untracked.next_state
            until = self._untracked.until[self._untracked.state.stage]
            if hasattr(until, "reset"):
                until.reset()

    @property
    def result(self) -> FitResult | None:
        """The result of the stage at work, or of the last one before it, `None` if there was none.

        Of an optimizer of Keras, which never ends by itself, it says how far it has come.
        """
        if self.is_stochastic() and self._untracked.state.epochs:
            return self._untracked.stochastic_result
        so_far = self.chained[: self._untracked.state.stage + 1]
        results = [each.result for each in so_far if isinstance(each, BatchOptimizer)]
        return next((result for result in reversed(results) if result is not None), None)

    def _result_of_epochs(self, state, logs):
        optimizer, loss = self.current(), logs.get("loss", np.nan)
        message = (
            f"Not converged: {optimizer.name}, stage {state.stage} of {len(self.chained)}, has had "
            f"{state.epochs} epochs. fit goes on from here."
        )
        return FitResult(
            message=message, success=False, status=1, ending=None, method=optimizer.name, fun=loss, nit=state.epochs
        )

    @property
    def iterations(self):
        """The iterations of the current optimizer."""
        return self.current().iterations

    @property
    def learning_rate(self):
        """The learning rate of the current optimizer."""
        return self.current().learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.current().learning_rate = learning_rate

    def build(self, variables):
        """Makes the variables of all optimizers."""
        if self.built:
            return
        super().build(variables)
        for optimizer in self.chained:
            if not optimizer.built:
                optimizer.build(variables)

    def make_train_function(self, model: keras.Model):
        """The train function of the current optimizer, which is one of ours."""
        train_function = self.current().make_train_function(model)
        for other in self._untracked.train_functions.values():
            if isinstance(other, TrainFunction):
                train_function.follow(other)
        return train_function

    def scale_loss(self, loss):
        """As the optimizer at work does."""
        return self.current().scale_loss(loss)

    def apply(self, grads, trainable_variables=None):
        """As the optimizer at work does."""
        return self.current().apply(grads, trainable_variables)

    def finalize_variable_values(self, var_list):
        """As the optimizer at work does."""
        self.current().finalize_variable_values(var_list)

    def save_own_variables(self, store):
        """Saves the optimizer as Keras does, and where the chain stands."""
        super().save_own_variables(store)
        next_state = self._untracked.next_state
        store[_STANDING] = np.array(next_state, "int64")
        state = getattr(self._untracked.until[next_state.stage], "state", None)
        if state is not None and not self.stage_is_over():
            store[_CONDITION] = np.asarray(state, "float64")

    def load_own_variables(self, store):
        """Reads what `save_own_variables` has written."""
        names = set(store.keys())
        if _STANDING in names:
            *counts, is_over = (int(count) for count in np.array(store[_STANDING]))
            self._untracked.state = self._untracked.next_state = ChainState(*counts, bool(is_over))
            until = self._untracked.until[counts[0]]
            if hasattr(until, "reset"):
                until.reset()
            if _CONDITION in names:
                until.state = np.array(store[_CONDITION])
        super().load_own_variables({name: store[name] for name in names - {_STANDING, _CONDITION}})

    def get_config(self):
        return {
            "name": self.name,
            "optimizers": [keras.saving.serialize_keras_object(each) for each in self.chained],
            "epochs": self._untracked.epochs,
            "until": [each and keras.saving.serialize_keras_object(each) for each in self._untracked.until],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The chain with the settings that `get_config` returned."""
        return cls(**deserialized(config, custom_objects))


def current_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer itself, of a chain the one that is at work, without the wrapper that scales losses."""
    optimizer = innermost(optimizer)
    return optimizer.current() if isinstance(optimizer, Chain) else optimizer


def _optimizer(identifier):
    optimizer = any_optimizer(identifier)
    if isinstance(optimizer, Chain):
        raise ValueError("Expected optimizers that are no chains. Received: a Chain in a Chain. Put all in one list.")
    return optimizer


def _check(optimizers, epochs, until):
    if not all(each is None or is_positive_integer(each) for each in epochs):
        raise ValueError(f"Expected positive integers or None. Received: epochs={epochs!r}.")
    if not all(each is None or callable(each) for each in until):
        raise ValueError(f"Expected functions of the logs or None. Received: until={until!r}.")
    for optimizer, bound, condition in list(zip(optimizers, epochs, until, strict=True))[:-1]:
        if bound is None and condition is None and not isinstance(optimizer, BatchOptimizer):
            raise ValueError(
                f"Expected epochs= or until= for {optimizer.name!r}, which never ends by itself. Received: "
                f"epochs={epochs!r}, until={until!r}."
            )


def _for_each_stage(name, values, optimizers):
    count = len(optimizers)
    values = [None] * count if values is None else values
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        raise ValueError(f"Expected a list with an item for each of {count} optimizers. Received: {name}={values!r}.")
    return list(values)


class _Untracked:
    """Holds what neither Keras nor TensorFlow shall track: they would wrap and save it."""

    def __init__(self, epochs, until):
        self.epochs, self.until = epochs, until
        self.state = self.next_state = ChainState()
        self.train_functions = {}
        self.compilation = None  # of the last fit
        self.stochastic_result = None


_GOES_ON_IN_THE_LAST = (
    "All stages of the chain were over: this fit goes on in the last one, {}. Call model.optimizer.reset() before fit "
    "to begin with the first stage again."
)
