"""L-BFGS of TensorFlow Probability: its directions and its line search.

TFP is imported here alone, and on first use. Its loop is left out: it would make three evaluations an iteration, and
its tests of convergence end a float32 run whose f has not changed as converged.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping

import tensorflow as tf

from kormos_opt.graph_solvers.variables import OPTIONS, POINT
from kormos_opt.solvers.base import ArraySpec
from kormos_opt.solvers.registry import GraphMethod, register

_SUFFICIENT_DECREASE, _CURVATURE = 1e-4, 0.9  # of the strong Wolfe conditions at step 1


def variables(size: int, options: Mapping) -> dict[str, ArraySpec]:
    """What L-BFGS remembers between two iterations.

    Args:
        size: n, the number of weights.
        options: The options of the row below. `memory` is the number of correction pairs.

    Returns:
        x, f(x) and its gradient; the last changes of x and of the gradient, newest last.
    """
    return {
        "position": ArraySpec((size,)),
        "objective_value": ArraySpec(()),
        "objective_gradient": ArraySpec((size,)),
        "position_deltas": ArraySpec((options["memory"], size)),
        "gradient_deltas": ArraySpec((options["memory"], size)),
    }


def step(
    value_and_gradient: Callable, state: Mapping[str, tf.Tensor], nit: tf.Tensor, options: Mapping
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """One iteration. Step 1 is tried first; the line search of Hager and Zhang, which would bracket before it looks
    whether step 1 will do, follows where it does not satisfy the strong Wolfe conditions.

    Args:
        value_and_gradient: f and its gradient at a float64 tensor of shape `(n,)`.
        state: Tensors by the names of `variables`: where the iteration starts.
        nit: Number of iterations so far; TFP uses at most that many correction pairs.
        options: The options of the row below. `maxls` bounds the iterations of the line search.

    Returns:
        The next state, and whether the line search failed or ended above the f where it began. Then the state is the
        one it was.
    """
    lbfgs, linesearch, Point = _tfp()  # noqa: N806  a class
    x, fun, jac = (state[name] for name in POINT)
    direction = lbfgs._get_search_direction(
        lbfgs.LBfgsOptimizerResults(False, False, num_iterations=nit, num_objective_evaluations=0, **state)
    )
    at_zero = Point(tf.zeros_like(fun), fun, tf.reduce_sum(jac * direction), jac)

    def along(length):
        value, gradient = value_and_gradient(x + length * direction)
        return Point(length, value, tf.reduce_sum(gradient * direction), gradient)

    def search():
        found = linesearch.hager_zhang(along, tf.ones_like(fun), at_one, at_zero, max_iterations=options["maxls"])
        return found.left, found.converged

    at_one = along(tf.ones_like(fun))
    is_lower = at_one.f <= fun + _SUFFICIENT_DECREASE * at_zero.df
    is_found = is_lower & (tf.abs(at_one.df) <= -_CURVATURE * at_zero.df)
    found, converged = tf.cond(is_found, lambda: (at_one, tf.constant(True)), search)
    failed = ~converged | ~(found.f <= fun)
    after = {
        "position": x + found.x * direction,
        "objective_value": found.f,
        "objective_gradient": found.full_gradient,
        "position_deltas": tf.concat([state["position_deltas"][1:], [found.x * direction]], axis=0),
        "gradient_deltas": tf.concat([state["gradient_deltas"][1:], [found.full_gradient - jac]], axis=0),
    }
    return {name: tf.where(failed, state[name], after[name]) for name in state}, failed


def check_installed() -> None:
    """Raises `ImportError` with the command to install what is missing."""
    missing = [name for name in ("tensorflow_probability", "tf_keras") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            'Expected TensorFlow Probability and its tf-keras for engine="tfp". '
            f"Received: no {' and no '.join(missing)}. Install both: pip install tensorflow-probability tf-keras"
        )


@functools.cache
def _tfp():
    """The modules of the direction and of the line search, and the class of a point on a line."""
    from tensorflow_probability.python.optimizer import bfgs_utils, lbfgs, linesearch

    return lbfgs, linesearch, bfgs_utils.ValueAndGradient


register(
    GraphMethod(
        "L-BFGS-TFP",
        variables=variables,
        step=step,
        check_installed=check_installed,
        options={**OPTIONS, "maxls": 30, "memory": 10},
        tolerances=("ftol", "gtol"),
        takes_xla=False,  # it slices its queue of pairs by their number
        instead="engine='scipy'",
        reference=(
            "Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line search "
            "(2005);\nhttps://www.tensorflow.org/probability/api_docs/python/tfp/optimizer/lbfgs_minimize"
        ),
    )
)
