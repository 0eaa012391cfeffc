"""Solvers in numpy: coroutines that ask for f and its gradient. They know no model, no Keras and no TensorFlow.

A solver of your own is a generator and a row of the registry. It is then a method like those of scipy:

>>> import keras, kormos_opt, numpy as np
>>> from scipy.optimize import OptimizeResult
>>> from kormos_opt.solvers import EvaluateWithGradient, Iterate, NumpyMethod, register
>>> def steepest_descent(x0, tol=1e-6, step=0.1):
...     x = x0
...     while True:
...         fun, jac = yield EvaluateWithGradient(x)
...         if np.linalg.norm(jac) <= tol:
...             return OptimizeResult(x=x, success=True, message="Converged: the gradient is small")
...         x = x - step * jac
...         yield Iterate(x)
>>> _ = register(NumpyMethod("fixed-step-descent", "gradient", steepest_descent, tolerances=()))
>>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
>>> model.compile(optimizer="fixed-step-descent", loss="mse")
>>> history = model.fit(np.array([[-1.0], [1.0]]), np.array([[-2.0], [4.0]]), epochs=200, verbose=0)
>>> model.get_weights()[1].round(3).tolist()
[1.0]
"""

from kormos_opt.solvers.base import (
    ArraySpec,
    EvaluateValue,
    EvaluateWithGradient,
    HessianProduct,
    Iterate,
    Jacobian,
    JacobianProduct,
    Request,
    Residuals,
    Solver,
    TransposedProduct,
)
from kormos_opt.solvers.registry import GraphMethod, NumpyMethod, register

Method = NumpyMethod  # the name of the version before; it goes in version 0.3

__all__ = [
    "ArraySpec",
    "EvaluateValue",
    "EvaluateWithGradient",
    "GraphMethod",
    "HessianProduct",
    "Iterate",
    "Jacobian",
    "JacobianProduct",
    "NumpyMethod",
    "Request",
    "Residuals",
    "Solver",
    "TransposedProduct",
    "register",
]
