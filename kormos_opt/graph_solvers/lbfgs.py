"""L-BFGS in TensorFlow operations, with one pass over the memory for its products and one for the direction.

The letters are those of the compact form: S and Y hold the last m changes s of x and y of the gradient g, one in a row;
R is the part of S Y' where s is not newer than y, D the diagonal of S Y'. The inverse Hessian of L-BFGS is

    H = gamma I + [S' gamma Y'] [ R^-T (D + gamma Y Y') R^-1   -R^-T ] [   S     ]
                                [          -R^-1                 0   ] [ gamma Y ]

so -H g needs the products of S and Y with g, arithmetic with matrices of m x m, and one combination of the rows of S
and Y. The m x m matrices need the products of S and Y with the new y, which are differences of those with g, before and
after. No pair is moved: a new one takes the place of the oldest. Products with all pairs are added up in the precision
of the vectors, where XLA is nine times as fast as in float64; all other products, and the arithmetic of m x m, are
float64.

Sources: Byrd, Nocedal and Schnabel, Representations of quasi-Newton matrices and their use in limited memory methods
(1994), theorem 2.2; Chen, Wang and Zhou, Large-scale L-BFGS using MapReduce (2014), for the products; Nocedal and
Wright, Numerical Optimization (2006), section 7.2, for gamma.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from kormos_opt.graph_solvers.line_search import Found, dot, search
from kormos_opt.graph_solvers.variables import OPTIONS, POINT
from kormos_opt.solvers.base import ArraySpec
from kormos_opt.solvers.registry import AutoMethod, GraphMethod, register

_EPSILON = float(np.finfo(float).eps)


def variables(size: int, options: Mapping) -> dict[str, ArraySpec]:
    """What L-BFGS remembers between two iterations.

    Args:
        size: n, the number of weights.
        options: The options of the row below. `memory` is m.

    Returns:
        x, f(x) and g; the rows of S, then those of Y; their products with g; R^-1, Y Y' and D, by the places of the
        pairs; gamma; how many pairs there were.
    """
    m = options["memory"]
    return {
        "position": ArraySpec((size,), None),
        "objective_value": ArraySpec(()),
        "objective_gradient": ArraySpec((size,), None),
        "pairs": ArraySpec((2 * m, size), None),
        "products": ArraySpec((2 * m,)),
        "inverse_r": ArraySpec((m, m)),
        "y_products": ArraySpec((m, m)),
        "diagonal": ArraySpec((m,)),
        "scale": ArraySpec(()),
        "pair_count": ArraySpec((), "int64"),
    }


def step(
    value_and_gradient: Callable, state: Mapping[str, tf.Tensor], nit: tf.Tensor, options: Mapping
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """One iteration. Where the memory leads nowhere, it is forgotten and the gradient is followed.

    Args:
        value_and_gradient: f and its gradient at a tensor of shape `(n,)`.
        state: Tensors by the names of `variables`: where the iteration starts.
        nit: Number of iterations so far.
        options: The options of the row below. `maxls` bounds the evaluations of the line search.

    Returns:
        The next state, and whether no better point was found.
    """
    del nit
    start = Found(tf.zeros((), tf.float64), *(state[name] for name in POINT))
    small = {name: state[name] for name in _SMALL}

    def leads_nowhere(attempt, found, small):
        return (attempt == 0) | ((attempt == 1) & (found.length == 0) & (state["pair_count"] > 0))

    def attempt(count, found, small):
        is_first = small["pair_count"] == 0
        direction = _direction(start.gradient, state["pairs"], small)
        slope = dot(direction, start.gradient)
        length = tf.where(is_first, 1 / tf.sqrt(-slope), tf.ones_like(slope))
        maxls = tf.where(slope < 0, options["maxls"], 0)
        found = search(value_and_gradient, start, direction, slope, length, maxls)
        small = {name: tf.where(found.length == 0, tf.zeros_like(value), value) for name, value in small.items()}
        return count + 1, found, small

    forgotten = tf.constant(0), start, small
    _, found, small = tf.while_loop(leads_nowhere, attempt, forgotten, parallel_iterations=1)
    after = _with_pair(start, found, state["pairs"], small)
    return after, found.length == 0


def on_objective_change(state: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The products with the gradient of an objective that has changed."""
    return {"products": _products(state["pairs"], state["objective_gradient"])}


