"""How large the inputs are that each weight is multiplied with, for kernels that stand on the data itself.

The second derivative of a loss with respect to a weight of such a kernel grows with the square of its input. A weight
in units of 1 / size is as stiff as the others, whatever the units of the data: seconds since 1970 beside percents.
An L2 penalty l w^2 has the second derivative of a mean square whose input has the size sqrt(l). It counts as one.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kormos_opt.keras_internals import recorded
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.units import Centered

UNLIKE = 100.0  # times: columns that differ by more are of different units


class InputSizes(NamedTuple):
    """The inputs of all rows, by weight; 0 for weights that do not stand on the data.

    Attributes:
        size: Their root mean squares, L2 penalties included, float64 of shape `(n,)`.
        mean: Their means, of shape `(n,)`.
        deviation: Their standard deviations, L2 penalties included, of shape `(n,)`.
        kernels: The kernels with a bias, which could take up the means.
    """

    size: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    kernels: tuple[Centered, ...]


def moments_of_chunk(
    parameters: FlatParameters, run, tape: tf.GradientTape, origin: tf.Tensor
) -> tuple[tf.Tensor, dict]:
    """The means of the inputs of a chunk by weight, then those of their squares: float64 of shape `(2 n,)`.

    Args:
        parameters: The weights.
        run: Runs the train step.
        tape: It watches the weights while the train step runs: what depends on them is no data.
        origin: What is taken from the inputs of each weight first, float64 of shape `(n,)`.

    Returns:
        The moments, and the biases that are added to products with these kernels, both by `id`.
    """
    calls = []
    with recorded.recorded_inputs(lambda *call: calls.append(call)), tape:
        run()
    variables = [variable.value for variable in parameters.variables]
    origins = dict(zip(parameters.ids, parameters.unravel(origin), strict=True))
    means: dict[int, tf.Tensor] = {}
    squares: dict[int, tf.Tensor] = {}
    biases: dict = {}
    for kernel, bias, inputs in calls:
        if id(kernel) not in parameters.ids or _depends(tape, inputs, variables):
            continue
        values = tf.cast(inputs, tf.float64) - _of_columns(origins[id(kernel)])
        axes = list(range(values.shape.rank - 1))
        biases[id(kernel)] = bias if id(kernel) not in squares else None  # not where two inputs differ in their means
        for moments, columns in ((means, values), (squares, tf.square(values))):
            mean = tf.broadcast_to(tf.reduce_mean(columns, axis=axes)[:, None], kernel.shape)
            moments[id(kernel)] = moments.get(id(kernel), 0.0) + mean
    flat = [parameters.ravel_values([each.get(key) for key in parameters.ids]) for each in (means, squares)]
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
    extents = [_extents(leaf) for leaf in tf.nest.flatten(x) if leaf is not None and leaf.shape.rank]
    return are_unlike(*np.concatenate([each for each in extents if each is not None] or [np.zeros((2, 0))], axis=1))


def are_unlike(size: np.ndarray, deviation: np.ndarray) -> bool:
    """Whether these sizes and 1, that of a bias, differ by more than `UNLIKE` times, or a column from its variation.

    Args:
        size: The sizes of the columns.
        deviation: By how much they vary.
    """
    is_known = (size > 0) & np.isfinite(size)
    size, deviation = size[is_known], deviation[is_known]
    if not size.size:
        return False
    varies = deviation > 0
    is_far = bool((size[varies] > UNLIKE * deviation[varies]).any())
    return is_far or max(size.max(), 1.0) > UNLIKE * min(size.min(), 1.0)


def _of_columns(of_kernel):
    """What all weights of a column have in common."""
    return tf.cast(tf.reshape(of_kernel, (-1, *of_kernel.shape[-2:]))[0, :, 0], tf.float64)


def _extents(leaf):
    """The largest entry of every column, and its standard deviation; `None` for words."""
    if not (leaf.dtype.is_floating or leaf.dtype.is_integer):
        return None
    columns = leaf if leaf.shape.rank > 1 else leaf[:, None]
    columns = columns if columns.dtype in (tf.float32, tf.float64) else tf.cast(columns, tf.float64)
    axes = list(range(columns.shape.rank - 1))
    _, variance = tf.nn.moments(columns, axes)
    return np.array([tf.reduce_max(tf.abs(columns), axis=axes).numpy(), np.sqrt(variance.numpy())], "float64")


def _depends(tape, inputs, variables):
    if not inputs.dtype.is_floating:
        return False
    return any(each is not None for each in tape.gradient(inputs, variables))
