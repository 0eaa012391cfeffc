"""Stand-ins made of numpy: an objective without a model, and a solver that says what it is told to say."""

from types import SimpleNamespace

import keras
import numpy as np

from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, Iterate
from kormos_opt.solvers.termination import TerminationReason


class NumpyOracle:
    """The `Oracle` of a run, from a function of numpy.

    Args:
        fun: Called with x. Returns f and its gradient.
        hessian: Called with x. Returns the Hessian. Defaults to `None`.

    Attributes:
        asked: Every question, as `(kind, x)`.
    """

    def __init__(self, fun, hessian=None):
        self._fun = fun
        self._hessian = hessian
        self.asked = []

    def evaluate(self, x, gradient=True):
        self.asked.append(("gradient" if gradient else "value", x))
        fun, jac = self._fun(x)
        return Evaluation(x, fun, jac if gradient else None, {}, [])

    def hvps(self, x, p):
        self.asked.append(("product", x))
        return p @ self._hessian(x)

    def seeds(self):
        return np.zeros((0, 2), "int64")

    def check_start(self, evaluation):
        if not np.isfinite(evaluation.fun):
            raise ValueError("Expected a finite loss at the starting point.")


class NumpyObjective(NumpyOracle):
    """A bound objective whose weights are one Keras variable, for a `Fit` without a model.

    Attributes:
        moved: What the state of a model would be: how often it was put back.
        captured: What f reads beside the weights; set `names` to say that it has changed.
    """

    seeds = ()
    data = None

    def __init__(self, fun, x0, hessian=None):
        super().__init__(fun, hessian)
        self.parameters = FlatParameters([keras.Variable(np.array(x0, "float64"), dtype="float64", name="x")])
        self.moved = 0
        self.names = []
        settings = SimpleNamespace(float64=True)
        self.objective = SimpleNamespace(captured=self, dtype="float64", log_names=set(), settings=settings)
        self.state = self
        self.may_change_unseen, self.is_random, self.random_operations = False, False, []
        self.foreign_names = lambda model: []

    def evaluate(self, x, gradient=True):
        self.parameters.assign(x)
        return super().evaluate(x, gradient)

    is_one_chunk = True

    def null_loss(self):
        return 0.0

    def save(self):
        return self.moved

    def restore(self, moved):
        self.moved = moved

    def put_seeds_back(self, moved):
        self.moved = moved

    def remember(self):
        self.names = []

    def changed(self):
        return self.names


class Script:
    """A solver that asks for these points, and says of some that they are iterates.

    Args:
        *steps: Points; in a tuple `(x,)` it is an iterate too.
        ending: How it ends. Defaults to `TerminationReason.ALL_FIXED`, which nobody doubts.
        derivatives: Whether it asks for gradients. Defaults to `True`.

    Attributes:
        closed: Whether it was closed before its end.
    """

    def __init__(self, *steps, ending=TerminationReason.ALL_FIXED, derivatives=True):
        self._steps = steps
        self._ending = ending
        self._ask = EvaluateWithGradient if derivatives else EvaluateValue
        self.closed = False

    def __call__(self, x0, **options):
        """The solver, as a row of the registry starts it. It begins at `x0`."""
        x = x0
        try:
            yield self._ask(x0)
            for step in self._steps:
                point = np.array(step[0] if isinstance(step, tuple) else step, float)
                yield self._ask(point)
                if isinstance(step, tuple):
                    x = point
                    yield Iterate(x)
            return self._ending.result(x=x, message=self._ending.message(option="gtol"))
        except GeneratorExit:
            self.closed = True
            raise


def parabola(x):
    """f(x) = |x|^2 / 2 and its gradient."""
    return float(x @ x) / 2, np.array(x)
