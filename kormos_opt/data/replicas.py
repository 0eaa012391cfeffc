"""The replicas of a `tf.distribute` strategy: which rows each one has, and the one sum over all of them.

Every replica adds up the terms of its own rows without a word to the others. Then one all-reduce of one vector brings
the sums together. With several workers every process runs the same solver on the same sums, so all of them take the
same decisions; that they stand at the same x is checked in the same vector.
"""

import contextlib
import itertools
from collections.abc import Callable

import keras
import tensorflow as tf

from kormos_opt.data.rows import rows_between
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.keras_internals.graphs import traced

_CHECKSUMS = 2**20  # their squares, summed over all replicas, are exact in float64
_SUPPORTED = (
    tf.distribute.OneDeviceStrategy,
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.TPUStrategy,
)


class Replicas:
    """The replicas of a strategy, and those of them that this process runs.

    Args:
        strategy: A synchronous strategy.

    Attributes:
        strategy: The strategy.
        local: How many replicas this process runs.
        workers: How many processes there are.
        worker: Which of them this one is.

    Raises:
        ValueError: For a strategy whose replicas do not stay in step.

    Reference: https://www.tensorflow.org/guide/distributed_training
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        if not isinstance(strategy, _SUPPORTED):
            raise ValueError(
                "Expected a strategy whose replicas compute in step: OneDeviceStrategy, MirroredStrategy, "
                "MultiWorkerMirroredStrategy or TPUStrategy. "
                f"Received: a model made in the scope of a {type(strategy).__name__}. Use one of those."
            )
        self.strategy = strategy
        self._devices = strategy.extended.worker_devices
        self.local = len(self._devices)
        self.workers = strategy.num_replicas_in_sync // self.local
        self.worker = _place(strategy.cluster_resolver) if self.workers > 1 else 0
        self._everywhere = traced(lambda vector: strategy.run(tf.identity, args=(vector,)), reduce_retracing=True)
        self._reduced = traced(self._reduce, reduce_retracing=True)

    @classmethod
    def of(cls, model: keras.Model) -> "Replicas | None":
        """The replicas of the strategy that the model was made under, `None` if there was none."""
        strategy = keras_model.strategy_of(model)
        return None if strategy is None else cls(strategy)

    def share(self, data, rows: int):
        """The rows of this process, where every process has all `rows` of them."""
        return _cut(data, rows, self.workers)[self.worker]

    def distribute(self, data, rows: int):
        """Data of this process, as a value for each of its replicas and on its device, near-equal parts of the rows."""
        parts = [
            self._on_device(device, part)
            for device, part in zip(self._devices, _cut(data, rows, self.local), strict=True)
        ]
        first = self.worker * self.local
        return keras.tree.map_structure(
            lambda *leaves: (
                None
                if leaves[0] is None
                else self.strategy.experimental_distribute_values_from_function(
                    lambda context: leaves[context.replica_id_in_sync_group - first]
                )
            ),
            *parts,
        )

    def parts(self, data) -> list:
        """What `distribute` has put together, one for each replica of this process."""
        leaves = [
            [None] * self.local if leaf is None else self.strategy.experimental_local_results(leaf)
            for leaf in keras.tree.flatten(data)
        ]
        return [keras.tree.pack_sequence_as(data, part) for part in zip(*leaves, strict=True)]

    def run(self, function: Callable, *arguments):
        """`function` on every replica of this process."""
        return self.strategy.run(function, args=arguments)

    header_size = 3

    def header(self, x: tf.Tensor) -> tf.Tensor:
        """What `sum` looks at, float64 of shape `(3,)`: a checksum of `x`, its square, and room for `tell_failure`."""
        checksum = tf.cast(tf.math.floormod(tf.reduce_sum(tf.bitcast(x, tf.int64)), _CHECKSUMS), tf.float64)
        return tf.stack([checksum, checksum**2, tf.zeros((), tf.float64)])

    def sum(self, vectors) -> tf.Tensor:
        """The sum over all replicas of float64 vectors that begin with a `header`: one all-reduce.

        Raises:
            tf.errors.OpError: If another worker has failed, has gone, or stands at another point. See `explained`.
        """
        return self._reduce(vectors) if tf.inside_function() else self._reduced(vectors)

    def tell_failure(self, size: int) -> None:
        """Makes the `sum` of the other workers fail, to which they hand `size` numbers behind the header."""
        with contextlib.suppress(tf.errors.OpError):
            self.sum(self._everywhere(tf.one_hot(2, self.header_size + size, dtype=tf.float64)))

    def sum_of_rows(self, rows: int) -> int:
        """The rows of all processes together, from those of this one."""
        vector = tf.constant([0.0, 0.0, 0.0, rows / self.local], tf.float64)
        return round(float(self.sum(self._everywhere(vector))[3]))

    @contextlib.contextmanager
    def explained(self):
        """Inside, errors of an all-reduce are raised in words that a person can act on."""
        try:
            yield
        except tf.errors.OpError as error:
            for message in (_DISAGREE, _FAILED):
                if message in str(error):
                    raise RuntimeError(message) from error
            if self.workers > 1 and isinstance(error, _LOST_ERRORS):
                raise RuntimeError(_LOST.format(self.worker)) from error
            raise

    def _reduce(self, vectors):
        total = self.strategy.reduce("SUM", vectors, axis=None)
        if self.workers > 1:
            replicas = self.strategy.num_replicas_in_sync
            tf.debugging.assert_equal(total[2], tf.zeros((), tf.float64), message=_FAILED)
            tf.debugging.assert_equal(replicas * total[1], total[0] ** 2, message=_DISAGREE)
        return total

    def _on_device(self, device, part):
        with tf.device(device):
            return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.identity(leaf), part)


_LOST_ERRORS = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError
_LOST = (
    "Expected every worker to take part in an evaluation. Received: no answer from one of them, as worker {} sees it. "
    "Its own log says why it stopped. Start all workers again: with keras.callbacks.BackupAndRestore, and a weights "
    "file for the same model, they go on from the last epoch, L-BFGS and SSBroyden with their state."
)
_FAILED = (
    "Expected every worker to get through its data. Received: an error on another worker, whose log names it. "
    "The weights are the last accepted iterate."
)
_DISAGREE = (
    "Expected the same weights on every worker. Received: different ones. "
    "Set the same seed everywhere, and load or change weights on all workers alike."
)


def _place(resolver):
    """The place of this process in the cluster, whose chief comes first."""
    chiefs = resolver.cluster_spec().as_dict().get("chief", [])
    return resolver.task_id + (len(chiefs) if resolver.task_type == "worker" else 0)


def _cut(data, rows, count):
    """`data` with `rows` rows in `count` parts, whose rows differ by one at most."""
    bounds = [rows * i // count for i in range(count + 1)]
    return [rows_between(data, start, end) for start, end in itertools.pairwise(bounds)]
