"""The objective f(x) of a compiled model, for any data of one structure: traced once, bound to the data of each fit.

    f(x) = sum over batches of rows(b) * loss(b) / rows

which is what Keras reports as the loss of an epoch at fixed weights x. An evaluation assigns x, runs the model's own
train step over all chunks, and puts every non-trainable variable (dropout seeds, BatchNorm statistics) back to what it
was, so f depends on x alone and two evaluations at one x agree to the last bit.

One evaluation of whole tensors is one call of one `tf.function`.
"""

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt import memory_limits
from kormos_opt.data.full_batch import NO_ROWS, BatchList, FullBatch, WholeTensors, first_chunk
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_of
from kormos_opt.keras_internals import graphs
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective import chunk_size, loss_domains, precision, starting_point
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.chunk_terms import ChunkTerms
from kormos_opt.objective.cut_check import check_cut
from kormos_opt.objective.full_pass import FullPass, OneReplica
from kormos_opt.objective.model_state import ModelState
from kormos_opt.objective.outside_variables import OutsideVariables
from kormos_opt.objective.replica_pass import ReplicaPass
from kormos_opt.objective.residual_terms import TracedResiduals
from kormos_opt.objective.residuals import Residuals

_UNCOUNTED = tf.TensorSpec((0,), tf.float64)


class ObjectiveSettings(NamedTuple):
    """How f is evaluated.

    Attributes:
        float64: Whether to compute in double precision, whatever the dtypes of the model. A model of float64 layers
            always does: its losses, which Keras would cast to `floatx()`, are kept in float64.
        batch_size: Rows of a chunk, `"auto"` for as many as fit, measured, or `None` for as many as take 64 MiB of
            intermediate results.
        curvature: Of products: `"exact"` for the Hessian, `"gauss-newton"` for the Gauss-Newton matrix.
        copies: Whether data may be cast once for all evaluations, where that takes little memory.
        checks: Whether to check that the loss adds up over chunks and is defined for the data.
    """

    float64: bool = False
    batch_size: int | str | None = None
    curvature: str = "exact"
    copies: bool = True
    checks: bool = True

    @classmethod
    def of(cls, optimizer, is_in_float64: bool = False) -> "ObjectiveSettings":
        """Those of an optimizer, and of a run whose `precision="auto"` is float64 by now."""
        return cls(optimizer.precision == "float64" or is_in_float64, optimizer.batch_size, optimizer.curvature)

    def prepared(self, data: FullBatch, replicas: Replicas | None) -> FullBatch:
        """The data in float64 where f is, once for all evaluations, if that takes an eighth of the memory at most."""
        if not (self.float64 and self.copies) or replicas is not None or isinstance(data, BatchList):
            return data
        leaves = [leaf for leaf in keras.tree.flatten(data.data) if leaf is not None and leaf.dtype.is_floating]
        if sum(8 * int(tf.size(leaf)) for leaf in leaves) > memory_limits.eighth_of_all():
            return data
        return data._replace(data=precision.in_float64(data.data))


