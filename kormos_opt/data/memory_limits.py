"""What fits into the memory that this process may take."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import tensorflow as tf

_CONTAINER_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def of_process() -> float:
    """Bytes this process may take: the machine's memory, or the smaller limit of its container or its `ulimit -v`."""
    limits = [psutil.virtual_memory().total]
    for path in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            limits.append(int(path.read_text()))
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        limits += [limit] if limit != resource.RLIM_INFINITY else []
    return float(min(limits))


def half_of_all() -> float:
    """Half of the memory in bytes: what training data may take."""
    return of_process() / 2


def eighth_of_all() -> float:
    """An eighth of the memory in bytes: what the intermediate results of a chunk may take. On a GPU at most 1 GiB."""
    return min(of_process() / 8, 2**30) if _gpus() else of_process() / 8


def peak_of(function: Callable[[], object]) -> int:
    """The most bytes that are held in memory while `function` runs: on the first GPU if there is one, else by this
    process, looked at every millisecond."""
    if _gpus():
        tf.config.experimental.reset_memory_stats("GPU:0")
        function()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    process, peak, done = psutil.Process(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        function()
    finally:
        peak = max(peak, process.memory_info().rss)
        done.set()
        watcher.join()
    return peak


def _gpus():
    return tf.config.list_logical_devices("GPU")
