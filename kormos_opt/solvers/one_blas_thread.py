"""Holds BLAS to one thread while a solver computes.

Idle OpenBLAS workers go on spinning for a while on the cores that TensorFlow needs for the next evaluation, which can
double its time (scipy issues 22438 and 23191).
"""

import functools
import threading

import threadpoolctl


class OneBlasThread:
    """Inside, BLAS has one thread. It is a setting of the whole process: the last run that leaves puts it back."""

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._limiter = None

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._limiter = _blas().limit(limits=1)
            self._inside += 1

    def __exit__(self, *_):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limiter.restore_original_limits()


one_blas_thread = OneBlasThread()
"""The lock of this process."""


@functools.cache
def _blas():
    """The BLAS libraries of numpy and scipy. Finding them takes 6 ms."""
    return threadpoolctl.ThreadpoolController().select(user_api="blas")
