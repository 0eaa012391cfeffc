"""Answers the requests of a solver during one fit."""

from __future__ import annotations

import functools

import numpy as np

from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.build import residuals_of
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.base import (
    Jacobian,
    JacobianProduct,
    OfResiduals,
    TransposedProduct,
)


class ObjectiveOracle:
    """The answers of an objective that is bound to the data of a fit.

    Args:
        objective: f.

    Attributes:
        objective: f.
    """

    def __init__(self, objective: BoundObjective):
        self.objective = objective
        self._is_first = self._are_first_residuals = True

    def evaluate(self, x: np.ndarray, gradient: bool) -> Evaluation:
        """f at `x`, and its gradient.

        Raises:
            ValueError: If the first evaluation leaves other weights than it was given.
        """
        evaluation = self.objective.evaluate(x, gradient)
        if self._is_first:
            self._check_weights(x)
        self._is_first = False
        return evaluation

    def hvps(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Hessian at `x` times every row of `p`."""
        return self.objective.hvps(x, p)

    def of_residuals(self, request: OfResiduals) -> np.ndarray:
        """The answer to a request of least squares."""
        residuals = self._residuals
        if isinstance(request, Jacobian):
            return residuals.jacobian(request.x)
        if isinstance(request, JacobianProduct):
            return residuals.product(request.x, request.p)
        if isinstance(request, TransposedProduct):
            return residuals.transposed_product(request.x, request.r)
        values = residuals.values(request.x)
        if self._are_first_residuals:
            residuals.check_elsewhere(request.x)
        self._are_first_residuals = False
        return values

    @functools.cached_property
    def _residuals(self):
        return residuals_of(self.objective)

    def check_start(self, evaluation: Evaluation) -> None:
        """Raises `ValueError` if a run cannot start from this evaluation."""
        self.objective.check_start(evaluation)

    def seeds(self) -> np.ndarray:
        """The states of the model's seed generators, int64 of shape `(count, 2)`."""
        states = [seed.numpy() for seed in self.objective.state.seeds]
        return np.reshape(states, (len(states), 2)).astype("int64")

    def _check_weights(self, x):
        parameters = self.objective.parameters
        if not np.array_equal(parameters.ravel(), parameters.round(x)):
            raise ValueError(
                "Expected layers that leave the trainable weights alone in their call: the loss must be a function of "
                "the weights. Received: weights that changed in an evaluation, as SpectralNormalization changes them. "
                "Leave that layer out, or freeze it."
            )
