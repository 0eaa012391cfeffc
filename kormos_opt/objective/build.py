"""Makes objectives: of a model, with the data of a fit, evaluated in another way, as a sum of squares.

Only this file knows all kinds of objectives, so none has to know another.
"""

import keras
import tensorflow as tf

from kormos_opt.data.full_batch import NO_ROWS, FullBatch, first_chunk
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import rows_of
from kormos_opt.keras_internals import graphs
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective import chunk_size, loss_domains, starting_point
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.chunk_terms import ChunkTerms
from kormos_opt.objective.chunking_check import check_chunking
from kormos_opt.objective.full_pass import FullPass, OneReplica
from kormos_opt.objective.model_state import ModelState
from kormos_opt.objective.objective import Objective, ObjectiveSettings, structure_of
from kormos_opt.objective.replica_pass import ReplicaPass
from kormos_opt.objective.residual_terms import TracedResiduals
from kormos_opt.objective.residuals import Residuals

_UNCOUNTED = tf.TensorSpec((0,), tf.float64)


def build(
    model: keras.Model, settings: ObjectiveSettings, data: FullBatch, replicas: Replicas | None = None
) -> Objective:
    """Builds the model if it is not built, and traces f for data of this structure.

    Args:
        model: A compiled model whose optimizer is ours.
        settings: How f is evaluated.
        data: The data to begin with.
        replicas: The replicas of the model's strategy. Defaults to `None`: it has none.

    Raises:
        ValueError: Without a row, for NaN in the weights, or for a loss that depends on how the rows are cut.
    """
    rows = _all_rows(data, replicas)
    _check_fixed_batch(model, settings, rows)
    structure = structure_of(data, replicas)
    data = settings.prepared(data, replicas)
    terms = ChunkTerms(model, settings.float64, replicas is not None, settings.curvature)
    state, rows_done = ModelState(model), _counter()
    passes = {
        name: FullPass(
            model,
            state,
            lambda x: terms.parameters.assign(x),
            OneReplica(model, state, chunk_function, rows_done)
            if replicas is None
            else ReplicaPass(model, state, chunk_function, rows_done, replicas),
        )
        for name, chunk_function in terms.chunk_functions.items()
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
    objective = Objective(model, settings, replicas, structure, terms, state, passes, rows_done, graph, rows)
    if settings.checks:
        check_chunking(objective, chunk, data)
    return objective


def bind(objective: Objective, data: FullBatch) -> BoundObjective:
    """f with the data of one fit.

    Args:
        objective: f.
        data: All rows of this process.

    Raises:
        ValueError: Without a row, or for NaN in the weights.
    """
    rows = tf.constant(_all_rows(data, objective.replicas), tf.float64)
    starting_point.check_weights(objective.parameters)
    data = objective.settings.prepared(data, objective.replicas)
    objective.measure(data, rows)
    bound = BoundObjective(objective, data, rows)
    if objective.settings.checks and objective.terms.ranged_losses:
        loss_domains.check_misfits(objective.terms.ranged_losses, bound.misfits())
    return bound


def variant_of(bound: BoundObjective, **settings) -> BoundObjective:
    """f of the same model and data, evaluated in another way. Its trace is kept.

    Args:
        bound: f with its data.
        **settings: The fields of `ObjectiveSettings` that differ.
    """
    objective, key = bound.objective, ("variant", *sorted(settings.items()))
    if key not in objective.traces:
        other = objective.settings._replace(**settings)
        objective.traces[key] = build(objective.model, other, bound.data, objective.replicas)
    return bind(objective.traces[key], bound.data)


def residuals_of(bound: BoundObjective) -> Residuals:
    """What is squared in f, where f is a sum of squares. Its trace is kept."""
    traces = bound.objective.traces
    if "residuals" not in traces:
        traces["residuals"] = TracedResiduals(bound.objective)
    return Residuals(bound, traces["residuals"])


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


def _counter():
    """An integer that replicas may add to."""
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="rows_done"
        )