_SMALL = "products", "inverse_r", "y_products", "diagonal", "scale", "pair_count"


def _direction(gradient, pairs, small):
    """-H g. The gradient itself without pairs: all matrices are zero then."""
    s_products, y_products = tf.split(small["products"], 2)
    scale = tf.where(small["pair_count"] == 0, tf.ones((), tf.float64), small["scale"])
    of_y = tf.linalg.matvec(small["inverse_r"], s_products)
    inner = small["diagonal"] * of_y + scale * (tf.linalg.matvec(small["y_products"], of_y) - y_products)
    of_s = tf.linalg.matvec(small["inverse_r"], inner, transpose_a=True)
    coefficients = tf.concat([of_s, -scale * of_y], axis=0)
    combination = tf.linalg.matvec(pairs, tf.cast(coefficients, gradient.dtype), transpose_a=True)
    return -tf.cast(scale, gradient.dtype) * gradient - combination


def _with_pair(start, found, pairs, small):
    """The state at the new point, with the pair that led there in the place of the oldest."""
    m = small["diagonal"].shape[0]
    s, y = found.x - start.x, found.gradient - start.gradient
    sy, yy = dot(s, y), dot(y, y)
    is_curved = (sy > _EPSILON * yy) & (found.length > 0)

    place = tf.cast(small["pair_count"] % m, tf.int32)
    for row, vector in ((place, s), (place + m, y)):
        vector = tf.where(is_curved, vector, tf.gather(pairs, row))
        pairs = tf.tensor_scatter_nd_update(pairs, [[row]], vector[None, :])

    products = _products(pairs, found.gradient)
    s_y, y_y = tf.split(products - small["products"], 2)  # of all pairs but the new one
    here = tf.one_hot(place, m, dtype=tf.float64)
    others = 1 - here
    kept = small["inverse_r"] * others[:, None] * others[None, :]
    denominator = tf.where(is_curved, sy, tf.ones_like(sy))
    column = (here - tf.linalg.matvec(kept, s_y)) / denominator
    cross = y_y * others
    new = {
        "inverse_r": kept + column[:, None] * here[None, :],
        "y_products": small["y_products"] * others[:, None] * others[None, :]
        + cross[:, None] * here[None, :]
        + here[:, None] * (cross + yy * here)[None, :],
        "diagonal": small["diagonal"] * others + sy * here,
        "scale": sy / tf.where(is_curved, yy, tf.ones_like(yy)),
        "pair_count": small["pair_count"] + 1,
    }
    return {
        "position": found.x,
        "objective_value": found.fun,
        "objective_gradient": found.gradient,
        "pairs": pairs,
        "products": products,
        **{name: tf.where(is_curved, value, small[name]) for name, value in new.items()},
    }


def _products(pairs, vector):
    """Every row times the vector."""
    return tf.cast(tf.linalg.matvec(pairs, vector), tf.float64)


_OPTIONS = {**OPTIONS, "maxls": 20, "memory": 10}

register(
    GraphMethod(
        "L-BFGS-graph",
        variables=variables,
        step=step,
        on_objective_change=on_objective_change,
        options=_OPTIONS,
        tolerances=("ftol", "gtol"),
        instead="engine='scipy'",
        reference=(
            "Byrd, Nocedal and Schnabel, Representations of quasi-Newton matrices and their use in limited memory "
            "methods (1994)"
        ),
    )
)
register(
    AutoMethod(
        "L-BFGS-auto",
        in_graph="L-BFGS-graph",
        in_numpy="L-BFGS-B",
        options=_OPTIONS,
        tolerances=("ftol", "gtol"),
    )
)
