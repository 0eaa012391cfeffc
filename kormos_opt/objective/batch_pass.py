"""A pass over batches that can stop between any two of them, so that a progress bar shows each one.

While it waits, the model has the weights and the state it had before.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from kormos_opt.objective.chunk_sums import PassResult
from kormos_opt.objective.full_pass import FullPass


class BatchPass:
    """One pass.

    Args:
        full_pass: What is added up.
        batches: The batches.
        point: Where, a tuple of tensors that begins with x.
        rows: All rows, as a float64 tensor.
        loss_denominators: The valid entries of each masked or weighted loss, of shape `(losses,)`.
    """

    def __init__(
        self, full_pass: FullPass, batches: Iterable, point: tuple, rows: tf.Tensor, loss_denominators: tf.Tensor
    ):
        self._full_pass = full_pass
        self._batches = iter(batches)
        self._arguments = point, rows, loss_denominators
        self._moved = None
        self._accumulator = full_pass.begin(point)

    def step(self) -> bool:
        """Adds the next batch. Returns whether there was one."""
        point, rows, loss_denominators = self._arguments
        try:
            for chunk in self._batches:
                self._accumulator = self._full_pass.add(self._accumulator, point, chunk, rows, loss_denominators)
                return True
            return False
        except BaseException:
            self._full_pass.give_up(self._accumulator, point)
            self.close()
            raise

    def suspend(self) -> None:
        """Leaves the model in the state that it had before the pass; the caller puts its weights back."""
        self._moved = self._full_pass.suspend(self._accumulator)

    def resume(self) -> None:
        """Goes on after `suspend`."""
        self._full_pass.resume(self._arguments[0], self._moved)

    def close(self) -> None:
        """Stops what reads the batches, in the middle of the pass."""
        if hasattr(self._batches, "close"):
            self._batches.close()

    def finish(self) -> PassResult:
        """Adds what is left."""
        while self.step():
            pass
        return self._full_pass.end(self._accumulator, self._arguments[0])
