"""The contract between a solver and whoever evaluates the objective for it.

A solver is a generator. It yields `Evaluate(x)` and is sent `(fun, jac)`; it yields `Iterate(x)` once for
every iterate it accepts and is sent `None`; it ends by returning a `scipy.optimize.OptimizeResult`.
Between two requests it is suspended and costs nothing, so one iteration can be one Keras epoch.
Closing the generator frees all that it holds.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult


class Evaluate(NamedTuple):
    """Asks for `(fun, jac)` at `x`: a float and a float64 array of shape `(n,)`."""

    x: np.ndarray


class Iterate(NamedTuple):
    """Says that `x` is the next iterate. Its answer is `None`."""

    x: np.ndarray


Solver = Generator[Evaluate | Iterate, tuple[float, np.ndarray] | None, OptimizeResult]
