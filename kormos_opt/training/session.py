"""One `Model.fit` as its train function sees it: the data, and the `Fit` that begins with the first epoch."""

import functools
from collections.abc import Callable

from kormos_opt.data.full_batch import FullBatch
from kormos_opt.training.fit import Fit


class Session:
    """The calls of one fit. The `Fit` begins with the first of them: callbacks may load weights before it.

    Args:
        data: All rows.
        make_fit: Makes the `Fit`.
        heartbeat: Returns a context in which an epoch shows its rows so far.

    Attributes:
        data: All rows.
    """

    def __init__(self, data: FullBatch, make_fit: Callable[..., Fit], heartbeat: Callable):
        self.data = data
        self.heartbeat = heartbeat
        self._make_fit = make_fit
        self._is_rebuilt = False

    @functools.cached_property
    def fit(self) -> Fit:
        """The fit from its first step on."""
        return self._make_fit(is_first_epoch=not self._is_rebuilt)

    @property
    def is_begun(self) -> bool:
        """Whether there was a first step."""
        return "fit" in vars(self)

    def rebuild(self) -> None:
        """Begins again at the next step."""
        if self.is_begun:
            del self.fit
            self._is_rebuilt = True
