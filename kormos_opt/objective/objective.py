"""The objective f(x) of a compiled model, for any data of one structure: traced once, bound to the data of each fit.

    f(x) = sum over batches of rows(b) * loss(b) / rows

which is what Keras reports as the loss of an epoch at fixed weights x. An evaluation assigns x, runs the model's own
train step over all chunks, and puts every non-trainable variable (dropout seeds, BatchNorm statistics) back to what it
was, so f depends on x alone and two evaluations at one x agree to the last bit.

One evaluation of whole tensors is one call of one `tf.function`.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from kormos_opt.data import memory_limits
from kormos_opt.data.full_batch import BatchSequence, FullBatch, WholeTensors, first_chunk
from kormos_opt.data.replicas import Replicas
from kormos_opt.objective import chunk_size, precision
from kormos_opt.objective.captured_variables import CapturedVariables

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
        """The settings of an optimizer, for a run whose `precision="auto"` may be float64 by now."""
        return cls(optimizer.precision == "float64" or is_in_float64, optimizer.batch_size, optimizer.curvature)

    def prepared(self, data: FullBatch, replicas: Replicas | None) -> FullBatch:
        """The data in float64 where f is, once for all evaluations, if that takes an eighth of the memory at most."""
        if not (self.float64 and self.copies) or replicas is not None or isinstance(data, BatchSequence):
            return data
        leaves = [leaf for leaf in keras.tree.flatten(data.data) if leaf is not None and leaf.dtype.is_floating]
        if sum(8 * int(tf.size(leaf)) for leaf in leaves) > memory_limits.eighth_of_all():
            return data
        return data._replace(data=precision.in_float64(data.data))


class Objective:
    """f(x) for one model, complete once `build.build` has made it.

    Attributes:
        model: The model.
        settings: How it is evaluated.
        replicas: The replicas of the model's strategy, `None` if it has none.
        passes: The passes, by what they add up.
        terms: What one chunk contributes.
        parameters: The weights as a vector.
        state: What a pass moves in the model.
        captured: What f depends on beside the weights.
        rows_done: A counter of the rows that passes have gone through, for the progress bar within a pass.
        may_vectorize: Whether `tf.vectorized_map` can run the train step.
        traces: What others have traced over it, by keys of theirs. It lives as long as the objective.
    """

    def __init__(self, model, settings, replicas, structure, terms, state, passes, rows_done, graph, rows):
        self.model = model
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
        self.captured = CapturedVariables(self.parameters, state, graph)
        self.rows_done = rows_done
        wanted = None if settings.batch_size == "auto" else settings.batch_size
        self.rows_per_chunk = chunk_size.of(graph, wanted, may_cut=not state.moving_statistics)
        rows = min(wanted or self.rows_per_chunk, rows)
        self.vectors_per_block = chunk_size.vectors_that_fit(graph, rows, self.parameters.size)

    def suits(self, model: keras.Model, settings: ObjectiveSettings, data: FullBatch) -> bool:
        """Whether it is that of the model as it is now, with these settings, for data like this."""
        return (
            self.parameters.ids == [id(variable) for variable in model.trainable_variables]
            and self.settings == settings
            and self._structure == structure_of(data, self.replicas)
        )

    @property
    def dtype(self) -> str:
        """The precision that f is computed in."""
        return self.terms.dtype

    @property
    def log_names(self) -> set[str]:
        """The names of the logs that the train step returns."""
        return set(self.terms.logs)

    def measure(self, data: FullBatch, rows: tf.Tensor) -> None:
        """With `batch_size="auto"`, sets chunks as large as the memory takes, once, for data in whole tensors."""
        if self.settings.batch_size != "auto" or self._measured or isinstance(data, BatchSequence):
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


def structure_of(data: FullBatch, replicas: Replicas | None) -> str:
    """What an objective is traced for: which parts a batch has, of which dtypes and ranks."""
    leaves = keras.tree.map_structure(
        lambda leaf: None if leaf is None else (type(leaf).__name__, leaf.dtype.name, len(leaf.shape)),
        data.data if replicas is None and isinstance(data, WholeTensors) else first_chunk(data, replicas, rows=1),
    )
    return repr(leaves)
