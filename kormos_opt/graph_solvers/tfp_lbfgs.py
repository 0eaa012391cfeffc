"""`tfp.optimizer.lbfgs_minimize`, one iteration per call, for use inside a `tf.function`.

TFP is imported here alone, and on first use. Its own tests of convergence are switched off: with a tolerance of 0 they
end a float32 run whose f has not changed as converged, and the relative one is wrong for negative f.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_NEVER = -1.0


class State(NamedTuple):
    """What L-BFGS knows between two iterations, float64.

    Attributes:
        position: x, of shape `(n,)`.
        objective_value: f(x).
        objective_gradient: Its gradient, of shape `(n,)`.
        position_deltas: The last changes of x, of shape `(memory, n)`, newest last.
        gradient_deltas: The last changes of the gradient, of shape `(memory, n)`.
    """

    position: tf.Tensor
    objective_value: tf.Tensor
    objective_gradient: tf.Tensor
    position_deltas: tf.Tensor
    gradient_deltas: tf.Tensor


def iterate(
    value_and_gradients: Callable, state: State, num_iterations: tf.Tensor, max_line_search_iterations: int
) -> tuple[State, tf.Tensor]:
    """One iteration of L-BFGS with the Hager-Zhang line search.

    Args:
        value_and_gradients: f and its gradient at a float64 tensor of shape `(n,)`.
        state: Where the iteration starts.
        num_iterations: How many there were before: of so many changes, at most, TFP makes use.
        max_line_search_iterations: Of the line search.

    Returns:
        The next state, and whether the line search failed or ended above the f where it began; then the state is the
        one it was.

    Reference: https://www.tensorflow.org/probability/api_docs/python/tfp/optimizer/lbfgs_minimize;
    Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line search (2005).
    """
    lbfgs = _lbfgs()
    previous = lbfgs.LBfgsOptimizerResults(
        converged=tf.constant(False),
        failed=tf.constant(False),
        num_iterations=num_iterations,
        num_objective_evaluations=tf.constant(0),
        **state._asdict(),
    )
    after = lbfgs.minimize(
        value_and_gradients,
        initial_position=None,
        previous_optimizer_results=previous,
        num_correction_pairs=state.position_deltas.shape[0],
        tolerance=_NEVER,
        x_tolerance=_NEVER,
        f_relative_tolerance=_NEVER,
        f_absolute_tolerance=_NEVER,
        max_iterations=num_iterations + 1,
        max_line_search_iterations=max_line_search_iterations,
    )
    failed = after.failed | ~(after.objective_value <= state.objective_value)
    chosen = {name: tf.where(failed, getattr(state, name), getattr(after, name)) for name in State._fields}
    return State(**chosen), failed


def wall(state: State, x: tf.Tensor, fun: tf.Tensor, jac: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`fun` and `jac` at `x`; if they are not finite, those of a parabola with its minimum a quarter of the way there.

    The same as in `solvers/safeguards.py`, where it is explained.
    """
    step = x - state.position
    slope = tf.minimum(tf.reduce_sum(state.objective_gradient * step), -np.finfo(float).tiny)
    is_finite = tf.math.is_finite(fun) & tf.reduce_all(tf.math.is_finite(jac))
    fun = tf.where(is_finite, fun, state.objective_value - slope)
    return fun, tf.where(is_finite, jac, tf.math.divide_no_nan(-3 * slope, tf.reduce_sum(step * step)) * step)


def check_installed() -> None:
    """Raises `ImportError` with the command to install what is missing."""
    missing = [name for name in ("tensorflow_probability", "tf_keras") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            'Expected TensorFlow Probability and its tf-keras for engine="tfp". '
            f"Received: no {' and no '.join(missing)}. Install both: pip install tensorflow-probability tf-keras"
        )


@functools.cache
def _lbfgs():
    from tensorflow_probability.python.optimizer import lbfgs

    return lbfgs
