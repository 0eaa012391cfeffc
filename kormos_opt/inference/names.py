"""The names of the entries of the vector of all weights."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import keras
import numpy as np


def weight_names(model: keras.Model) -> list[str]:
    """A name for every entry of `optimizer.result.x`, of `result.jac` and of the rows of a summary.

    Args:
        model: A built model.

    Example:

    >>> import keras, kormos_opt
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="line")])
    >>> kormos_opt.weight_names(model)
    ['line/kernel[0, 0]', 'line/kernel[1, 0]', 'line/bias[0]']
    """
    variables, names = model.trainable_variables, []
    parts = 2
    while len({_end(variable, parts) for variable in variables}) < len({variable.path for variable in variables}):
        parts += 1
    for variable in variables:
        path = _end(variable, parts)
        places = np.ndindex(*variable.shape)
        names += [f"{path}[{', '.join(map(str, place))}]" if place else path for place in places]
    return names


def _end(variable, parts):
    return "/".join(variable.path.split("/")[-parts:])


def _matches(name, pattern):
    """As `fnmatch`, with the brackets of a name as they are or in `[[]`."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, pattern.replace("[", "[[]"))


def chosen(names: Sequence[str], which: Sequence[str] | None) -> np.ndarray:
    """Where the names are that `which` has, or that match a pattern in it; all for `None`.

    Raises:
        ValueError: For one that matches nothing.
    """
    if which is None:
        return np.arange(len(names))
    places = set()
    for pattern in [which] if isinstance(which, str) else which:
        found = {i for i, name in enumerate(names) if name == pattern or _matches(name, pattern)}
        if not found:
            raise ValueError(
                f"Expected names or patterns of {', '.join(names[:10])}. Received: which with {pattern!r}."
            )
        places |= found
    return np.array(sorted(places))
