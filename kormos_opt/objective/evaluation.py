"""The value that passes from the objective to the runs of solvers."""

from typing import NamedTuple

import numpy as np


class Evaluation(NamedTuple):
    """f at `x`.

    Attributes:
        x: The point, float64 of shape `(n,)`.
        fun: f(x).
        jac: Its gradient, float64 of shape `(n,)`, or `None` where it was not asked for.
        logs: What the train step returned for the last chunk: the metrics over all rows, as tensors.
        moving_statistics: The moving statistics of BatchNorm after a pass at `x`, as tensors.
    """

    x: np.ndarray
    fun: float
    jac: np.ndarray | None
    logs: dict
    moving_statistics: list
