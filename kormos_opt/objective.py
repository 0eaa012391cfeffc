"""The objective f(x) of a compiled model over its full batch, with gradient and metrics.

    f(x) = sum over batches of rows(b) * loss(b) / rows

which is what Keras reports as the loss of an epoch at fixed weights x. An evaluation assigns x, runs the model's own
train step over all chunks, and puts every non-trainable variable (dropout seeds, BatchNorm averages) back to what it
was, so f depends on x alone and two evaluations at one x agree to the last bit.

One evaluation of whole tensors is one call of one `tf.function`.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kormos_opt import keras_hook, precision, train_step
from kormos_opt.flat_parameters import FlatParameters
from kormos_opt.full_batch import FullBatch, WholeTensors
from kormos_opt.loss_reductions import LossReductions

_CHUNK_BYTES = 64 * 2**20
_FEWEST_ROWS = 256


class Evaluation(NamedTuple):
    """f at `x`.

    Attributes:
        x: The point, float64 of shape `(n,)`.
        fun: f(x).
        jac: Its gradient, float64 of shape `(n,)`.
        logs: What the train step returned for the last chunk: the metrics over all rows, as tensors.
        averages: The BatchNorm averages after a pass at `x`, as tensors.
    """

    x: np.ndarray
    fun: float
    jac: np.ndarray
    logs: dict
    averages: list


class PreparedBatch(NamedTuple):
    """A full batch with what has to be known of it before the first evaluation.

    Attributes:
        full_batch: The data.
        rows: How many rows it has, as a float64 tensor.
        totals: The number of valid entries of each masked or weighted loss, float64 of shape `(losses,)`.
        whole: Evaluates whole tensors, called with x, `rows`, `totals` and the tensors of `data`.
        data: The whole tensors, flat.
    """

    full_batch: FullBatch
    rows: tf.Tensor
    totals: tf.Tensor
    whole: Callable | None = None
    data: tuple = ()


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
        self._rows_per_chunk = batch_size
        self._counted_losses = 0
        self.parameters = None
        compiled = compiled_chunk = lambda function: function
        if not model.run_eagerly:
            compiled = functools.partial(tf.function, autograph=False, reduce_retracing=True)
            compiled_chunk = functools.partial(compiled, jit_compile=model.jit_compile)
        self._sums = compiled_chunk(self._run_sums)
        self._counts = compiled(self._run_counts)
        self._whole = functools.cache(lambda *cut: compiled(functools.partial(self._run_whole, *cut)))
        self._begin = compiled(self._run_begin)
        self._finish = compiled(self._run_finish)

    def prepare(self, full_batch: FullBatch) -> PreparedBatch:
        """Builds the model, chooses the size of a chunk, and counts the valid entries where losses need them."""
        batch = PreparedBatch(full_batch, tf.constant(full_batch.rows, tf.float64), tf.zeros((0,), tf.float64))
        if self.parameters is None:
            self._build(next(self._chunks(full_batch)), batch)
        if self._counted_losses:
            batch = batch._replace(totals=self._totals(batch))
        if isinstance(full_batch, WholeTensors):
            batch = batch._replace(**self._prepare_whole(batch))
        return batch

    def _build(self, chunk, batch):
        spec = keras.tree.map_structure(_any_rows, chunk)
        eager = self._model.run_eagerly
        if eager:
            was_built, state = self._model.built, self.state()
            self._run_counts(chunk, batch.rows)
            if was_built:
                self.restore(state)
        elif not self._model.built:
            self._counts.get_concrete_function(spec, batch.rows)
        self.parameters = FlatParameters(self._model.trainable_variables)
        if not eager:
            x = tf.TensorSpec((self.parameters.size,), tf.float64)
            traced = self._sums.get_concrete_function(x, spec, batch.rows, tf.TensorSpec((None,), tf.float64))
        self._rows_per_chunk = self._rows_per_chunk or (_FEWEST_ROWS if eager else _rows_that_fit(traced.graph))

    def _totals(self, batch):
        state = self.state()
        try:
            return tf.add_n([self._counts(chunk, batch.rows) for chunk in self._chunks(batch.full_batch)])
        finally:
            self.restore(state)

    def _prepare_whole(self, batch):
        """One concrete function of flat tensors: a call costs a fraction of what calling a `tf.function` does."""
        one_chunk = batch.full_batch.rows <= self._rows_per_chunk
        leaves = keras.tree.flatten(batch.full_batch.data)
        data = tuple(leaf for leaf in leaves if leaf is not None)
        structure = keras.tree.map_structure(lambda leaf: leaf is not None, batch.full_batch.data)
        whole = self._whole(_Structure(structure), one_chunk)
        if not self._model.run_eagerly:
            x = tf.TensorSpec((self.parameters.size,), tf.float64)
            whole = keras_hook.flat_call(whole.get_concrete_function(x, batch.rows, batch.totals, *data))
        return {"whole": whole, "data": data}

    def evaluate(self, x: np.ndarray, batch: PreparedBatch) -> Evaluation:
        """f, its gradient and the metrics at `x`, float64 of shape `(n,)`. Leaves the weights at `x`."""
        if isinstance(batch.full_batch, WholeTensors):
            fun, jac, averages, logs = batch.whole(tf.constant(x), batch.rows, batch.totals, *batch.data)
        else:
            x_tensor, sums = tf.constant(x), None
            before = self._begin(x_tensor)
            rows = 0
            for chunk in batch.full_batch.batches:
                rows += int(keras_hook.rows_of(chunk))
                *terms, logs = self._sums(x_tensor, chunk, batch.rows, batch.totals)
                sums = terms if sums is None else [total + term for total, term in zip(sums, terms, strict=True)]
            if rows != batch.full_batch.rows:
                raise RuntimeError(
                    f"Expected {batch.full_batch.rows} rows in every pass over the data, as in the first. "
                    f"Received: {rows} rows. Give the optimizer cache=True, or a data set of fixed length."
                )
            fun, jac, averages = self._finish(before, *sums, batch.rows)
        return Evaluation(x, float(fun), jac.numpy(), logs, averages)

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

    def _chunks(self, full_batch):
        if not isinstance(full_batch, WholeTensors):
            yield from full_batch.batches
            return
        size = self._rows_per_chunk or _FEWEST_ROWS
        for start in range(0, full_batch.rows, size):
            yield _rows(full_batch.data, start, size)

    def _run_whole(self, structure, one_chunk, x, total_rows, totals, *flat):
        data = structure.fill(flat)
        before = self._run_begin(x)
        if one_chunk:
            *sums, logs = self._sums(x, data, total_rows, totals)
            return *self._run_finish(before, *sums, total_rows), logs

        size = self._rows_per_chunk
        start_of_last = (tf.cast(total_rows, tf.int32) - 1) // size * size

        def add(start, *sums):
            *terms, _ = self._sums(x, _rows(data, start, size), total_rows, totals)
            return start + size, *(total + term for total, term in zip(sums, terms, strict=True))

        start, *sums = tf.while_loop(
            lambda start, *_: start < start_of_last,
            add,
            (tf.constant(0), tf.zeros((), tf.float64), tf.zeros((self.parameters.size,), tf.float64)),
            parallel_iterations=1,
        )
        *terms, logs = self._sums(x, _rows(data, start, size), total_rows, totals)
        sums = [total + term for total, term in zip(sums, terms, strict=True)]
        return *self._run_finish(before, *sums, total_rows), logs

    def _run_begin(self, x):
        self.parameters.assign(x)
        self._model.reset_metrics()
        return self.state()

    def _run_finish(self, before, loss, gradient, total_rows):
        averages = [tf.identity(variable.value) for variable in self._averages()]
        self.restore(before)
        return loss / total_rows, gradient / total_rows, averages

    def _run_sums(self, x, batch, total_rows, totals):
        """`rows * loss`, `rows * gradient` and the logs of one chunk."""
        reductions, rows = self._reductions(batch, total_rows, totals)
        if self._reads_x():
            heard, gradients = self._run_reading(x, batch, reductions)
        else:
            heard = self._run_train_step(batch, reductions)
            gradients = heard.gradients
        self._counted_losses = len(reductions.counts)
        gradient = self.parameters.ravel_gradients(gradients)
        return rows * tf.cast(heard.loss, tf.float64), rows * gradient, heard.logs

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

    def _run_reading(self, x, batch, reductions):
        """The train step over layers that read x in place of their weights, and the gradient with respect to both."""
        variables = self.parameters.variables
        pieces = self.parameters.unravel(x)
        with tf.GradientTape() as tape:
            tape.watch(pieces)
            heard = self._run_train_step(batch, reductions, list(zip(variables, pieces, strict=True)))
        sources = (pieces, [variable.value for variable in variables])
        of_x, of_weights = tape.gradient(heard.loss, sources, unconnected_gradients="zero")
        pairs = zip(variables, of_x, of_weights, strict=True)
        return heard, {id(v): tf.convert_to_tensor(a) + tf.cast(b, tf.float64) for v, a, b in pairs}


class _Structure:
    """Where the tensors of a batch belong; equal for batches of one structure, so that they share a trace."""

    def __init__(self, structure):
        self._structure = structure

    def __eq__(self, other):
        return repr(self._structure) == repr(other._structure)

    def __hash__(self):
        return hash(repr(self._structure))

    def fill(self, tensors):
        """The batch with these tensors, in order, where there were tensors, `None` elsewhere."""
        tensors = iter(tensors)
        return keras.tree.map_structure(lambda there: next(tensors) if there else None, self._structure)


def _rows(data, start, size):
    """Rows `start` to `start + size` of whole tensors. Where they are aligned, TensorFlow shares the memory."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[start : start + size], data)


def _any_rows(leaf):
    """What to trace a chunk for: the dtype and shape of `leaf` with any number of rows."""
    if not isinstance(leaf, tf.Tensor) or leaf.shape.rank == 0:
        return leaf
    return tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype)


def _rows_that_fit(graph):
    """Rows whose intermediate results, all of them at once, take `_CHUNK_BYTES`. A multiple of 64: see `_rows`.

    Results inside loops, as those of recurrent layers, are not seen.
    """
    bytes_per_row = 0
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            if tensor.shape.rank and tensor.shape[0] is None:
                inner = [size for size in tensor.shape[1:] if size is not None]
                bytes_per_row += int(np.prod(inner)) * tensor.dtype.size
    return max(_FEWEST_ROWS, _CHUNK_BYTES // max(bytes_per_row, 1) // 64 * 64)
