"""The trainable variables of a model as one float64 vector, and back.

The vector runs through the variables in the order of `model.trainable_variables`, each in row-major order.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


class FlatParameters:
    """Maps a list of variables to a flat float64 vector.

    Args:
        variables: Keras variables, all of a real floating dtype, in the order of the vector.

    Raises:
        ValueError: Without variables, or with one that a solver cannot move.

    Example:

    >>> import keras, numpy as np
    >>> from kormos_opt.objective.flat_parameters import FlatParameters
    >>> flat = FlatParameters([keras.Variable(np.eye(2)), keras.Variable([5.0])])
    >>> flat.ravel()
    array([1., 0., 0., 1., 5.])
    >>> flat.assign(np.arange(5.0))
    >>> flat.variables[0].numpy().tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(self, variables: list[keras.Variable]):
        if not variables:
            raise ValueError(
                "Expected a model with trainable variables. Received: model.trainable_variables=[]. "
                "Unfreeze a layer (layer.trainable = True) and compile again."
            )
        for variable in variables:
            if not keras.backend.is_float_dtype(variable.dtype):
                raise ValueError(
                    "Expected trainable variables of a real floating dtype, since a solver moves them continuously. "
                    f"Received: {variable.path} of dtype {variable.dtype}. Give it trainable=False or a float dtype."
                )
        self.variables = list(variables)
        self.sizes = [int(np.prod(variable.shape)) for variable in variables]
        self.size = sum(self.sizes)
        self.ids = [id(variable) for variable in variables]

    def check_trains(self, others: dict[int, Any]) -> None:
        """Raises `ValueError` for variables, by `id`, that are not among these: nobody would move them."""
        strangers = [variable for key, variable in others.items() if key not in self.ids]
        if strangers:
            names = ", ".join(str(getattr(variable, "path", variable.name)) for variable in strangers)
            raise ValueError(
                "Expected gradients of variables in model.trainable_variables, which are what the solver moves. "
                f"Received: a gradient for {names}, which is not among them. Make it a weight of the model: "
                "self.name = self.add_weight(shape=(), name=...), or unfreeze its layer."
            )

    def ravel(self) -> np.ndarray:
        """The variables' values now, float64 of shape `(size,)`."""
        return np.concatenate([np.ravel(variable.numpy()).astype("float64") for variable in self.variables])

    def round(self, x: np.ndarray) -> np.ndarray:
        """`x` as the variables would hold it: rounded to their dtypes, float64 of shape `(size,)`."""
        dtypes = [tf.as_dtype(variable.dtype).as_numpy_dtype for variable in self.variables]
        pieces = zip(self.split(x), dtypes, strict=True)
        return np.concatenate([piece.astype(dtype).astype("float64").ravel() for piece, dtype in pieces])

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """A vector of shape `(size,)` as arrays of the variables' shapes, without a copy."""
        pieces = np.split(x, np.cumsum(self.sizes)[:-1])
        return [piece.reshape(variable.shape) for piece, variable in zip(pieces, self.variables, strict=True)]

    def name_of(self, position: int) -> tuple[str, int]:
        """Which variable's path, and where in its ravelled values, the entry of the vector at `position` belongs to."""
        i = int(np.searchsorted(np.cumsum(self.sizes), position, side="right"))
        return self.variables[i].path, int(position - sum(self.sizes[:i]))

    def unravel(self, x) -> list[tf.Tensor]:
        """A vector of shape `(size,)`, array or tensor, as tensors of the variables' shapes and its own dtype."""
        pieces = tf.split(x, self.sizes)
        return [tf.reshape(piece, variable.shape) for piece, variable in zip(pieces, self.variables, strict=True)]

    def assign(self, x) -> None:
        """Assigns a vector of shape `(size,)`, array or tensor, to the variables. Works inside a `tf.function`."""
        for variable, value in zip(self.variables, self.unravel(x), strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def ravel_gradients(self, gradients: dict[int, tf.Tensor]) -> tf.Tensor:
        """The gradients by `id(variable)` as one float64 tensor of shape `(size,)`, zeros where there is none."""
        return self.ravel_values([gradients.get(id(variable)) for variable in self.variables])

    def ravel_values(self, values: list) -> tf.Tensor:
        """Tensors of the variables' shapes, or `None` for zeros, as one float64 tensor of shape `(size,)`."""
        pieces = [
            tf.zeros((size,), tf.float64) if value is None else tf.cast(tf.reshape(value, (size,)), tf.float64)
            for value, size in zip(values, self.sizes, strict=True)
        ]
        return tf.concat(pieces, axis=0)
