"""The objective f(x) of a compiled model over its full batch, with gradient and metrics.

    f(x) = sum over batches of rows(b) * loss(b) / rows

which is what Keras reports as the loss of an epoch at fixed weights x. An evaluation assigns x, runs the model's own
train step over all chunks, and puts every non-trainable variable (dropout seeds, BatchNorm averages) back to what it
was, so f depends on x alone and two evaluations at one x agree to the last bit.

One evaluation of whole tensors is one call of one `tf.function`.
"""

import contextlib
import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kormos_opt import full_pass, keras_hook, memory, precision, train_step
from kormos_opt.flat_parameters import FlatParameters
from kormos_opt.full_batch import FullBatch
from kormos_opt.full_pass import FullPass
from kormos_opt.loss_reductions import LossReductions

_BLOCK_BYTES = 512 * 2**20
_log = logging.getLogger("kormos_opt")


class Evaluation(NamedTuple):
    """f at `x`.

    Attributes:
        x: The point, float64 of shape `(n,)`.
        fun: f(x).
        jac: Its gradient, float64 of shape `(n,)`, or `None` where it was not asked for.
        logs: What the train step returned for the last chunk: the metrics over all rows, as tensors.
        averages: The BatchNorm averages after a pass at `x`, as tensors.
    """

    x: np.ndarray
    fun: float
    jac: np.ndarray | None
    logs: dict
    averages: list


class PreparedBatch(NamedTuple):
    """A full batch with what has to be known of it before the first evaluation.

    Attributes:
        full_batch: The data.
        rows: How many rows it has, as a float64 tensor.
        totals: The number of valid entries of each masked or weighted loss, float64 of shape `(losses,)`.
        passes: The passes over it, by name, made when they are first needed.
    """

    full_batch: FullBatch
    rows: tf.Tensor
    totals: tf.Tensor
    passes: dict[str, Callable]


