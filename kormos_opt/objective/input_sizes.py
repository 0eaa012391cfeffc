"""How large the inputs are that each weight is multiplied with, for kernels that stand on the data itself.

The second derivative of a loss with respect to a weight of such a kernel grows with the square of its input. A weight
in units of 1 / size is as stiff as the others, whatever the units of the data: seconds since 1970 beside percents.
An L2 penalty l w^2 has the second derivative of a mean square whose input has the size sqrt(l). It counts as one.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.keras_internals import tracing
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.units import Centered

UNLIKE = 100.0  # times: columns that differ by more are of different units


class InputSizes(NamedTuple):
    """The inputs of all rows, by weight; 0 for weights that do not stand on the data.

    Attributes:
        size: Their root mean squares, L2 penalties included, float64 of shape `(n,)`.
        mean: Their means, of shape `(n,)`.
        kernels: The kernels with a bias, which could take up the means.
    """

    size: np.ndarray
    mean: np.ndarray
    kernels: tuple[Centered, ...]


def moments_of_chunk(parameters: FlatParameters, run, tape: tf.GradientTape) -> tuple[tf.Tensor, dict]:
    """The mean squares of the inputs of a chunk by weight, then their means: float64 of shape `(2 n,)`.

    Args:
        parameters: The weights.
        run: Runs the train step.
        tape: It watches the weights while the train step runs: what depends on them is no data.

    Returns:
        The moments, and the biases that are added to products with these kernels, both by `id`.
    """
    recorded = []
    with tracing.recorded_inputs(lambda *call: recorded.append(call)), tape:
        run()
    variables = [variable.value for variable in parameters.variables]
    squares: dict[int, tf.Tensor] = {}
    means: dict[int, tf.Tensor] = {}
    biases: dict = {}
    for kernel, bias, inputs in recorded:
        if id(kernel) not in parameters.ids or _depends(tape, inputs, variables):
            continue
        values = tf.cast(inputs, tf.float64)
        axes = list(range(values.shape.rank - 1))
        biases[id(kernel)] = bias if id(kernel) not in squares else None  # not where two inputs differ in their means
        for moments, columns in ((squares, tf.square(values)), (means, values)):
            mean = tf.broadcast_to(tf.reduce_mean(columns, axis=axes)[:, None], kernel.shape)
            moments[id(kernel)] = moments.get(id(kernel), 0.0) + mean
    flat = [parameters.ravel_values([each.get(key) for key in parameters.ids]) for each in (squares, means)]
    return tf.concat(flat, axis=0), biases


def kernels_with_bias(parameters: FlatParameters, biases: dict) -> tuple[Centered, ...]:
    """The kernels that stand on the data and have a trainable bias for each column.

    Args:
        parameters: The weights.
        biases: As `moments_of_chunk` returns them.
    """
    starts = dict(zip(parameters.ids, np.cumsum([0, *parameters.sizes]), strict=False))
    shapes = {id(variable): tuple(variable.shape) for variable in parameters.variables}
    return tuple(
        Centered(int(starts[key]), int(np.prod(shapes[key][:-1])), shapes[key][-1], int(starts[id(bias)]))
        for key, bias in biases.items()
        if bias is not None and shapes.get(id(bias)) == shapes[key][-1:]
    )


def penalties(parameters: FlatParameters) -> np.ndarray:
    """The factor of the L2 penalty of each weight, float64 of shape `(n,)`.

    Args:
        parameters: The weights.
    """
    regularizers = [getattr(variable, "regularizer", None) for variable in parameters.variables]
    known = keras.regularizers.L2, keras.regularizers.L1L2
    factors = [float(each.l2) if isinstance(each, known) else 0.0 for each in regularizers]
    return np.repeat(factors, parameters.sizes)


def may_be_unlike(data) -> bool:
    """Whether the columns of dense data may be of different units: a look at the largest entries of each.

    Args:
        data: What `train_step` takes, all rows.
    """
    x = data[0] if isinstance(data, tuple) else data
    largest = [_largest(leaf) for leaf in tf.nest.flatten(x) if leaf is not None and leaf.shape.rank]
    return are_unlike(np.concatenate([each for each in largest if each is not None] or [np.zeros(0)]))


def are_unlike(sizes: np.ndarray) -> bool:
    """Whether the largest of these sizes and 1, that of a bias, is `UNLIKE` times the smallest."""
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    return bool(sizes.size) and max(sizes.max(), 1.0) > UNLIKE * min(sizes.min(), 1.0)


def _largest(leaf):
    """Of every column, `None` for words."""
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return None
    columns = leaf if leaf.shape.rank > 1 else leaf[:, None]
    return tf.reduce_max(tf.abs(tf.cast(columns, tf.float64)), axis=list(range(columns.shape.rank - 1))).numpy()


def _depends(tape, inputs, variables):
    if not inputs.dtype.is_floating:
        return False
    return any(each is not None for each in tape.gradient(inputs, variables))
