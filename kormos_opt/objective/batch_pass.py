"""A pass over batches that can stop between any two of them, so that a progress bar shows each one.

While it waits, the model has the weights and the state it had before.
"""

from collections.abc import Iterable

import tensorflow as tf

from kormos_opt.objective.full_pass import FullPass, Outcome


class BatchPass:
    """One pass.

    Args:
        full_pass: What is added up.
        batches: The batches.
        point: Where, a tuple of tensors that begins with x.
        rows: All rows, as a float64 tensor.
        totals: The valid entries of each masked or weighted loss.
    """

    def __init__(self, full_pass: FullPass, batches: Iterable, point: tuple, rows: tf.Tensor, totals: tf.Tensor):
        self._full_pass = full_pass
        self._batches = iter(batches)
        self._arguments = point, rows, totals
        self._moved = None
        self._tally = full_pass.begin(point)

    def step(self) -> bool:
        """Adds the next batch. Returns whether there was one."""
        point, rows, totals = self._arguments
        try:
            for chunk in self._batches:
                self._tally = self._full_pass.add(self._tally, point, chunk, rows, totals)
                return True
            return False
        except BaseException:
            self._full_pass.give_up(self._tally, point)
            self.close()
            raise

    def suspend(self) -> None:
        """Leaves the model in the state that it had before the pass; the caller puts its weights back."""
        self._moved = self._full_pass.suspend(self._tally)

    def resume(self) -> None:
        """Goes on after `suspend`."""
        self._full_pass.resume(self._arguments[0], self._moved)

    def close(self) -> None:
        """Stops what reads the batches, in the middle of the pass."""
        if hasattr(self._batches, "close"):
            self._batches.close()

    def finish(self) -> Outcome:
        """Adds what is left."""
        while self.step():
            pass
        return self._full_pass.end(self._tally, self._arguments[0])