class Objective:
    """f(x) for one model; the data comes with every call.

    Args:
        model: A compiled model whose optimizer is ours. `prepare` builds it if it is not built.
        float64: Whether to compute in double precision, whatever the dtypes of the model. A model of float64 layers
            always does: its losses, which Keras would cast to `floatx()`, are kept in float64.
        batch_size: Rows of a chunk. Defaults to `None`: as many as take 64 MiB of intermediate results.
    """

    def __init__(self, model: keras.Model, float64: bool, batch_size: int | None = None):
        self._model = model
        self._float64 = float64
        self.batch_size = self._rows_per_chunk = batch_size
        self._vectors_per_block = None
        self._counted_losses = 0
        self.parameters = None
        compiled = (
            (lambda function: function)
            if model.run_eagerly
            else functools.partial(tf.function, autograph=False, reduce_retracing=True)
        )
        self._counts = compiled(self._run_counts)
        whole_pass = functools.partial(FullPass, model, begin=self._begin, finish=self._finish)
        scalar = functools.partial(tf.zeros, (), tf.float64)
        self._passes = {
            "gradient": whole_pass(self._gradient_terms, lambda x: (scalar(), tf.zeros_like(x))),
            "value": whole_pass(self._value_terms, lambda x: (scalar(),)),
            "product": whole_pass(self._product_terms, lambda x, p: (tf.zeros_like(p),)),
            "products": whole_pass(self._products_terms, lambda x, p: (tf.zeros_like(p),)),
        }

    def prepare(self, full_batch: FullBatch) -> PreparedBatch:
        """Builds the model, chooses the size of a chunk, and counts the valid entries where losses need them."""
        rows = tf.constant(full_batch.rows, tf.float64)
        batch = PreparedBatch(full_batch, rows, tf.zeros((0,), tf.float64), {})
        if self.parameters is None:
            self._build(next(self._chunks(full_batch)), batch)
        if self._counted_losses:
            batch = batch._replace(totals=self._totals(batch))
        return batch

    def _build(self, chunk, batch):
        spec = keras.tree.map_structure(full_pass.any_rows, chunk)
        eager = self._model.run_eagerly
        if eager:
            was_built, state = self._model.built, self.state()
            self._run_counts(chunk, batch.rows)
            if was_built:
                self.restore(state)
        elif not self._model.built:
            self._counts.get_concrete_function(spec, batch.rows)
        self.parameters = FlatParameters(self._model.trainable_variables)
        x = tf.TensorSpec((self.parameters.size,), tf.float64)
        totals = tf.TensorSpec((None,), tf.float64)
        graph = self._passes["gradient"].graph((x,), spec, batch.rows, totals)
        self._rows_per_chunk = self._rows_at_a_time(graph, self._rows_per_chunk)
        self._vectors_per_block = self._vectors_that_fit(graph, min(self._rows_per_chunk, int(batch.rows)))

    def _rows_at_a_time(self, graph, wanted):
        """The rows that were asked for, unless they would fill the memory; BatchNorm needs them as they are."""
        if not wanted:
            return full_pass.rows_that_fit(graph)
        most = wanted if graph is None else full_pass.rows_that_fit(graph, memory.eighth_of_all())
        if most >= wanted or self._averages():
            return wanted
        _log.warning(
            "batch_size=%d rows would take about %.1f GiB of intermediate results: %d rows are evaluated at a time.",
            wanted,
            full_pass.bytes_per_row(graph) * wanted / 2**30,
            most,
        )
        return most

    def _vectors_that_fit(self, graph, rows):
        """Vectors to multiply the Hessian with at once. `tf.vectorized_map` cannot look inside the loops of an RNN."""
        if graph is None or full_pass.has_loops(graph):
            return 1
        return int(np.clip(_BLOCK_BYTES // max(full_pass.bytes_per_row(graph) * rows, 1), 1, self.parameters.size))

    def _chunks(self, full_batch):
        return full_pass.chunks(full_batch, self._rows_per_chunk or full_pass.FEWEST_ROWS)

    def _totals(self, batch):
        state = self.state()
        try:
            return tf.add_n([self._counts(chunk, batch.rows) for chunk in self._chunks(batch.full_batch)])
        finally:
            self.restore(state)

    def _over(self, batch, name, *point):
        if name not in batch.passes:
            batch.passes[name] = self._passes[name].over(
                batch.full_batch, self._rows_per_chunk, batch.rows, batch.totals
            )
        return batch.passes[name](tuple(tf.constant(array) for array in point))

    def evaluate(self, x: np.ndarray, batch: PreparedBatch, gradient: bool = True) -> Evaluation:
        """f, its gradient and the metrics at `x`, float64 of shape `(n,)`. Leaves the weights at `x`.

        Args:
            x: The point.
            batch: The data.
            gradient: Whether the gradient is computed. Defaults to `True`.
        """
        rows = batch.full_batch.rows
        if gradient:
            (loss, jac), averages, logs = self._over(batch, "gradient", x)
            return Evaluation(x, float(loss) / rows, jac.numpy() / rows, logs, averages)
        (loss,), averages, logs = self._over(batch, "value", x)
        return Evaluation(x, float(loss) / rows, None, logs, averages)

    @property
    def seeds(self) -> list[keras.Variable]:
        """The states of the model's seed generators, each of shape `(2,)`."""
        return [each for each in self._model.non_trainable_variables if each.name == "seed_generator_state"]

    @property
    def is_eager(self) -> bool:
        """Whether the model runs without graphs."""
        return self._model.run_eagerly

    def inside(self, batch: PreparedBatch) -> tuple[Callable, tuple]:
        """The evaluation for use inside a `tf.function`.

        Returns:
            A function of x, as a tensor, and the tensors of the data, which returns f, its gradient, the BatchNorm
            averages and the logs; and the tensors of the data.
        """
        run, data = self._passes["gradient"].inside(batch.full_batch, self._rows_per_chunk)

        def evaluate(x, rows, totals, *data):
            (loss, gradient), averages, logs = run((x,), rows, totals, *data)
            return loss / rows, gradient / rows, averages, logs

        return evaluate, (batch.rows, batch.totals, *data)

    def products(self, x: np.ndarray, p: np.ndarray, batch: PreparedBatch) -> np.ndarray:
        """The Hessian at `x` times `p` of shape `(n,)`, or times every row of `p` of shape `(k, n)`."""
        if p.ndim == 1:
            (product,), _, _ = self._over(batch, "product", x, p)
            return product.numpy() / batch.full_batch.rows
        block = min(self._vectors_per_block, len(p))
        if block == 1:
            return np.stack([self.products(x, vector, batch) for vector in p])
        products = np.empty_like(p)
        for start in range(0, len(p), block):
            vectors = p[start : start + block]
            padded = np.pad(vectors, ((0, block - len(vectors)), (0, 0)))
            (sums,), _, _ = self._over(batch, "products", x, padded)
            products[start : start + block] = sums[: len(vectors)].numpy() / batch.full_batch.rows
        return products

    def state(self) -> list[tf.Tensor]:
        """The values of the non-trainable variables."""
        return [tf.identity(variable.value) for variable in self._model.non_trainable_variables]

    def restore(self, state: list[tf.Tensor]) -> None:
        """Assigns what `state` returned."""
        for variable, value in zip(self._model.non_trainable_variables, state, strict=True):
            variable.assign(value)

    def assign_averages(self, averages: list[tf.Tensor]) -> None:
        """Makes the BatchNorm averages those of an evaluation."""
        for variable, value in zip(self._averages(), averages, strict=True):
            variable.assign(value)

    def _averages(self):
        layers = keras_hook.layers(self._model)
        norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        return [variable for layer in norms for variable in layer.non_trainable_variables]

    def _begin(self, x):
        self.parameters.assign(x)
        self._model.reset_metrics()
        return self.state()

    def _finish(self, before):
        averages = [tf.identity(variable.value) for variable in self._averages()]
        self.restore(before)
        return averages

    def _gradient_terms(self, point, batch, total_rows, totals):
        (x,) = point
        reductions, rows = self._reductions(batch, total_rows, totals)
        heard, gradient = self._run_gradient(x, self.parameters.unravel(x), batch, reductions)
        return (rows * tf.cast(heard.loss, tf.float64), rows * gradient), heard.logs

    def _value_terms(self, point, batch, total_rows, totals):
        """The gradient that the train step computes has no reader here, so the graph leaves it out."""
        (x,) = point
        reductions, rows = self._reductions(batch, total_rows, totals)
        heard, _ = self._run_gradient(x, self.parameters.unravel(x), batch, reductions)
        return (rows * tf.cast(heard.loss, tf.float64),), heard.logs

    def _product_terms(self, point, batch, total_rows, totals):
        x, p = point
        product, rows = self._differentiate_twice(x, batch, total_rows, totals)
        return (rows * product(p),), {}

    def _products_terms(self, point, batch, total_rows, totals):
        x, p = point
        product, rows = self._differentiate_twice(x, batch, total_rows, totals)
        return (rows * tf.vectorized_map(product, p),), {}

    def _differentiate_twice(self, x, batch, total_rows, totals):
        """The product of a chunk's Hessian with a vector, as a function of the vector: the gradient of the gradient."""
        reductions, rows = self._reductions(batch, total_rows, totals)
        pieces = self.parameters.unravel(x)
        with keras_hook.twice_differentiable(), tf.GradientTape(persistent=True) as tape:
            tape.watch(pieces)
            _, gradient = self._run_gradient(x, pieces, batch, reductions)
        return functools.partial(self._vector_gradient, tape, gradient, pieces), rows

    def _vector_gradient(self, tape, target, pieces, vector=None):
        """The gradient of `target`, times `vector`, with respect to x, through `pieces` of x and the weights."""
        variables = self.parameters.variables
        sources = (pieces, [variable.value for variable in variables])
        try:
            of_x, of_weights = tape.gradient(target, sources, vector, unconnected_gradients="zero")
        except LookupError as error:
            raise ValueError(
                "Expected operations with a second derivative, which this method needs. Received: an operation "
                f"without one ({str(error).strip()}). Take a method that needs only gradients, such as L-BFGS-B."
            ) from error
        of_weights = [tf.cast(gradient, tf.float64) for gradient in of_weights]  # before slices are added up
        return self.parameters.ravel_values(of_x) + self.parameters.ravel_values(of_weights)

    def _run_gradient(self, x, pieces, batch, reductions):
        """What the train step says of a chunk, and the flat gradient of its loss."""
        if not self._reads_x():
            heard = self._run_train_step(batch, reductions)
            gradient = self.parameters.ravel_gradients(heard.gradients)
        else:
            with tf.GradientTape() as tape:
                tape.watch(pieces)
                substitutes = list(zip(self.parameters.variables, pieces, strict=True))
                heard = self._run_train_step(batch, reductions, substitutes)
            gradient = self._vector_gradient(tape, heard.loss, pieces)
        self._counted_losses = len(reductions.counts)
        return heard, gradient

    def _run_counts(self, batch, total_rows):
        """The valid entries of every loss of one chunk that is a mean over valid entries."""
        reductions, _ = self._reductions(batch, total_rows, totals=None)
        self._run_train_step(batch, reductions)
        self._counted_losses = len(reductions.counts)
        return tf.stack(reductions.counts) if reductions.counts else tf.zeros((0,), tf.float64)

    def _reductions(self, batch, total_rows, totals):
        rows = tf.cast(keras_hook.rows_of(batch), tf.float64)
        return LossReductions(rows, total_rows, totals), rows

    def _run_train_step(self, batch, reductions, substitutes=()):
        float64 = self._float64 or precision.compute_dtype(self._model) == "float64"
        compute = precision.float64_compute(self._model, substitutes) if float64 else contextlib.nullcontext()
        with compute, keras_hook.corrected_losses(reductions.correct):
            heard = train_step.run(self._model, precision.in_float64(batch) if float64 else batch)
        if float64:
            precision.check_loss(heard.loss)
        return heard

    def _reads_x(self):
        """Whether layers read x itself. A custom train step is spared: it may use its gradients of the variables."""
        coarse = any(variable.dtype != "float64" for variable in self.parameters.variables)
        return self._float64 and coarse and keras_hook.has_stock_train_step(self._model)
