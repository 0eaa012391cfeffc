"""The residuals of one chunk, where its loss is a sum of squares, and their derivatives.

A product with the transposed Jacobian is one gradient. A product with the Jacobian is the gradient of that product in
its vector, in which it is linear.
"""

from __future__ import annotations

import tensorflow as tf

from kormos_opt.data.rows import row_of, static_row_count
from kormos_opt.keras_internals import recorded
from kormos_opt.objective.chunk_sums import compiled
from kormos_opt.objective.chunk_terms import ChunkTerms
from kormos_opt.objective.objective import Objective
from kormos_opt.objective.residual_recorder import ResidualRecorder, recording


class ResidualTerms:
    """Functions of a point x and a chunk, each for `tf.function`.

    Args:
        terms: What a chunk contributes to the loss.

    Attributes:
        recorder: The recorder of the chunk that was traced last.
    """

    def __init__(self, terms: ChunkTerms):
        self._terms = terms
        self.recorder: ResidualRecorder | None = None

    def residuals(self, x, chunk, total_rows, loss_denominators):
        """The residuals, of shape `(m,)`."""
        residuals, _, _ = self._recorded(x, chunk, total_rows, loss_denominators)
        return residuals

    def jacobian_of_each_row(self, x, chunk, total_rows, loss_denominators):
        """The Jacobian, of shape `(m, n)`, where every residual belongs to a row, without those that all chunks repeat.

        Every row runs the train step by itself, all rows at once.
        """

        def of_row(i):
            residuals, tape, pieces = self._recorded(x, row_of(chunk, i), total_rows, loss_denominators)
            units = tf.eye(residuals.shape[0], dtype=tf.float64)[: residuals.shape[0] - self.recorder.shared_count]
            return tf.vectorized_map(lambda unit: self._terms.vector_gradient(tape, residuals, pieces, unit), units)

        jacobian = tf.vectorized_map(of_row, tf.range(static_row_count(chunk)))
        return tf.reshape(jacobian, (-1, x.shape[0]))

    def products(self, x, chunk, total_rows, loss_denominators, p):
        """The Jacobian times every row of `p`, of shape `(k, n)`: of shape `(k, m)`."""
        residuals, tape, pieces = self._recorded(x, chunk, total_rows, loss_denominators)
        return tf.vectorized_map(self._terms.forward(tape, residuals, pieces), p)

    def transposed_products(self, x, chunk, total_rows, loss_denominators, r):
        """The transposed Jacobian times every row of `r`, of shape `(k, m)`: of shape `(k, n)`."""
        residuals, tape, pieces = self._recorded(x, chunk, total_rows, loss_denominators)
        return tf.vectorized_map(lambda row: self._terms.vector_gradient(tape, residuals, pieces, row), r)

    def _recorded(self, x, chunk, total_rows, loss_denominators):
        recorder, pieces = ResidualRecorder(static_row_count(chunk)), self._terms.parameters.unravel(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(pieces)
            with tf.GradientTape() as inner:
                inner.watch(pieces)
                with recording(recorder), recorded.recorded_penalties(recorder.add_penalty, recorder.others.append):
                    loss, share = self._terms.loss(pieces, chunk, total_rows, loss_denominators, recorder)
            residuals = recorder.residuals(inner, loss, share)
        self.recorder = recorder
        return residuals, tape, pieces


class TracedResiduals:
    """The functions of `ResidualTerms`, traced once for an objective.

    XLA compiles them where the model asks for it, unless there are loops as those of recurrent layers: it unrolls
    nothing there, and a Jacobian takes tens of times as long.

    Args:
        objective: f without data.
    """

    def __init__(self, objective: Objective):
        self.terms = ResidualTerms(objective.terms)
        jit_compile = objective.asks_for_xla and objective.may_vectorize

        def traced(function):
            return compiled(function, objective.is_eager, exact=True, jit_compile=jit_compile)

        self.residuals = traced(self.terms.residuals)
        self.jacobian_of_each_row = traced(self.terms.jacobian_of_each_row)
        self.products = traced(self.terms.products)
        self.transposed_products = traced(self.terms.transposed_products)
