"""The Gauss-Newton matrix of a chunk, times a vector: positive semidefinite wherever the loss is convex in its outputs.

    G p = J' H J p + P p

J is the Jacobian of the outputs that the losses compare, H the exact Hessian of the losses in these outputs, P that of
penalties, which see the weights themselves. For outputs that are linear in the weights G is the Hessian.

Where a softmax or a sigmoid hands its logits on to a crossentropy, as Keras's do, the logits are the outputs.

Sources: Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation 14
(2002); Martens, Deep learning via Hessian-free optimization (2010).
"""

from collections.abc import Sequence

import tensorflow as tf


class Outputs:
    """The outputs of one chunk, detached from the weights that they come from: losses see them as constants.

    Args:
        tapes: What the losses are computed on.

    Attributes:
        whole: The outputs, as functions of the weights.
        detached: These outputs as constants, which the tapes watch.
    """

    def __init__(self, tapes: Sequence[tf.GradientTape]):
        self._tapes = tapes
        self.whole: list[tf.Tensor] = []
        self.detached: list[tf.Tensor] = []

    def constant(self, output):
        """What a loss is given in place of an output."""
        constant = self._detach(output)
        logits = getattr(output, "_keras_logits", None)
        if logits is not None:
            constant._keras_logits = self._detach(logits)
        return constant

    def add(self, residual, weight, value) -> None:
        """Takes a square of `mean_square`, which has detached its residual already."""

    def _detach(self, output):
        constant = tf.stop_gradient(output)
        for tape in self._tapes:
            tape.watch(constant)
        self.whole.append(output)
        self.detached.append(constant)
        return constant


def product(terms, pieces, run):
    """G times a vector, as a function of the vector, float64 of shape `(n,)`.

    Args:
        terms: The `ChunkTerms`.
        pieces: The weights, as tensors of their shapes.
        run: Called with `Outputs`. Returns the loss of the chunk.

    Raises:
        ValueError: If no loss has told its outputs.
    """
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(pieces)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(pieces)
            outputs = Outputs([outer, inner])
            loss = run(outputs)
        slopes = inner.gradient(loss, outputs.detached, unconnected_gradients="zero")
        of_penalties = terms.vector_gradient(inner, loss, pieces)
    if not outputs.whole:
        raise ValueError(
            'Expected losses whose outputs are known for curvature="gauss-newton": those of Keras, or '
            "kormos_opt.mean_square in losses of your own. Received: a loss that is computed otherwise. Take "
            'curvature="exact".'
        )
    forward = [terms.forward(outer, output, pieces) for output in outputs.whole]

    def times(p):
        moved = [tf.cast(along(p), output.dtype) for along, output in zip(forward, outputs.whole, strict=True)]
        bent = outer.gradient(slopes, outputs.detached, moved, unconnected_gradients="zero")
        back = [
            terms.vector_gradient(outer, output, pieces, vector)
            for output, vector in zip(outputs.whole, bent, strict=True)
        ]
        return tf.add_n([*back, terms.vector_gradient(outer, of_penalties, pieces, p)])

    return times
