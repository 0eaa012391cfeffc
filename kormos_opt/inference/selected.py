"""The covariance of a few weights of a large model, without a matrix of all of them.

C e = x  where  (sum of J' W J) x = e,  by conjugate gradients: only products with J are needed
"""

import keras
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from kormos_opt.inference.families import likelihood_of
from kormos_opt.inference.outputs import Means

_TOLERANCE = 1e-10  # relative, of the residual


def of_selected(model: keras.Model, x, y, sample_weight, places: np.ndarray) -> np.ndarray:
    """The nonrobust covariance of the weights at `places`, of shape `(k, k)`.

    Raises:
        ValueError: If the data do not tell one of them.
    """
    likelihood, means = likelihood_of(model), Means(model, x)
    outputs = means.outputs(means.weights)
    mu, targets = likelihood.means(outputs), likelihood.targets(np.asarray(y), outputs)
    weights = np.ones(len(mu)) if sample_weight is None else np.ravel(sample_weight)
    information = weights[:, None] * likelihood.family.information(mu)

    def multiply(p):
        along = likelihood.chain(outputs, means.product(np.ravel(p)))
        return means.transposed_product(likelihood.chain(outputs, information * along))

    size = means.weights.size
    matrix = LinearOperator((size, size), matvec=multiply, dtype="float64")
    columns = []
    for place in places:
        column, failure = cg(matrix, np.eye(1, size, place)[0], rtol=_TOLERANCE, maxiter=10 * size)
        if failure:
            raise ValueError(
                "Expected weights that the data tell. Received: an information matrix for which conjugate gradients "
                f"did not converge in {10 * size} steps. Take which=None if all weights fit, or fix some of them."
            )
        columns.append(column[places])
    family = likelihood.family
    scale = weights @ family.deviance(targets, mu) / (mu.size - size) if family.has_scale else 1.0
    return scale * np.stack(columns, axis=1)
