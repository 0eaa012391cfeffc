"""The covariance of a few weights of a large model, without a matrix of all of them.

C e = x  where  (sum of J' W J) x = e,  by conjugate gradients: only products with J are needed
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from kormos_opt.inference.covariance import Fitted

_TOLERANCE = 1e-10  # relative, of the residual


def of_selected(fitted: Fitted, places: np.ndarray) -> np.ndarray:
    """The nonrobust covariance of the weights at `places`, of shape `(k, k)`.

    Raises:
        ValueError: If the data do not identify one of them.
    """
    means, chain = fitted.means, functools.partial(fitted.likelihood.chain, fitted.outputs)

    def multiply(p):
        return means.transposed_product(chain(fitted.information * chain(means.product(np.ravel(p)))))

    size = fitted.size
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
    return fitted.scale_for(fitted.entries - size) * np.stack(columns, axis=1)
