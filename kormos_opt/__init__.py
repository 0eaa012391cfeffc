"""Deterministic full-batch solvers for plain Keras 3 models.

    integration     where Keras calls us: compile, fit, chains, pickling, scikit-learn's wrappers
    optimizers      what a user compiles with
    callbacks       new training data in the middle of a fit
    plotting        pictures of histories
    until           conditions for the end of a stage of a chain
    models          kormos's models
    inference       standard errors, intervals and tests of a fitted model
    training        one fit: an epoch of the stock loop is an iteration of a solver
    stages          what a fit is told to do: method, options, bounds, constraints
    solvers         what asks: coroutines in numpy, scipy in a suspended thread
    graph_solvers   what asks from inside the graph
    objective       what answers: f(x) and its gradient over the full batch, from the model's own train step
    data            all rows of a fit
    keras_internals what Keras and TensorFlow do not export

Example:

>>> import keras, kormos_opt, numpy as np
>>> x = np.linspace(-1, 1, 100)[:, None]
>>> model = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
>>> model.compile(optimizer=kormos_opt.LBFGS(), loss="mse")
>>> history = model.fit(x, np.sin(3 * x), epochs=50, verbose=0)
>>> history.history["loss"][-1] < history.history["loss"][0]
True
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "Expected Keras on the TensorFlow backend. "
        f"Received: keras.backend.backend()={keras.backend.backend()!r}. "
        'Set os.environ["KERAS_BACKEND"] = "tensorflow" before the first import of keras.'
    )

from kormos_opt import callbacks, models, optimizers, solvers, until
from kormos_opt.inference.intervals import confint, covariance, predict_interval
from kormos_opt.inference.names import weight_names
from kormos_opt.inference.summary import Summary, summary
from kormos_opt.integration.install import install
from kormos_opt.keras_internals import xla_gradients
from kormos_opt.objective.residual_recorder import mean_square
from kormos_opt.optimizers.chain import Chain
from kormos_opt.optimizers.lbfgs import LBFGS
from kormos_opt.optimizers.least_squares import LevenbergMarquardt
from kormos_opt.optimizers.methods import (
    BFGS,
    CG,
    COBYLA,
    COBYQA,
    SLSQP,
    TNC,
    Dogleg,
    NelderMead,
    NewtonCG,
    Powell,
    TrustConstr,
    TrustExact,
    TrustKrylov,
    TrustNCG,
)
from kormos_opt.optimizers.multi_start import MultiStart
from kormos_opt.optimizers.scipy_batch_optimizer import ScipyBatchOptimizer
from kormos_opt.optimizers.self_scaled import SSBFGS, SSBroyden
from kormos_opt.plotting import plot_history
from kormos_opt.stages.constraints import VariableConstraint

__version__ = "0.1.0"
__all__ = [
    "BFGS",
    "CG",
    "COBYLA",
    "COBYQA",
    "LBFGS",
    "SLSQP",
    "SSBFGS",
    "TNC",
    "Chain",
    "Dogleg",
    "LevenbergMarquardt",
    "MultiStart",
    "NelderMead",
    "NewtonCG",
    "Powell",
    "SSBroyden",
    "ScipyBatchOptimizer",
    "Summary",
    "TrustConstr",
    "TrustExact",
    "TrustKrylov",
    "TrustNCG",
    "VariableConstraint",
    "callbacks",
    "confint",
    "covariance",
    "mean_square",
    "models",
    "optimizers",
    "plot_history",
    "predict_interval",
    "solvers",
    "summary",
    "until",
    "weight_names",
]

install()
xla_gradients.register()


def __dir__():
    return sorted([*__all__, "__version__"])
