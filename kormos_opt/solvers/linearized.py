"""Constraints near a point, as scipy takes them: values, derivatives, and steps that keep some of them equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint

_RELATIVE = 1e-6  # of the size of x: a step of a difference quotient


class Linearized:
    """`lower <= values(x) <= upper`, and the derivatives at one point.

    Args:
        constraints: `LinearConstraint`, `NonlinearConstraint`, or a dictionary of SLSQP and COBYLA.
        x: The point, float64 of shape `(n,)`.
        bounds: The bounds of the weights, which count as constraints. Defaults to `None`.

    Attributes:
        here: The values at `x`, float64 of shape `(m,)`.
        lower: Lower bounds of the values.
        upper: Upper bounds.
        jacobian: The derivatives at `x`, of shape `(m, n)`.
        is_equality: Which values have one bound on both sides, bool of shape `(m,)`.

    Example:

    >>> import numpy as np
    >>> from scipy.optimize import NonlinearConstraint
    >>> from kormos_opt.solvers.linearized import Linearized
    >>> circle = Linearized([NonlinearConstraint(lambda x: x @ x, -np.inf, 1.0)], np.array([0.6, 0.8]))
    >>> print(circle.here.round(6), circle.jacobian.round(6))
    [1.] [[1.2 1.6]]
    """

    def __init__(self, constraints: Sequence[Any], x: np.ndarray, bounds: Bounds | None = None):
        of_weights = [] if bounds is None else [LinearConstraint(np.eye(x.size), bounds.lb, bounds.ub)]
        constraints = [*constraints, *of_weights]
        self._functions = []
        values, lowers, uppers, jacobians = [], [], [], []
        for constraint in constraints:
            function, jacobian, lower, upper = _parts(constraint)
            value = np.array(function(x), "float64", ndmin=1)  # a copy: the differences call the function again
            self._functions.append(function)
            values.append(value)
            lowers.append(np.broadcast_to(np.asarray(lower, "float64"), value.shape))
            uppers.append(np.broadcast_to(np.asarray(upper, "float64"), value.shape))
            derivative = jacobian(x) if callable(jacobian) else _differences(function, x)
            jacobians.append(np.reshape(_dense(derivative), (value.size, x.size)))
        self.here = np.concatenate(values)
        self.lower, self.upper = np.concatenate(lowers), np.concatenate(uppers)
        self.jacobian = np.concatenate(jacobians)
        self.is_equality = self.lower == self.upper

    def values(self, x: np.ndarray) -> np.ndarray:
        """All values at `x`, of shape `(m,)`."""
        return np.concatenate([np.atleast_1d(np.asarray(each(x), "float64")) for each in self._functions])

    def reduced(self, gradient: np.ndarray, is_inside: np.ndarray) -> np.ndarray:
        """The gradient of the Lagrange function of the equalities.

        Args:
            gradient: The gradient of f.
            is_inside: The weights between their bounds, which have the multipliers.
        """
        rows = self.jacobian[self.is_equality]
        multipliers = np.linalg.lstsq(rows[:, is_inside].T, gradient[is_inside], rcond=None)[0]
        return gradient - rows.T @ multipliers


class ActiveSet:
    """The constraints that a step keeps equal, to first order: at first the equalities.

    Args:
        constraints: All of them, or `None`.
        gradient: The gradient of f, 0 for weights that do not move.
        is_free: Which weights may move.
        root: A scaling. Tangents are those of variables that are multiplied with it.

    Attributes:
        root: The scaling.
    """

    def __init__(self, constraints: Linearized | None, gradient: np.ndarray, is_free: np.ndarray, root: np.ndarray):
        self._constraints, self._gradient, self._is_free, self.root = constraints, gradient, is_free, root
        self._rows = np.zeros(0, bool)
        if constraints is not None:
            self._rows = constraints.is_equality.copy()
            self._update()

    def _update(self):
        normals = np.where(self._is_free, self._constraints.jacobian[self._rows], 0.0) / self.root
        left, sizes, _ = np.linalg.svd(normals.T, full_matrices=False)
        self._basis = left[:, sizes > _RELATIVE * sizes.max(initial=0.0)]
        self._multipliers = np.linalg.lstsq(normals.T, self._gradient / self.root, rcond=None)[0]

    def add(self, row: int) -> None:
        """Keeps another one equal."""
        self._rows[row] = True
        self._update()

    def tangent(self, vector: np.ndarray) -> np.ndarray:
        """The part of a vector, in scaled variables, that leaves them as they are."""
        return vector if self._constraints is None else vector - self._basis @ (self._basis.T @ vector)

    def longest(self, step: np.ndarray) -> tuple[float, int | None]:
        """How far a step may go, at most 1, and the constraint that ends it before, `None` where there is none."""
        if self._constraints is None:
            return 1.0, None
        at = self._constraints
        change = np.where(self._rows, 0.0, at.jacobian @ step)
        room = np.where(change < 0, np.minimum(at.lower - at.here, 0.0), np.maximum(at.upper - at.here, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = np.where(change != 0, room / change, np.inf)
        ends = int(factors.argmin())
        return (float(factors[ends]), ends) if factors[ends] < 1 else (1.0, None)

    def lagrange(self, fun: float, x: np.ndarray) -> float:
        """f at `x`, less what the constraints that are kept have changed by, times their multipliers."""
        if not self._rows.any():
            return fun
        change = (self._constraints.values(x) - self._constraints.here)[self._rows]
        return fun - self._multipliers @ change


def _parts(constraint):
    """The function, its derivative or `None`, and the bounds of its values."""
    if isinstance(constraint, dict):
        arguments = tuple(constraint.get("args", ()))
        own, derivative = constraint["fun"], constraint.get("jac")
        upper = 0.0 if constraint["type"].lower() == "eq" else np.inf
        jacobian = (lambda x: derivative(x, *arguments)) if callable(derivative) else None
        return (lambda x: own(x, *arguments)), jacobian, 0.0, upper
    if isinstance(constraint, LinearConstraint):
        matrix = np.atleast_2d(_dense(constraint.A))
        return (lambda x: matrix @ x), (lambda x: matrix), constraint.lb, constraint.ub
    return constraint.fun, constraint.jac, constraint.lb, constraint.ub


def _differences(function, x):
    """Central differences."""
    size = _RELATIVE * max(np.abs(x).max(), 1e-8)
    columns = []
    for i in range(x.size):
        step = np.zeros_like(x)
        step[i] = size
        high, low = (np.atleast_1d(np.asarray(function(x + side), "float64")) for side in (step, -step))
        columns.append((high - low) / (2 * size))
    return np.stack(columns, axis=1)


def _dense(matrix):
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix, "float64")
