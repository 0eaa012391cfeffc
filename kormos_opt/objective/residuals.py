"""The residuals of an objective with its data, and their Jacobian, put together from chunks of rows."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kormos_opt.data import memory_limits
from kormos_opt.data.full_batch import BatchSequence
from kormos_opt.data.rows import rows_between
from kormos_opt.objective import precision
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.residual_terms import TracedResiduals
from kormos_opt.objective.starting_point import perturbed

_ENTRIES_AT_ONCE = 2**23  # of the Jacobian, of which TensorFlow holds some copies
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
        objective = self._objective
        differs = bool(objective.captured.is_random or objective.state.moving_statistics)
        self._goes_row_by_row = objective.may_vectorize and not (differs or isinstance(bound.data, BatchSequence))
        self._counts: list[int] | None = None

    def values(self, x: np.ndarray) -> np.ndarray:
        """r(x), of shape `(m,)`.

        Raises:
            ValueError: The first time, if the loss is no sum of squares.
        """
        parts = list(self._each_chunk(x, self._chunks(), self._traced.residuals))
        values = np.concatenate(parts)
        if self._counts is None:
            self._check(x, values)
            self._counts = [part.size for part in parts]
            self._goes_row_by_row &= self._traced.terms.recorder.is_by_row and self._adds_up(x, values)
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
        rows_at_once = 1 if self._goes_row_by_row else min(self._objective.rows_per_chunk, all_rows)
        if n <= 2 * rows_at_once * m / all_rows:
            return self._by_columns(x, m, n)
        return self._row_by_row(x, m, n) if self._goes_row_by_row else self._by_rows(x)

    def product(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Jacobian times `p` of shape `(n,)`."""
        self._counts_at(x)
        return self._products(x, tf.constant(p[None]))[0]

    def transposed_product(self, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        """The transposed Jacobian times `r` of shape `(m,)`."""
        *counts, last = self._counts_at(x)
        *own, shared = np.split(r, np.cumsum([*counts, last - self._shared_count]))
        pieces = iter([np.append(piece, shared if i == 0 else 0 * shared) for i, piece in enumerate(own)])

        def of_chunk(*chunk):
            return self._traced.transposed_products(*chunk, tf.constant(next(pieces)[None]))[0]

        return np.sum(list(self._each_chunk(x, self._chunks(), of_chunk, repeats=True)), axis=0)

    def _counts_at(self, x):
        """How many residuals every chunk has. A solver that goes on in another fit need not ask for values first."""
        if self._counts is None:
            self.values(x)
        return self._counts

    @property
    def _shared_count(self):
        """How many residuals at the end every chunk repeats."""
        return self._traced.terms.recorder.shared_count

    @property
    def _tolerance(self):
        """The relative difference up to which two sums are the same."""
        return np.sqrt(precision.resolution(self._objective.dtype))

    def _by_columns(self, x, m, n):
        """Blocks of columns, each with as many vectors as fit."""
        block = min(self._objective.vectors_per_block, n)
        jacobian, units = np.empty((m, n)), np.eye(n)
        for start in range(0, n, block):
            end = min(start + block, n)
            vectors = np.pad(units[start:end], ((0, block - (end - start)), (0, 0)))
            jacobian[:, start:end] = self._products(x, tf.constant(vectors))[: end - start].T
        return jacobian

    def _by_rows(self, x):
        """Chunk by chunk."""
        *counts, last = self._counts
        counts = iter([*(count + self._shared_count for count in counts), last])

        def of_chunk(*chunk):
            return self._rows_of_chunk(chunk, 0, next(counts))

        return np.concatenate(list(self._each_chunk(x, self._chunks(), of_chunk)))

    def _row_by_row(self, x, m, n):
        """Every row of data by itself, as many at a time as fit; then what every chunk repeats."""
        data = self._bound.data
        of_a_row = (m - self._shared_count) // data.rows
        rows = int(np.clip(_ENTRIES_AT_ONCE // (of_a_row * n), 1, min(self._objective.rows_per_chunk, data.rows)))

        def repeated(*chunk):
            return self._rows_of_chunk(chunk, of_a_row, of_a_row + self._shared_count)

        jacobian, done = np.empty((m, n)), 0
        for part in self._each_chunk(x, self._chunks(rows), self._traced.jacobian_of_each_row, repeats=True):
            jacobian[done : done + len(part)] = part
            done += len(part)
        if self._shared_count:
            (jacobian[done:],) = self._each_chunk(x, [rows_between(data.data, 0, 1)], repeated, repeats=True)
        return jacobian

    def _rows_of_chunk(self, chunk, first, count):
        """Rows `first` to `count` of the Jacobian of a chunk that has `count` residuals: blocks of as many as fit."""
        block = min(self._objective.vectors_per_block, count - first)
        units = np.pad(np.eye(count)[first:], ((0, -(count - first) % block), (0, 0)))
        blocks = np.split(units, len(units) // block)
        parts = [self._traced.transposed_products(*chunk, tf.constant(part)) for part in blocks]
        return tf.concat(parts, axis=0)[: count - first]

    def _products(self, x, p):
        """The Jacobian times every row of `p`, of shape `(k, m)`."""

        def of_chunk(*chunk):
            return tf.transpose(self._traced.products(*chunk, p))

        return np.concatenate(list(self._each_chunk(x, self._chunks(), of_chunk))).T

    def _each_chunk(self, x, chunks, function, repeats=False):
        """What `function` makes of every chunk at x, along whose first axis are the residuals. What every chunk repeats
        is that of the last one, unless `repeats`. The model's state is then what it was."""
        state, point = self._objective.state, tf.constant(x)
        before = state.save()
        self.parameters.assign(point)
        part = None
        try:
            for chunk in chunks:
                if part is not None:
                    yield part if repeats else part[: len(part) - self._shared_count]
                part = function(point, chunk, self._bound.rows, self._bound.loss_denominators).numpy()
            yield part
        finally:
            state.restore(before)

    def _chunks(self, rows=None):
        """All rows, as many at a time as the objective takes, or `rows`."""
        data = self._bound.data
        if isinstance(data, BatchSequence):
            return data.batches
        rows = rows or self._objective.rows_per_chunk
        return (rows_between(data.data, start, start + rows) for start in range(0, data.rows, rows))

    def _adds_up(self, x, values):
        """Whether the first row and the last have by themselves the residuals that they have among all rows."""
        if not self._objective.terms.may_depend_on_chunking:
            return True
        data, of_a_row = self._bound.data, (values.size - self._shared_count) // self._bound.data.rows

        def is_same(row):
            chunk = rows_between(data.data, row, row + 1)
            (alone,) = self._each_chunk(x, [chunk], self._traced.residuals)
            among = values[row * of_a_row :][:of_a_row]
            scale = np.abs(values).max()
            return np.allclose(alone[:of_a_row], among, rtol=self._tolerance, atol=self._tolerance * scale)

        return is_same(0) and is_same(data.rows - 1)

    def _check(self, x, values):
        """Raises `ValueError` if the sum of squares is not f."""
        fun, found = self._bound.evaluate(x, gradient=False).fun, float(values @ values)
        if np.isclose(found, fun, rtol=self._tolerance, atol=0) or not np.isfinite(fun):
            return
        others = ", ".join(dict.fromkeys(self._traced.terms.recorder.others))
        raise ValueError(
            "Expected a loss that is a sum of squares: MeanSquaredError, L2 penalties, and kormos_opt.mean_square in "
            f"losses of your own. Received: a loss of {fun:.6g}, of which {found:.6g} are squares. No squares are "
            f"{others or 'add_loss, a custom loss or train step, or a negative weight'}. Take LBFGS() for this loss."
        )

    def check_elsewhere(self, x: np.ndarray) -> None:
        """A part of a loss may be zero at `x` alone, and a factor may be trained: looks at other weights too.

        Raises:
            ValueError: If f or its gradient is not that of the squares there.
        """
        elsewhere = perturbed(x)
        try:
            values, evaluation = self.values(elsewhere), self._bound.evaluate(elsewhere)
            if not (np.isfinite(values).all() and np.isfinite(evaluation.jac).all()):
                return
            self._check(elsewhere, values)
            difference = 2 * self.transposed_product(elsewhere, values) - evaluation.jac
        finally:
            self.parameters.assign(x)
        if np.linalg.norm(difference) > 10 * self._tolerance * np.linalg.norm(evaluation.jac):
            raise ValueError(
                "Expected squares whose factors stay as they are. Received: a gradient that is not that of the "
                "squares, as with a trained weight= or factor of a mean_square. Make it a part of the residual, or "
                "take LBFGS() for this loss."
            )
