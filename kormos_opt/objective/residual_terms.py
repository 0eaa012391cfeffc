"""The residuals of one chunk, where its loss is a sum of squares, and their derivatives.

A product with the transposed Jacobian is one gradient. A product with the Jacobian is the gradient of that product in
its vector, in which it is linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from kormos_opt.data.rows import static_row_count
from kormos_opt.keras_internals import tracing
from kormos_opt.objective.chunk_sums import compiled
from kormos_opt.objective.squares import Squares, heard_by

if TYPE_CHECKING:
    from kormos_opt.objective.chunk_terms import ChunkTerms
    from kormos_opt.objective.objective import Objective


class ResidualTerms:
    """Functions of a point x and a chunk, each for `tf.function`.

    Args:
        terms: What a chunk contributes to the loss.

    Attributes:
        squares: Those that were heard last.
    """

    def __init__(self, terms: ChunkTerms):
        self._terms = terms
        self.squares: Squares | None = None

    def residuals(self, x, chunk, total_rows, loss_denominators):
        """Of shape `(m,)`."""
        residuals, _, _ = self._heard(x, chunk, total_rows, loss_denominators)
        return residuals

    def jacobian_by_rows(self, x, chunk, total_rows, loss_denominators):
        """Of shape `(m, n)`: m gradients at once."""
        residuals, tape, pieces = self._heard(x, chunk, total_rows, loss_denominators)
        units = tf.eye(tf.shape(residuals)[0], dtype=tf.float64)
        return tf.vectorized_map(lambda unit: self._terms.vector_gradient(tape, residuals, pieces, unit), units)

    def products(self, x, chunk, total_rows, loss_denominators, p):
        """The Jacobian times every row of `p`, of shape `(k, n)`: of shape `(k, m)`."""
        residuals, tape, pieces = self._heard(x, chunk, total_rows, loss_denominators)
        return tf.vectorized_map(self._terms.forward(tape, residuals, pieces), p)

    def transposed_product(self, x, chunk, total_rows, loss_denominators, r):
        """The transposed Jacobian times `r`: of shape `(n,)`."""
        residuals, tape, pieces = self._heard(x, chunk, total_rows, loss_denominators)
        return self._terms.vector_gradient(tape, residuals, pieces, r)

    def _heard(self, x, chunk, total_rows, loss_denominators):
        squares, pieces = Squares(static_row_count(chunk)), self._terms.parameters.unravel(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(pieces)
            with tf.GradientTape() as inner:
                inner.watch(pieces)
                with heard_by(squares), tracing.heard_penalties(squares.add_penalty, squares.others.append):
                    loss, share = self._terms.loss(pieces, chunk, total_rows, loss_denominators, squares)
            residuals = squares.residuals(inner, loss, share)
        self.squares = squares
        return residuals, tape, pieces


class TracedResiduals:
    """The functions of `ResidualTerms`, traced once for an objective.

    Args:
        objective: f without data.
    """

    def __init__(self, objective: Objective):
        self.terms = ResidualTerms(objective.terms)
        for name in ("residuals", "jacobian_by_rows", "products", "transposed_product"):
            function = getattr(self.terms, name)
            compiled_function = compiled(function, objective.is_eager, exact=True, jit_compile=objective.asks_for_xla)
            setattr(self, name, compiled_function)
