"""The objective with the data of one fit: answers what a solver asks, at points x, float64 of shape `(n,)`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import BatchSequence, FullBatch, batches_of
from kormos_opt.objective import input_sizes, starting_point
from kormos_opt.objective.batch_pass import over_batches
from kormos_opt.objective.chunk_sums import PassResult
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.objective.input_sizes import InputSizes
from kormos_opt.objective.objective import Objective


class BoundObjective:
    """f with its data. Counts the valid entries of masked and weighted losses first, where there are such losses.

    Args:
        objective: f without data.
        data: All rows of this process.
        rows: How many rows there are in all processes, as a float64 tensor.

    Attributes:
        objective: f without data.
        parameters: The weights as a vector.
        state: What a pass moves in the model.
        data: All rows of this process.
        rows: How many rows there are in all processes, as a float64 tensor.
        loss_denominators: The valid entries of every loss that is a mean over them.
    """

    def __init__(self, objective: Objective, data: FullBatch, rows: tf.Tensor):
        self.objective = objective
        self.parameters = objective.parameters
        self.state = objective.state
        self.data = data
        self.rows = rows
        self._row_count = float(rows)
        self._over_whole: dict[str, Callable] = {}
        self.loss_denominators = tf.zeros((0,), tf.float64)
        if objective.terms.counted_losses:
            (self.loss_denominators,) = self._over("denominators", self.parameters.ravel()).sums
            self._over_whole.clear()

    def evaluate(self, x: np.ndarray, gradient: bool = True) -> Evaluation:
        """f, its gradient and the metrics at `x`. Leaves the weights at `x`.

        Args:
            x: The point.
            gradient: Whether the gradient is computed. Defaults to `True`.
        """
        return self._evaluation(x, self._over("gradient" if gradient else "value", x))

    def hvps(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Hessian at `x` times `p` of shape `(n,)`, or times every row of `p` of shape `(k, n)`."""
        if p.ndim == 1:
            (product,) = self._over("hvp", x, p).sums
            return product.numpy() / self._row_count
        block = min(self.objective.vectors_per_block, len(p))
        if block == 1:
            return np.stack([self.hvps(x, vector) for vector in p])
        products = np.empty_like(p)
        for start in range(0, len(p), block):
            vectors = p[start : start + block]
            padded = np.pad(vectors, ((0, block - len(vectors)), (0, 0)))
            (sums,) = self._over("hvps", x, padded).sums
            products[start : start + block] = sums[: len(vectors)].numpy() / self._row_count
        return products

    def null_loss(self) -> float:
        """The loss of the best guess without any input, with the penalties of the weights: 0 where there is none."""
        (total,) = self._over("null_loss", self.parameters.ravel()).sums
        return max(float(total) / self._row_count, 0.0)

    def misfits(self) -> np.ndarray:
        """How many labels and outputs the losses are not defined for, of shape `(losses, 2)`."""
        (counts,) = self._over("misfits", self.parameters.ravel()).sums
        return counts.numpy()

    def may_have_unlike_inputs(self) -> bool:
        """Whether a look at the data leaves it possible that its columns are of different units.

        Nobody looks where a look is a pass: at streams, and at replicas, which have to agree.
        """
        if self.objective.replicas is not None or isinstance(self.data, BatchSequence):
            return True
        return input_sizes.may_be_unlike(self.data.data)

    @functools.cached_property
    def input_sizes(self) -> InputSizes:
        """The sizes of the inputs of all weights that stand on the data, from two passes.

        The second one is about the means: a deviation of a millionth of the mean would be rounding in the first.
        """
        x = self.parameters.ravel()
        means, squares = self._input_moments(x, np.zeros_like(x))
        _, variances = self._input_moments(x, means)
        kernels = input_sizes.kernels_with_bias(self.parameters, self.objective.terms.biases)
        penalties = np.where(squares > 0, input_sizes.penalties(self.parameters), 0.0)
        return InputSizes(np.sqrt(squares + penalties), means, np.sqrt(variances + penalties), kernels)

    def _input_moments(self, x, origin):
        (sums,) = self._over("input_moments", x, origin).sums
        return np.split(sums.numpy() / self._row_count, 2)

    def check_start(self, evaluation: Evaluation) -> None:
        """Raises `ValueError` if f or its gradient is not finite where a run shall start."""
        starting_point.check_evaluation(evaluation.fun, evaluation.jac, batches_of(self.data, self.objective.replicas))

    @property
    def is_one_chunk(self) -> bool:
        """Whether all rows are evaluated at once."""
        return self.objective.replicas is None and self.data.rows <= self.objective.rows_per_chunk

    @property
    def is_one_program(self) -> bool:
        """Whether XLA can compile a pass as a whole: the model asks for it, and there is one chunk in one process."""
        return self.objective.asks_for_xla and self.is_one_chunk

    def graph_function(self) -> tuple[Callable, tuple]:
        """The evaluation over whole tensors for use inside a `tf.function`.

        Returns:
            A function of x, as a tensor, and the tensors of the data, which returns f, its gradient, the statistics of
            BatchNorm and the logs; and the tensors of the data.
        """
        run, data = self.objective.passes["gradient"].graph_function(self.data, self.objective.rows_per_chunk)

        def evaluate(x, rows, loss_denominators, *data):
            (loss, gradient), moving_statistics, logs = run((x,), rows, loss_denominators, *data)
            return loss / rows, gradient / rows, moving_statistics, logs

        return evaluate, (self.rows, self.loss_denominators, *data)

    def _over(self, name, *point) -> PassResult:
        point = tuple(tf.constant(array) for array in point)
        if isinstance(self.data, BatchSequence):
            full_pass, batches = self.objective.passes[name], self.data.batches
            return over_batches(full_pass, batches, point, self.rows, self.loss_denominators)
        if name not in self._over_whole:
            self._over_whole[name] = self.objective.passes[name].over_whole(
                self.data, self.objective.rows_per_chunk, self.rows, self.loss_denominators
            )
        return self._over_whole[name](point)

    def _evaluation(self, x, result):
        loss, *jac = result.sums
        gradient = jac[0].numpy() / self._row_count if jac else None
        return Evaluation(x, float(loss) / self._row_count, gradient, result.logs, result.moving_statistics)
