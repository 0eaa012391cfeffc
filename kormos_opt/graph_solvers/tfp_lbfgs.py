"""L-BFGS of TensorFlow Probability, one iteration a call.

TFP is imported here alone, and on first use. Its own tests of convergence are switched off: with a tolerance of 0 they
end a float32 run whose f has not changed as converged, and the relative one is wrong for negative f.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping

import tensorflow as tf

from kormos_opt.graph_solvers.variables import OPTIONS
from kormos_opt.solvers.base import ArraySpec
from kormos_opt.solvers.registry import Method, register

_NEVER = -1.0


def variables(size: int, options: Mapping) -> dict[str, ArraySpec]:
    """What L-BFGS remembers between two iterations.

    Args:
        size: n, the number of weights.
        options: Those of the row below. `memory` is the number of correction pairs.

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
    """One iteration with the line search of Hager and Zhang.

    Args:
        value_and_gradient: f and its gradient at a float64 tensor of shape `(n,)`.
        state: Tensors by the names of `variables`: where the iteration starts.
        nit: Number of iterations so far; TFP uses at most that many correction pairs.
        options: Those of the row below. `maxls` bounds the iterations of the line search.

    Returns:
        The next state, and whether the line search failed or ended above the f where it began. Then the state is the
        one it was.
    """
    lbfgs = _lbfgs()
    previous = lbfgs.LBfgsOptimizerResults(
        converged=tf.constant(False),
        failed=tf.constant(False),
        num_iterations=nit,
        num_objective_evaluations=tf.constant(0),
        **state,
    )
    after = lbfgs.minimize(
        value_and_gradient,
        initial_position=None,
        previous_optimizer_results=previous,
        num_correction_pairs=options["memory"],
        tolerance=_NEVER,
        x_tolerance=_NEVER,
        f_relative_tolerance=_NEVER,
        f_absolute_tolerance=_NEVER,
        max_iterations=nit + 1,
        max_line_search_iterations=options["maxls"],
    )
    failed = after.failed | ~(after.objective_value <= state["objective_value"])
    return {name: tf.where(failed, value, getattr(after, name)) for name, value in state.items()}, failed


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


register(
    Method(
        "L-BFGS-TFP",
        variables=variables,
        step=step,
        check_installed=check_installed,
        options={**OPTIONS, "maxls": 30, "memory": 10},
        tolerances=("ftol", "gtol"),
        instead="engine='scipy'",
        reference=(
            "Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line search "
            "(2005);\nhttps://www.tensorflow.org/probability/api_docs/python/tfp/optimizer/lbfgs_minimize"
        ),
    )
)