class Objective:
    """f(x) for one model, complete once `build` has made it.

    Attributes:
        settings: How it is evaluated.
        replicas: Those of the model's strategy, `None` if it has none.
        passes: The passes, by what they add up.
        terms: What one chunk contributes.
        parameters: The weights as a vector.
        state: What a pass moves in the model.
        outside: What f depends on beside the weights.
        rows_done: A counter of the rows that passes have gone through, for a sign of life from within a pass.
        may_vectorize: Whether `tf.vectorized_map` can run the train step.
        traces: What others have traced over it, by keys of theirs. It lives as long as the objective.
    """

    def __init__(self, model, settings, replicas, structure, terms, state, passes, rows_done, graph, rows):
        self._model = model
        self.settings = settings
        self._structure = structure
        self.replicas = replicas
        self.terms = terms
        self.passes = passes
        self._measured = False
        self.traces = {}
        self.is_eager = model.run_eagerly
        self.asks_for_xla = bool(model.jit_compile) and not model.run_eagerly
        self.may_vectorize = graph is not None and not chunk_size.has_loops(graph)
        self.parameters = terms.parameters
        self.state = state
        self.outside = OutsideVariables(self.parameters, state, graph)
        self.rows_done = rows_done
        wanted = None if settings.batch_size == "auto" else settings.batch_size
        self.rows_per_chunk = chunk_size.of(graph, wanted, may_cut=not state.moving_statistics)
        rows = min(wanted or self.rows_per_chunk, rows)
        self.vectors_per_block = chunk_size.vectors_that_fit(graph, rows, self.parameters.size)

    @classmethod
    def build(
        cls, model: keras.Model, settings: ObjectiveSettings, data: FullBatch, replicas: Replicas | None = None
    ) -> "Objective":
        """Builds the model if it is not built, and traces f for data of this structure.

        Args:
            model: A compiled model whose optimizer is ours.
            settings: How f is evaluated.
            data: The data to begin with.
            replicas: Those of the model's strategy. Defaults to `None`: it has none.

        Raises:
            ValueError: Without a row, for NaN in the weights, or for a loss that depends on how the rows are cut.
        """
        rows = _all_rows(data, replicas)
        _check_fixed_batch(model, settings, rows)
        structure = _structure_of(data, replicas)
        data = settings.prepared(data, replicas)
        terms = ChunkTerms(model, settings.float64, replicas is not None, settings.curvature)
        state, rows_done = ModelState(model), _counter()
        passes = {
            name: FullPass(
                model,
                state,
                lambda x: terms.parameters.assign(x),
                OneReplica(model, state, quantity, rows_done)
                if replicas is None
                else ReplicaPass(model, state, quantity, rows_done, replicas),
            )
            for name, quantity in terms.quantities.items()
        }
        chunk = first_chunk(data, replicas, chunk_size.FEWEST_ROWS)
        spec, total_rows = keras.tree.map_structure(keras_model.any_rows, chunk), tf.constant(rows, tf.float64)
        _build_model(model, terms, state, passes, replicas, chunk, spec, total_rows)
        point = (tf.TensorSpec((terms.parameters.size,), tf.float64),)
        graph = passes["gradient"].graph(point, spec, total_rows, tf.TensorSpec((None,), tf.float64))
        if graph is not None:
            assigned = graphs.assigned_variables(graph)
            starting_point.check_leaves_weights(model, terms.parameters, assigned)
            if replicas is None:
                state.adopt(assigned)
        objective = cls(model, settings, replicas, structure, terms, state, passes, rows_done, graph, rows)
        if settings.checks:
            check_cut(objective, chunk, data)
        return objective

    def suits(self, model: keras.Model, settings: ObjectiveSettings, data: FullBatch) -> bool:
        """Whether it is that of the model as it is now, with these settings, for data like this."""
        return (
            self.parameters.ids == [id(variable) for variable in model.trainable_variables]
            and self.settings == settings
            and self._structure == _structure_of(data, self.replicas)
        )

    def bind(self, data: FullBatch) -> BoundObjective:
        """f with the data of one fit.

        Raises:
            ValueError: Without a row, or for NaN in the weights.
        """
        rows = tf.constant(_all_rows(data, self.replicas), tf.float64)
        starting_point.check_weights(self.parameters)
        data = self.settings.prepared(data, self.replicas)
        self._measure(data, rows)
        bound = BoundObjective(self, data, rows)
        if self.settings.checks and self.terms.ranged_losses:
            loss_domains.check_misfits(self.terms.ranged_losses, bound.misfits())
        return bound

    def variant(self, data: FullBatch, **settings) -> BoundObjective:
        """f of the same model with the data of one fit, evaluated in another way. Its trace is kept.

        Args:
            data: All rows, as they were before they were prepared.
            **settings: Those of `ObjectiveSettings` that differ.
        """
        key = "variant", *sorted(settings.items())
        if key not in self.traces:
            self.traces[key] = Objective.build(self._model, self.settings._replace(**settings), data, self.replicas)
        return self.traces[key].bind(data)

    def residuals_of(self, bound: BoundObjective) -> Residuals:
        """What is squared in f, where f is a sum of squares."""
        return Residuals(bound, self._traced_residuals)

    @functools.cached_property
    def _traced_residuals(self):
        return TracedResiduals(self)

    @property
    def dtype(self) -> str:
        """The precision that f is computed in."""
        return self.terms.dtype

    @property
    def log_names(self) -> set[str]:
        """The names of the logs that the train step returns."""
        return set(self.terms.logs)

    def _measure(self, data, rows):
        """With `batch_size="auto"`, once: chunks as large as the memory takes, for data in whole tensors."""
        if self.settings.batch_size != "auto" or self._measured or isinstance(data, BatchList):
            return
        self._measured = True
        denominators = tf.ones((self.terms.counted_losses,), tf.float64)
        full_pass, point = self.passes["gradient"], (tf.constant(self.parameters.ravel()),)

        def evaluate(count):
            accumulator = full_pass.begin(point)
            chunk = first_chunk(data, self.replicas, count)
            self.state.restore(full_pass.add(accumulator, point, chunk, rows, denominators).before)

        parts, workers = (1, 1) if self.replicas is None else (self.replicas.local, self.replicas.workers)
        usual = self.rows_per_chunk
        self.rows_per_chunk = max(chunk_size.measured(evaluate, data.rows // parts) // parts, 1)
        fewer = max(self.vectors_per_block * usual // self.rows_per_chunk, 1)
        self.vectors_per_block = min(self.vectors_per_block, fewer) if workers == 1 else 1


def _build_model(model, terms, state, passes, replicas, chunk, spec, total_rows):
    """Makes the variables of the model and its metrics, by what traces or runs the train step once."""
    no_denominators = tf.zeros((0,), tf.float64)
    if replicas is not None:
        keras_model.build(model, spec)  # as `fit` has done already
        if model.run_eagerly and int(rows_of(chunk)) > 0:
            before = state.save()
            replicas.run(terms.denominators, (), chunk, total_rows, no_denominators)
            state.restore(before)
    elif model.run_eagerly:
        was_built, before, weights = model.built, state.save(), model.get_weights()
        try:
            terms.denominators((), chunk, total_rows, no_denominators)
        finally:
            if was_built:
                state.restore(before)
                model.set_weights(weights)
    elif not model.built:
        passes["denominators"].graph((), spec, total_rows, _UNCOUNTED)


def _all_rows(data, replicas):
    """How many rows there are in all processes."""
    rows = data.rows if replicas is None else replicas.sum_of_rows(data.rows)
    if rows == 0:
        raise ValueError(NO_ROWS)
    return rows


def _check_fixed_batch(model, settings, rows):
    fixed = keras_model.fixed_batch(model)
    if fixed is None or (rows % fixed == 0 and fixed in (settings.batch_size, rows)):
        return
    raise ValueError(
        f"Expected rows in batches of {fixed}, the fixed batch size of the model. Received: {rows} rows and "
        f"batch_size={settings.batch_size!r} of the optimizer. Give the optimizer batch_size={fixed} and a multiple of "
        f"{fixed} rows, or make the model with any batch size."
    )


def _structure_of(data, replicas):
    """What an objective is traced for: which parts a batch has, of which dtypes and ranks."""
    is_plain = replicas is None and isinstance(data, WholeTensors)
    leaves = keras.tree.map_structure(
        lambda leaf: None if leaf is None else (type(leaf).__name__, leaf.dtype.name, len(leaf.shape)),
        data.data if is_plain else first_chunk(data, replicas, rows=1),
    )
    return repr(leaves)


def _counter():
    """An integer that replicas may add to."""
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="rows_done"
        )
