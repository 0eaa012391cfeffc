"""Conditions that end a stage of a `Chain`: called with the logs of every epoch."""

import math

import keras
import numpy as np


class _Condition:
    """What Keras can save, on one value of the logs."""

    def _value(self, logs):
        """The value of the epoch, `None` if it has none: there may be a validation in every second epoch only.

        Raises:
            ValueError: For a name that no epoch has.
        """
        if self.monitor in logs:
            return float(logs[self.monitor])
        if self.monitor.startswith("val_"):
            return None
        raise ValueError(f"Expected one of {', '.join(sorted(logs))}. Received: monitor={self.monitor!r}.")

    @classmethod
    def from_config(cls, config):
        """The condition with the settings that `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable("kormos_opt")
class plateau(_Condition):  # noqa: N801  called like a function
    """True once a value has not fallen for some epochs.

    Args:
        patience: So many epochs. Defaults to `10`.
        min_delta: By how much the value has to fall to count. Defaults to `0.0`.
        monitor: The name of the value in the logs. Defaults to `"loss"`.

    Example:

    >>> import kormos_opt
    >>> ends = kormos_opt.until.plateau(patience=2)
    >>> [ends({"loss": loss}) for loss in (3.0, 2.0, 2.5, 2.0)]
    [False, False, False, True]
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, monitor: str = "loss"):
        if patience < 1 or min_delta < 0:
            raise ValueError(
                "Expected a positive number of epochs and a change that is not negative. "
                f"Received: patience={patience}, min_delta={min_delta}."
            )
        self.patience = patience
        self.min_delta = min_delta
        self.monitor = monitor
        self.reset()

    def reset(self) -> None:
        """Forgets all epochs."""
        self.state = np.array([np.inf, 0.0])

    def __call__(self, logs) -> bool:
        value, (best, waited) = self._value(logs), self.state
        if value is None:
            return False
        self.state = np.array([value, 0.0] if value < best - self.min_delta else [best, waited + 1])
        return bool(self.state[1] >= self.patience)

    def get_config(self):
        """The arguments."""
        return {"patience": self.patience, "min_delta": self.min_delta, "monitor": self.monitor}


@keras.saving.register_keras_serializable("kormos_opt")
class below(_Condition):  # noqa: N801
    """True once a value is below a bound.

    Args:
        bound: The bound.
        monitor: The name of the value in the logs. Defaults to `"loss"`.

    Example:

    >>> import kormos_opt
    >>> kormos_opt.until.below(0.1)({"loss": 0.05})
    True
    """

    def __init__(self, bound: float, monitor: str = "loss"):
        self.bound = bound
        self.monitor = monitor

    def __call__(self, logs) -> bool:
        value = self._value(logs)
        return value is not None and math.isfinite(value) and value < self.bound

    def get_config(self):
        """The arguments."""
        return {"bound": self.bound, "monitor": self.monitor}
