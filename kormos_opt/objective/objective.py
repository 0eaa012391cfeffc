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

from kormos_opt.data.full_batch import NO_ROWS, BatchList, FullBatch, batches_of, first_chunk
from kormos_opt.data.replicas import Replicas, rows_between
from kormos_opt.data.rows import rows_of
from kormos_opt.evaluation import Evaluation
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.keras_internals import tracing
from kormos_opt.objective import chunk_size, precision, starting_point, train_step
from kormos_opt.objective.batch_pass import BatchPass
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.full_pass import FullPass, Outcome, Terms
from kormos_opt.objective.loss_reductions import LossReductions
from kormos_opt.objective.model_state import ModelState
from kormos_opt.objective.outside_variables import OutsideVariables
from kormos_opt.objective.replica_pass import ReplicaPass


class PreparedBatch(NamedTuple):
    """A full batch with what has to be known of it before the first evaluation.

    Attributes:
        full_batch: The data.
        rows: How many rows there are in all processes, as a float64 tensor.
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
        batch_size: Rows of a chunk, or `"auto"` for as many as fit, measured. Defaults to `None`: as many as take
            64 MiB of intermediate results.
        replicas: Those of the model's strategy. Defaults to `None`: it has none.

    Attributes:
        parameters: The weights as a vector.
        state: The state that a pass moves.
        outside: What f depends on beside the weights.
        structure: That of the data it is traced for, see `structure_of`.
        rows_done: A counter of the rows that passes have gone through, for a sign of life from within a pass.
    """

    def __init__(
        self,
        model: keras.Model,
        float64: bool,
        batch_size: int | str | None = None,
        replicas: Replicas | None = None,
    ):
        self._model = model
        self._float64 = float64
        self.batch_size = batch_size
        self._rows_per_chunk = self._vectors_per_block = None
        self._replicas = replicas
        self._counted_losses = 0
        self._is_measured = self._is_doubtful = False
        self._logs = {}
        self.parameters = self.outside = self.structure = None
        self.rows_done = _counter()
        self.state = ModelState(model)
        self._passes = {
            "gradient": self._full_pass(self._gradient_terms, lambda x: ((), x.shape), lambda: self._logs),
            "value": self._full_pass(self._value_terms, lambda x: ((),), lambda: self._logs),
            "product": self._full_pass(self._product_terms, lambda x, p: (p.shape,)),
            "products": self._full_pass(self._products_terms, lambda x, p: (p.shape,)),
            "counts": self._full_pass(self._count_terms, lambda x: ((self._counted_losses,),)),
        }

    def _full_pass(self, of_chunk, *shapes_and_logs):
        terms = Terms(of_chunk, *shapes_and_logs)
        arguments = self._model, self.state, lambda x: self.parameters.assign(x), terms, self.rows_done
        return FullPass(*arguments) if self._replicas is None else ReplicaPass(*arguments, self._replicas)

    def prepare(self, full_batch: FullBatch) -> PreparedBatch:
        """Builds the model, chooses the size of a chunk, and counts the valid entries where losses need them.

        Raises:
            ValueError: Without a row, for NaN in the weights, or for a loss that depends on how the rows are cut.
        """
        rows = full_batch.rows if self._replicas is None else self._replicas.sum_of_rows(full_batch.rows)
        if rows == 0:
            raise ValueError(NO_ROWS)
        batch = PreparedBatch(full_batch, tf.constant(rows, tf.float64), tf.zeros((0,), tf.float64), {})
        chunk = first_chunk(full_batch, self._replicas, chunk_size.FEWEST_ROWS)
        if self.parameters is None:
            self._build(chunk, batch)
            self._check_cut(chunk, full_batch)
        starting_point.check_weights(self.parameters)
        if self._counted_losses:
            (totals,), *_ = self._over(batch, "counts", self.parameters.ravel())
            batch = batch._replace(totals=totals, passes={})
        if self.batch_size == "auto" and not (self._is_measured or isinstance(full_batch, BatchList)):
            self._measure(batch)
            self._is_measured = True
        return batch

    def _build(self, chunk, batch):
        spec = keras.tree.map_structure(keras_model.any_rows, chunk)
        uncounted = tf.TensorSpec((0,), tf.float64)
        if self._replicas is not None:
            keras_model.build(self._model, spec)  # as `fit` has done already
            if self._model.run_eagerly and int(rows_of(chunk)) > 0:
                state = self.state.save()
                self._replicas.run(self._count_terms, (), chunk, batch.rows, batch.totals)
                self.state.restore(state)
        elif self._model.run_eagerly:
            was_built, state = self._model.built, self.state.save()
            self._count_terms((), chunk, batch.rows, batch.totals)
            if was_built:
                self.state.restore(state)
        elif not self._model.built:
            self._passes["counts"].graph((), spec, batch.rows, uncounted)
        self.structure = structure_of(chunk)
        self.parameters = FlatParameters(self._model.trainable_variables)
        point = (tf.TensorSpec((self.parameters.size,), tf.float64),)
        graph = self._passes["gradient"].graph(point, spec, batch.rows, tf.TensorSpec((None,), tf.float64))
        wanted = None if self.batch_size == "auto" else self.batch_size
        self._rows_per_chunk = chunk_size.of(graph, wanted, may_cut=not self.state.averages)
        self.outside = OutsideVariables(self.parameters, self.state, graph)
        rows = min(wanted or self._rows_per_chunk, int(batch.rows))
        self._vectors_per_block = chunk_size.vectors_that_fit(graph, rows, self.parameters.size)

    def _check_cut(self, chunk, full_batch):
        """Compares f of the first rows in one chunk with f of the same rows in two, where Keras alone does not say how
        chunks add up and the data will be cut. At another point too: rounding may be all that is left of a small f."""
        fits = not isinstance(full_batch, BatchList) and full_batch.rows <= self._rows_per_chunk
        if not self._is_doubtful or (fits and self._replicas is None) or self.state.averages:
            return
        if self.outside.is_random:
            return
        rows = min(int(rows_of(chunk)), chunk_size.FEWEST_ROWS)
        if rows < 2 and (self._replicas is None or self._replicas.workers == 1):  # several workers stay in step
            return
        chunk = rows_between(chunk, 0, rows)
        here = self.parameters.ravel()
        cut = [rows_between(chunk, 0, max(rows // 3, 1)), rows_between(chunk, max(rows // 3, 1), rows)]
        elsewhere = here + 0.1 * (1 + np.abs(here)) * np.random.default_rng(0).choice([-1.0, 1.0], here.size)
        try:
            for x in (here, elsewhere):
                one, two = (self._loss_of(batches, max(rows, 1), x) for batches in ([chunk], cut))
                if not np.isfinite([one, two]).all() or abs(one - two) <= self._cut_tolerance() * abs(one):
                    return
        finally:
            self.parameters.assign(here)
        raise ValueError(_DEPENDS_ON_CUT.format(rows, one, two))

    def _cut_tolerance(self):
        return max(1e-4, 8 * precision.resolution("float64" if self._float64 else precision.compute_dtype(self._model)))

    def _loss_of(self, batches, rows, x):
        total, point = tf.constant(rows, tf.float64), (tf.constant(x),)
        totals = tf.zeros((0,), tf.float64)
        if self._counted_losses:
            (totals,), *_ = BatchPass(self._passes["counts"], batches, point, total, totals).finish()
        (loss, *_), *_ = BatchPass(self._passes["gradient"], batches, point, total, totals).finish()
        return float(loss) / rows

    def check_start(self, evaluation: Evaluation, batch: PreparedBatch) -> None:
        """Raises `ValueError` if f or its gradient is not finite where a run shall start."""
        starting_point.check_evaluation(evaluation.fun, evaluation.jac, batches_of(batch.full_batch, self._replicas))

    @property
    def log_names(self) -> set[str]:
        """The names of the logs that the train step returns."""
        return set(self._logs)

    def _measure(self, batch):
        """Chunks as large as the memory takes, for data in whole tensors."""
        full_pass, point = self._passes["gradient"], (tf.constant(self.parameters.ravel()),)

        def evaluate(rows):
            tally = full_pass.begin(point)
            chunk = first_chunk(batch.full_batch, self._replicas, rows)
            self.state.restore(full_pass.add(tally, point, chunk, batch.rows, batch.totals)[0])

        parts, workers = (1, 1) if self._replicas is None else (self._replicas.local, self._replicas.workers)
        usual = self._rows_per_chunk
        self._rows_per_chunk = max(chunk_size.measured(evaluate, batch.full_batch.rows // parts) // parts, 1)
        fewer = max(self._vectors_per_block * usual // self._rows_per_chunk, 1)
        self._vectors_per_block = min(self._vectors_per_block, fewer) if workers == 1 else 1

    def _over(self, batch, name, *point) -> Outcome:
        point = tuple(tf.constant(array) for array in point)
        if isinstance(batch.full_batch, BatchList):
            return self._steps(batch, name, point).finish()
        if name not in batch.passes:
            batch.passes[name] = self._passes[name].over_whole(
                batch.full_batch, self._rows_per_chunk, batch.rows, batch.totals
            )
        return batch.passes[name](point)

    def _steps(self, batch, name, point):
        return BatchPass(self._passes[name], batch.full_batch.batches, point, batch.rows, batch.totals)

    def evaluate(self, x: np.ndarray, batch: PreparedBatch, gradient: bool = True) -> Evaluation:
        """f, its gradient and the metrics at `x`, float64 of shape `(n,)`. Leaves the weights at `x`.

        Args:
            x: The point.
            batch: The data.
            gradient: Whether the gradient is computed. Defaults to `True`.
        """
        return self._evaluation(x, batch, self._over(batch, "gradient" if gradient else "value", x))

    def begin(self, x: np.ndarray, batch: PreparedBatch, gradient: bool = True) -> BatchPass:
        """`evaluate` over batches, which the caller goes through one at a time."""
        return self._steps(batch, "gradient" if gradient else "value", (tf.constant(x),))

    def end(self, steps: BatchPass, x: np.ndarray, batch: PreparedBatch) -> Evaluation:
        """The evaluation at `x` that `begin` began."""
        return self._evaluation(x, batch, steps.finish())

    def _evaluation(self, x, batch, outcome):
        rows = float(batch.rows)
        loss, *jac = outcome.sums
        return Evaluation(x, float(loss) / rows, jac[0].numpy() / rows if jac else None, outcome.logs, outcome.averages)

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
        rows = float(batch.rows)
        if p.ndim == 1:
            (product,), *_ = self._over(batch, "product", x, p)
            return product.numpy() / rows
        block = min(self._vectors_per_block, len(p))
        if block == 1:
            return np.stack([self.products(x, vector, batch) for vector in p])
        products = np.empty_like(p)
        for start in range(0, len(p), block):
            vectors = p[start : start + block]
            padded = np.pad(vectors, ((0, block - len(vectors)), (0, 0)))
            (sums,), *_ = self._over(batch, "products", x, padded)
            products[start : start + block] = sums[: len(vectors)].numpy() / rows
        return products

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
        with tracing.twice_differentiable(), tf.GradientTape(persistent=True) as tape:
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

    def _count_terms(self, point, batch, total_rows, totals):
        """The valid entries of every loss of one chunk that is a mean over valid entries."""
        reductions, _ = self._reductions(batch, total_rows, totals=None)
        self._run_train_step(batch, reductions)
        self._counted_losses = len(reductions.counts)
        return (tf.stack(reductions.counts) if reductions.counts else tf.zeros((0,), tf.float64),), {}

    def _reductions(self, batch, total_rows, totals):
        rows = tf.cast(rows_of(batch), tf.float64)
        return LossReductions(rows, total_rows, totals), rows

    def _run_train_step(self, batch, reductions, substitutes=()):
        float64 = self._float64 or precision.compute_dtype(self._model) == "float64"
        compute = precision.float64_compute(self._model, substitutes) if float64 else contextlib.nullcontext()
        losses = contextlib.nullcontext() if self._replicas is None else tracing.undivided_losses()
        explained = precision.explained() if float64 else contextlib.nullcontext()
        corrected = tracing.corrected_losses(self._model, functools.partial(_reduce, reductions))
        with explained, compute, losses, corrected:
            heard = train_step.run(self._model, precision.in_float64(batch) if float64 else batch)
        self._logs = keras.tree.map_structure(_spec, heard.logs)
        self._is_doubtful |= reductions.has_scalar or keras_model.has_own_loss(self._model)
        if float64:
            precision.check_loss(heard.loss)
        if self.parameters is not None:
            self.parameters.check_trains(heard.variables)
        return heard

    def _reads_x(self):
        """Whether layers read x itself. A custom train step is spared: it may use its gradients of the variables."""
        coarse = any(variable.dtype != "float64" for variable in self.parameters.variables)
        return self._float64 and coarse and keras_model.has_stock_train_step(self._model)


_DEPENDS_ON_CUT = (
    'Expected a loss that adds up over chunks of rows: a mean over rows, or a Loss with reduction="sum". '
    "Received: for the first {} rows {:.6g} in one chunk and {:.6g} in two. Return one value for each row from the "
    "loss function, or the mean over rows; give add_loss a mean over rows. To keep the loss as it is, evaluate all "
    "rows at once: give the optimizer batch_size= as many as there are."
)


def structure_of(chunk):
    """What an objective is traced for: which parts a batch has, of which dtypes and ranks."""
    leaves = keras.tree.map_structure(
        lambda leaf: None if leaf is None else (type(leaf).__name__, leaf.dtype.name, len(leaf.shape)), chunk
    )
    return repr(leaves)


def _counter():
    """An integer that replicas may add to."""
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="rows_done"
        )


def _reduce(reductions, stock, loss, y_true, y_pred, values, sample_weight, mask):
    """The reduction of a loss, which belongs to the objective until the gradients have been handed over."""
    if train_step.listener().gradients is not None:
        return stock(values, sample_weight, mask, loss.reduction)
    return reductions.reduce(stock, loss, y_true, y_pred, values, sample_weight, mask)


def _spec(value):
    value = tf.convert_to_tensor(value)
    return tf.TensorSpec(value.shape, value.dtype)
