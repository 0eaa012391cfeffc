"""One pass over the full batch at one point x: assigns x, adds up, and puts the model's state back.

A pass over whole tensors is one call of one `tf.function`, one over batches a call for each. Where the rows are is the
business of a reducer:

    OneReplica      all of them in this process
    ReplicaPass     each replica of a strategy has its own
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.keras_internals import graphs
from kormos_opt.objective.chunk_sums import ChunkFunction, ChunkSums, PassResult, Structure, compiled, flat
from kormos_opt.objective.model_state import ModelState


class Accumulator(NamedTuple):
    """A pass over batches that is not over.

    Attributes:
        before: The model's state before the pass.
        local: What was added up so far, as the reducer keeps it.
    """

    before: list
    local: Any


class Reducer(Protocol):
    """Adds up where the rows are. It never puts the model's state back."""

    is_alone: bool

    def graph(self, point, chunk, total_rows, loss_denominators) -> tf.Graph | None:
        """The graph of one chunk; `None` when run eagerly."""

    def whole(self, structure: Structure, rows_per_chunk: int, one_chunk: bool, point, total_rows, denominators, *data):
        """What all chunks of whole tensors add up to, with the state that they have led to."""

    def start(self, point):
        """The sums to start from."""

    def add(self, local, point, chunk, total_rows, loss_denominators):
        """The sums with one more batch."""

    def local_result(self, local, point):
        """The sums, with the state that the batches have led to."""

    def all_reduce(self, local_result, point) -> PassResult:
        """The result of all processes from what this one has `local_result`."""

    def give_up(self, point) -> None:
        """Tells other processes that this one cannot go on."""


class FullPass:
    """Adds up the terms of all chunks.

    Args:
        model: The model.
        state: What a pass moves in the model.
        assign: Makes a vector x the model's weights.
        reducer: What adds up where the rows are.
    """

    def __init__(self, model: keras.Model, state: ModelState, assign: Callable, reducer: Reducer):
        self._eager = model.run_eagerly
        self._state = state
        self._assign = assign
        self._reducer = reducer
        self._begin = compiled(self._run_begin, self._eager)
        self._whole = functools.cache(
            lambda exact, *layout: compiled(functools.partial(self._run_whole, *layout), self._eager, exact)
        )
        self._calls: dict[tuple, Callable] = {}
        self.graph = reducer.graph

    def over_whole(
        self, full_batch: WholeTensors, rows_per_chunk: int, rows: tf.Tensor, loss_denominators: tf.Tensor
    ) -> Callable:
        """The pass over whole tensors, as a function of the tuple `point` that returns a `PassResult`.

        One concrete function of flat tensors: a call costs a fraction of what calling a `tf.function` does.
        """
        if self._eager or not self._reducer.is_alone:
            run, data = self.graph_function(full_batch, rows_per_chunk)
            return lambda point: run(point, rows, loss_denominators, *data)
        data, structure = flat(full_batch.data)
        layout = structure, rows_per_chunk, full_batch.rows <= rows_per_chunk
        others = rows, loss_denominators, *data
        call = None

        def over_whole(point):
            nonlocal call
            if call is None:
                call = self._call(layout, point, others)
            return call(*point, *others)

        return over_whole

    def _call(self, layout, point, others):
        """The concrete function for tensors like these, looked up once a fit: it takes as long as many evaluations."""
        specs = tuple(tuple(tf.TensorSpec(each.shape, each.dtype) for each in part) for part in (point, others))
        key = layout, specs
        if key not in self._calls:
            self._calls[key] = graphs.flat_call(self._whole(False, *layout).get_concrete_function(specs[0], *others))
        return self._calls[key]

    def graph_function(self, full_batch: WholeTensors, rows_per_chunk: int) -> tuple[Callable, tuple]:
        """The pass over whole tensors, for use inside a `tf.function` of the caller too.

        Returns:
            A function of `point, rows, loss_denominators` and the flat tensors, which returns a `PassResult`; and the
            flat tensors.
        """
        data, structure = flat(full_batch.data)
        whole = self._whole(True, structure, rows_per_chunk, full_batch.rows <= rows_per_chunk)

        def run(point, rows, loss_denominators, *data):
            return self._reducer.all_reduce(whole(point, rows, loss_denominators, *data), point)

        return run, data

    def begin(self, point) -> Accumulator:
        """Starts a pass over batches."""
        before = self._begin(point[0])
        return Accumulator(before, self._reducer.start(point))

    def add(self, accumulator: Accumulator, point, chunk, rows: tf.Tensor, loss_denominators: tf.Tensor) -> Accumulator:
        """Adds a batch."""
        return accumulator._replace(local=self._reducer.add(accumulator.local, point, chunk, rows, loss_denominators))

    def end(self, accumulator: Accumulator, point) -> PassResult:
        """Ends a pass over batches."""
        local_result = self._reducer.local_result(accumulator.local, point)
        self._state.restore(accumulator.before)
        return self._reducer.all_reduce(local_result, point)

    def give_up(self, accumulator: Accumulator, point) -> None:
        """Ends a pass over batches that cannot go on."""
        self._state.restore(accumulator.before)
        self._reducer.give_up(point)

    def _run_begin(self, x):
        self._assign(x)
        return self._state.save()

    def _run_whole(self, structure, rows_per_chunk, one_chunk, point, total_rows, loss_denominators, *data):
        before = self._run_begin(point[0])
        others = point, total_rows, loss_denominators, *data
        local_result = self._reducer.whole(structure, rows_per_chunk, one_chunk, *others)
        self._state.restore(before)
        return local_result


class OneReplica:
    """The reducer of a process that has all rows.

    Args:
        model: The model.
        state: What a pass moves in the model.
        chunk_function: What is added up.
        rows_done: A counter of rows.
    """

    is_alone = True

    def __init__(self, model: keras.Model, state: ModelState, chunk_function: ChunkFunction, rows_done: tf.Variable):
        self._chunks = ChunkSums(model, chunk_function, rows_done)
        self._state = state
        self._reset = compiled(state.reset_metrics, model.run_eagerly)
        self._statistics = compiled(state.save_moving_statistics, model.run_eagerly)
        self.graph = self._chunks.graph

    def whole(self, structure, rows_per_chunk, one_chunk, point, total_rows, loss_denominators, *data):
        """All chunks of whole tensors."""
        self._state.reset_metrics()
        rows = None if one_chunk else tf.cast(total_rows, tf.int32)
        sums, logs = self._chunks.over(structure.fill(data), rows, rows_per_chunk, point, total_rows, loss_denominators)
        return PassResult(sums, self._state.save_moving_statistics(), logs)

    def start(self, point):
        """Zeros, and no logs yet."""
        self._reset()
        return self._chunks.chunk_function.zeros(point), {}

    def add(self, local, point, chunk, total_rows, loss_denominators):
        """One more batch."""
        sums, logs = self._chunks.add(local[0], point, chunk, total_rows, loss_denominators)
        self._chunks.count(chunk)
        return sums, logs

    def local_result(self, local, point):
        """The result of all rows."""
        sums, logs = local
        return PassResult(sums, self._statistics(), logs)

    def all_reduce(self, local_result: PassResult, point) -> PassResult:
        """What was added up: there are no others."""
        return local_result

    def give_up(self, point) -> None:
        """There is nobody to tell."""
