"""The docstrings of the classes of single methods: two lines say what each is good at, the rest is generated."""

from typing import Any

import keras

from kormos_opt.solvers import registry

_DOCSTRING = """{what}

Args:
    tol: As in scipy. Defaults to `None`.
    options: Options of {method}. Defaults to `None`.{arguments}
    bounds: {bounds} Defaults to `None`.
    constraints: {constraints} Defaults to `None`.
    name: Name of the optimizer. Defaults to `None`: that of the class, in lower case.
    **kwargs: The other arguments of `ScipyBatchOptimizer`.

Raises:
    ValueError: For an option that {method} does not know, or a setting of another kind of optimizer.

Example:

>>> import keras, kormos_opt, numpy as np
>>> keras.utils.set_random_seed(0)
>>> x = np.linspace(-1, 1, 50)[:, None]
>>> model = keras.Sequential([keras.layers.Dense(1)])
>>> model.compile(optimizer=kormos_opt.{cls}(), loss="mse")
>>> history = model.fit(x, 2 * x + 1, epochs=300, verbose=0)
>>> print(abs(round(float(history.history["loss"][-1]), 3)))
0.0

Reference: {reference}
"""
_TAKEN = "As `ScipyBatchOptimizer` takes them.", "None are taken."


def documented(cls: Any, arguments: str = "") -> type:
    """Completes the docstring of a class from the row of its method, and lets Keras load it from files.

    Args:
        cls: A class with a `method`.
        arguments: Lines on arguments of its own. Defaults to none.
    """
    method = registry.find(cls.method)
    cls.__doc__ = _DOCSTRING.format(
        what=(cls.__doc__ or "").strip().replace("\n    ", "\n"),
        method=method.name,
        arguments=arguments and f"\n    {arguments}",
        bounds=_TAKEN[not method.bounds],
        constraints=_TAKEN[not method.constraints],
        cls=cls.__name__,
        reference=method.reference,
    )
    return keras.saving.register_keras_serializable("kormos_opt")(cls)
