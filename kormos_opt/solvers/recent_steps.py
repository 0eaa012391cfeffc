"""The last steps of a run, from which the smallest curvature of f can be bounded without another evaluation.

On a quadratic S H = Y, where the rows of S are steps and those of Y the changes of the gradient. Once the steps span
all weights, no curvature is smaller than the smallest singular value of Y over the largest one of S. Only problems with
few weights come so far within a few iterations, so nothing is kept for the others.
"""

from __future__ import annotations

import numpy as np

FEW = 10  # weights
_TURNS = 2  # times as many steps as weights are kept
_ROUNDING = 10  # times the estimate
_SEEN = 10  # times the rounding: a change of the gradient that says something


class RecentSteps:
    """Steps and changes of the gradient, in the variables of the solver.

    Args:
        values: Of the shape that `shape` says: S, then Y. The last row is the newest; zeros stand for steps that were
            not made.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.solvers.recent_steps import RecentSteps
    >>> steps = RecentSteps.none(2)
    >>> for s in np.eye(2):
    ...     steps.add(s, np.diag([1e-4, 1.0]) @ s)
    >>> round(float(steps.smallest_curvature(fun=1.0, resolution=2e-16)), 9)
    0.0001
    """

    def __init__(self, values: np.ndarray):
        self.values = np.array(values, "float64")

    @staticmethod
    def shape(size: int) -> tuple[int, int, int]:
        """The shape of the array that is kept for `size` weights."""
        return 2, _TURNS * size if size <= FEW else 0, size

    @classmethod
    def none(cls, size: int) -> RecentSteps:
        """Before the first step."""
        return cls(np.zeros(cls.shape(size)))

    def add(self, s: np.ndarray, y: np.ndarray) -> None:
        """Takes a step and the change of the gradient."""
        if self.values.shape[1]:
            self.values[:, :-1] = self.values[:, 1:]
            self.values[:, -1] = s, y

    def smallest_curvature(self, fun: float, resolution: float) -> float:
        """A lower bound for the curvatures of a quadratic f, 0 where the steps tell none.

        Args:
            fun: f at the last point. With the largest curvature it says how large the terms of the gradient are, whose
                rounding hides small changes.
            resolution: The relative resolution of f.
        """
        length = np.linalg.norm(self.values[0], axis=1, keepdims=True)
        s, y = self.values[:, length[:, 0] > 0] / length[length > 0][:, None]
        if len(s) < s.shape[1]:
            return 0.0
        noise = _ROUNDING * resolution * np.sqrt(abs(fun) * np.linalg.norm(y, 2)) / length[length > 0]
        is_seen = np.linalg.norm(y, axis=1) > _SEEN * noise
        if np.count_nonzero(is_seen) < s.shape[1]:
            return 0.0
        smallest = np.linalg.svd(y[is_seen], compute_uv=False)[-1] - np.linalg.norm(noise[is_seen])
        return max(smallest, 0.0) / np.linalg.norm(s[is_seen], 2)
