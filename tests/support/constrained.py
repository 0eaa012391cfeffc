"""A regression of three weights under constraints, in numpy: the data, the constraints, the optimum."""

import numpy as np
import scipy.optimize
from scipy.optimize import LinearConstraint, NonlinearConstraint

X3 = np.random.default_rng(0).normal(size=(200, 3))
Y3 = X3 @ [0.5, 0.3, 0.2] + 0.1 * np.random.default_rng(1).normal(size=200)
SUMS = {
    "at least one": NonlinearConstraint(np.sum, 1.0, np.inf),
    "one": LinearConstraint(np.ones((1, 3)), 1.0, 1.0),
    "in a ball": {"type": "ineq", "fun": lambda x: 0.25 - x @ x},
}


def mean_square(x):
    residual = X3 @ x - Y3
    return float(residual @ residual) / len(Y3), 2 * X3.T @ residual / len(Y3)


def best_under(constraint, bounds=None):
    start = np.full(3, 0.25)
    return scipy.optimize.minimize(mean_square, start, jac=True, bounds=bounds, constraints=constraint, tol=1e-14)
