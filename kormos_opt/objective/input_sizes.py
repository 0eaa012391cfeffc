"""How large the inputs are that each weight is multiplied with, for kernels that stand on the data itself.

The second derivative of a loss with respect to a weight of such a kernel grows with the square of its input. A weight
in units of 1 / size is as stiff as the others, whatever the units of the data: seconds since 1970 beside percents.
"""

import numpy as np
import tensorflow as tf

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.keras_internals import tracing
from kormos_opt.objective.flat_parameters import FlatParameters

UNLIKE = 100.0  # times: columns that differ by more are of different units


def squares_of_chunk(parameters: FlatParameters, run, tape: tf.GradientTape) -> tf.Tensor:
    """The mean squares of the inputs of a chunk by weight, float64 of shape `(n,)`; 0 for weights on other inputs.

    Args:
        parameters: The weights.
        run: Runs the train step.
        tape: It watches the weights while the train step runs: what depends on them is no data.
    """
    recorded = []
    with tracing.recorded_inputs(lambda kernel, inputs: recorded.append((kernel, inputs))):
        with tape:
            run()
    variables = [variable.value for variable in parameters.variables]
    squares = {}
    for kernel, inputs in recorded:
        if id(kernel) not in parameters.ids or _depends(tape, inputs, variables):
            continue
        values = tf.cast(inputs, tf.float64)
        columns = tf.reduce_mean(tf.square(values), axis=list(range(values.shape.rank - 1)))
        by_weight = tf.broadcast_to(columns[:, None], kernel.shape)
        squares[id(kernel)] = squares.get(id(kernel), 0.0) + by_weight
    return parameters.ravel_values([squares.get(id(variable)) for variable in parameters.variables])


def may_be_unlike(data, replicas) -> bool:
    """Whether the columns of the data may be of different units: a look at the largest entries of each.

    Nobody looks where a look is a pass: streams, and replicas, which have to agree.
    """
    if replicas is not None or not isinstance(data, WholeTensors):
        return True
    x = data.data[0] if isinstance(data.data, tuple) else data.data
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
