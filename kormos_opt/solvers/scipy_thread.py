"""A call of scipy as a solver of `solvers/base.py`.

scipy calls the objective; a Keras epoch has to call the solver. A thread turns one into the other: it runs
scipy and sleeps whenever scipy wants a value. Only numpy arrays cross over; TensorFlow stays in the thread
that called `fit`, where its device scopes and distribution strategies live.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from scipy.optimize import OptimizeResult

from kormos_opt.solvers.base import Iterate, Solver

_ABANDON = object()
_PATIENCE = 10.0  # seconds to wait for scipy's own arithmetic: a thread that asks no more would be waited for in vain


class _Abandoned(BaseException):
    """Unwinds scipy in its thread. Not an `Exception`, so that no handler in between swallows it."""


def in_thread(call: Callable[[Callable, Callable], OptimizeResult], lock=None) -> Solver:
    """Runs `call` one request at a time.

    Args:
        call: Called in the thread as `call(ask, accept)`. `ask(request)` returns the answer, `accept(x)` takes an
            iterate. Returns the result.
        lock: What scipy holds meanwhile, as methods do that it takes to be unsafe in two threads. It is let go while
            scipy waits for an answer: else one suspended run would stop all others for good. Defaults to `None`.

    Returns:
        A solver with this result.
    """
    to_scipy: SimpleQueue = SimpleQueue()
    to_caller: SimpleQueue = SimpleQueue()
    thread = threading.Thread(target=_run, args=(call, lock, to_scipy, to_caller), name="kormos_opt-scipy", daemon=True)
    answer = None
    try:
        while True:
            if thread.ident is None:
                thread.start()
            else:
                to_scipy.put(answer)
            iterates, message = to_caller.get()
            for x in iterates:
                yield Iterate(x)
            if isinstance(message, OptimizeResult):
                return message
            if isinstance(message, BaseException):
                raise message
            answer = yield message
    finally:
        to_scipy.put(_ABANDON)
        if thread.ident is not None:
            # A garbage collection can bring us here in the middle of another run that holds the lock which the thread
            # needs for its own end: that run must go on, then.
            thread.join(timeout=_PATIENCE if lock is None else 0.5)


def _run(call, lock, to_scipy, to_caller):
    """Sends pairs of the iterates since the last pair and a request or the end: one change of threads for both."""
    iterates = []

    def tell(message):
        nonlocal iterates
        to_caller.put((iterates, message))
        iterates = []

    def ask(request):
        if lock is not None:
            lock.release()
        tell(request)
        answer = to_scipy.get()
        if lock is not None:
            lock.acquire()
        if answer is _ABANDON:
            raise _Abandoned
        return answer

    try:
        # A trial of scipy's own that overflows is rejected by its method: nothing there for the user to mend.
        with np.errstate(over="ignore", invalid="ignore"):
            result = call(ask, lambda x: iterates.append(np.array(x)))
    except _Abandoned:
        return
    except BaseException as error:
        result = error
    tell(result)
