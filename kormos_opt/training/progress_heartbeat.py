"""Shows that an epoch of more than a few seconds is at work: the rows so far, in Keras's own progress bar.

A pass over the data is one call into TensorFlow, during which Python waits. The graph counts the rows in a variable. A
thread reads it, and sleeps between two looks.
"""

import contextlib
import threading
import time
from collections.abc import Callable

_AFTER = 3.0
_EVERY = 1.0


class ProgressHeartbeat:
    """A thread that shows a counter while an epoch takes long.

    Args:
        show: Called with the rows of this epoch so far.
        count: Returns the counter of rows.
    """

    def __init__(self, show: Callable[[int], None], count: Callable[[], int]):
        self._show = show
        self._count = count
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._epoch = None  # when it began, and with what count
        self._thread = threading.Thread(target=self._watch, name="kormos_opt-heartbeat", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    @contextlib.contextmanager
    def epoch(self):
        """Inside, an epoch is at work."""
        self._epoch = time.monotonic(), self._count()
        try:
            yield
        finally:
            with self._lock:
                self._epoch = None

    def _watch(self):
        while not self._done.wait(_EVERY):
            with self._lock:
                if self._epoch is not None and time.monotonic() - self._epoch[0] > _AFTER:
                    self._show(self._count() - self._epoch[1])
