"""The one way in which a method of Keras or TensorFlow is replaced for a while."""

import contextlib
import functools
import threading

_replacing = threading.RLock()


@contextlib.contextmanager
def replaced(owner, name, function):
    """Inside, `owner.name(...)` calls `function(stock, ...)` in this thread; one thread at a time replaces anything."""
    with _replacing:
        stock, thread = getattr(owner, name), threading.get_ident()

        @functools.wraps(stock)
        def method(*args, **kwargs):
            if threading.get_ident() != thread:
                return stock(*args, **kwargs)
            return function(stock, *args, **kwargs)

        setattr(owner, name, method)
        try:
            yield
        finally:
            setattr(owner, name, stock)
