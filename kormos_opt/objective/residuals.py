"""The residuals of an objective with its data, and their Jacobian, put together from chunks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from kormos_opt import memory_limits
from kormos_opt.data.full_batch import BatchList
from kormos_opt.data.rows import rows_between
from kormos_opt.objective import precision

if TYPE_CHECKING:
    from kormos_opt.objective.bound_objective import BoundObjective
    from kormos_opt.objective.residual_terms import TracedResiduals

_GRADIENTS_AT_ONCE = 128  # fewer of them pay for more calls; measured on 10,000 rows and 201 weights
_COPIES = 4  # of the Jacobian that a solver makes


class Residuals:
    """r(x), whose sum of squares is f(x).

    Args:
        bound: f with its data.
        traced: The functions that it calls.

    Attributes:
        parameters: The weights as a vector.

    Raises:
        ValueError: Under a distribution strategy.
    """

    def __init__(self, bound: BoundObjective, traced: TracedResiduals):
        self._bound, self._objective = bound, bound.objective
        if self._objective.replicas is not None:
            raise ValueError(
                "Expected a model without a distribution strategy for least squares. Received: a model of "
                "several replicas. Make the model outside of strategy.scope(), or take L-BFGS."
            )
        self._traced = traced
        self.parameters = self._objective.parameters
        state = self._objective.state
        state = self._objective.state
        self._may_cut = not (state.seeds or state.moving_statistics or isinstance(bound.data, BatchList))
        self._counts = None

    def values(self, x: np.ndarray) -> np.ndarray:
        """r(x), of shape `(m,)`.

        Raises:
            ValueError: The first time, if the loss is no sum of squares.
        """
        parts = list(self._each_chunk(x, self._objective.rows_per_chunk, self._traced.residuals))
        values = np.concatenate(parts)
        if self._counts is None:
            self._check(x, values)
            self._counts = [part.size for part in parts]
            self._may_cut &= self._traced.terms.squares.is_by_row
        return values

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """The derivatives of r, of shape `(m, n)`: by rows or by columns, whichever takes fewer operations.

        Raises:
            MemoryError: If it would not fit, before any work.
        """
        m, n, all_rows = sum(self._counts_at(x)), self.parameters.size, self._bound.data.rows
        if _COPIES * 8 * m * n > memory_limits.of_process():
            raise MemoryError(
                f"Expected a Jacobian that fits into memory {_COPIES} times. Received: {m} residuals and {n} weights, "
                f'{8 * m * n / 2**30:.1f} GiB. Take jacobian="products", or L-BFGS.'
            )
        rows = min(self._objective.rows_per_chunk, all_rows)
        if self._may_cut:
            rows = max(min(rows, int(_GRADIENTS_AT_ONCE * all_rows / m)), 1)
        if n <= 2 * rows * m / all_rows:
            return self._by_columns(x, m, n)
        jacobian, done = np.empty((m, n)), 0
        for part in self._each_chunk(x, rows, self._traced.jacobian_by_rows):
            jacobian[done : done + len(part)] = part
            done += len(part)
        return jacobian

    def product(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Jacobian times `p` of shape `(n,)`."""
        self._counts_at(x)
        return self._products(x, tf.constant(p[None]))[0]

    def transposed_product(self, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        """The transposed Jacobian times `r` of shape `(m,)`."""
        *counts, last = self._counts_at(x)
        *pieces, once = np.split(r, np.cumsum([*counts, last - self._once]))
        pieces = iter([np.append(piece, once if i == 0 else 0 * once) for i, piece in enumerate(pieces)])

        def of_chunk(*chunk):
            return self._traced.transposed_product(*chunk, tf.constant(next(pieces)))

        return np.sum(list(self._each_chunk(x, self._objective.rows_per_chunk, of_chunk, repeats=True)), axis=0)

    def _counts_at(self, x):
        """How many residuals every chunk has. A solver that goes on in another fit need not ask for values first."""
        if self._counts is None:
            self.values(x)
        return self._counts

    @property
    def _once(self):
        """How many residuals at the end every chunk repeats."""
        return self._traced.terms.squares.once

    def _by_columns(self, x, m, n):
        """Blocks of columns, each with as many vectors as fit."""
        block = min(self._objective.vectors_per_block, n)
        jacobian, units = np.empty((m, n)), np.eye(n)
        for start in range(0, n, block):
            end = min(start + block, n)
            vectors = np.pad(units[start:end], ((0, block - (end - start)), (0, 0)))
            jacobian[:, start:end] = self._products(x, tf.constant(vectors))[: end - start].T
        return jacobian

    def _products(self, x, p):
        """The Jacobian times every row of `p`, of shape `(k, m)`."""

        def of_chunk(*chunk):
            return tf.transpose(self._traced.products(*chunk, p))

        return np.concatenate(list(self._each_chunk(x, self._objective.rows_per_chunk, of_chunk))).T

    def _each_chunk(self, x, rows, function, repeats=False):
        """What `function` makes of every chunk at x, along whose first axis are the residuals. What every chunk repeats
        is that of the last one, unless `repeats`. The model's state is then what it was."""
        state, point = self._objective.state, tf.constant(x)
        before = state.save()
        self.parameters.assign(point)
        part = None
        try:
            for chunk in self._chunks(rows):
                if part is not None:
                    yield part if repeats else part[: len(part) - self._once]
                part = function(point, chunk, self._bound.rows, self._bound.loss_denominators).numpy()
            yield part
        finally:
            state.restore(before)

    def _chunks(self, rows):
        data = self._bound.data
        if isinstance(data, BatchList):
            return data.batches
        return (rows_between(data.data, start, start + rows) for start in range(0, data.rows, rows))

    def _check(self, x, values):
        """Raises `ValueError` if the sum of squares is not f."""
        fun, found = self._bound.evaluate(x, gradient=False).fun, float(values @ values)
        tolerance = np.sqrt(precision.resolution(self._objective.dtype))
        if np.isclose(found, fun, rtol=tolerance, atol=0) or not np.isfinite(fun):
            return
        others = ", ".join(dict.fromkeys(self._traced.terms.squares.others))
        raise ValueError(
            "Expected a loss that is a sum of squares: MeanSquaredError, L2 penalties, and kormos_opt.mean_square in "
            f"losses of your own. Received: a loss of {fun:.6g}, of which {found:.6g} are squares. No squares are "
            f"{others or 'add_loss, a custom loss or train step, or a negative weight'}. Take LBFGS() for this loss."
        )
