"""Takes weights whose bounds are equal out of a problem, so that a solver sees only those that may move.

scipy does this for some methods and some derivatives, with errors of its own on the way. Here it is done once, for all
methods. Those without derivatives get faster by it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint

from kormos_opt.solvers.base import (
    EvaluateValue,
    EvaluateWithGradient,
    HessianProduct,
    Iterate,
    Jacobian,
    JacobianProduct,
    Residuals,
    Solver,
    TransposedProduct,
    unknown_request,
)
from kormos_opt.solvers.endings import Ending


def without_fixed(
    make: Callable[[np.ndarray, Bounds | None, list, dict], Solver],
    x0: np.ndarray,
    bounds: Bounds | None,
    constraints: Sequence,
    options: dict,
    derivatives: bool,
) -> Solver:
    """A solver of the whole problem, from one of its part that may move.

    Args:
        make: Called with the starting point, bounds, constraints and options of the free weights. Returns their solver.
        x0: Starting point, float64 of shape `(n,)`, between the bounds.
        bounds: Of all weights.
        constraints: On all weights, as scipy takes them.
        options: As scipy takes them.
        derivatives: Whether the solver asks for gradients. It says what to ask for if nothing may move.

    Returns:
        A solver, whose requests and result are points of shape `(n,)`. What else the result of scipy holds, such as
        `hess_inv`, is that of the free weights.
    """
    is_free = np.ones(x0.size, bool) if bounds is None else np.broadcast_to(bounds.lb < bounds.ub, x0.shape)
    if is_free.all():
        return make(x0, bounds, list(constraints), options)
    if not is_free.any():
        return _evaluate_once(x0, derivatives)
    part = _Part(is_free, x0)
    keep_feasible = np.broadcast_to(bounds.keep_feasible, x0.shape)[is_free]
    free = Bounds(bounds.lb[is_free], bounds.ub[is_free], keep_feasible)
    constraints = [part.constraint(each) for each in constraints]
    options = {name: part.option(value) for name, value in options.items()}
    return _expanded(make(x0[is_free], free, constraints, options), part)


def _evaluate_once(x0, derivatives):
    answer = yield EvaluateWithGradient(x0) if derivatives else EvaluateValue(x0)
    fun = answer[0] if derivatives else answer
    return Ending.ALL_FIXED.result(x=x0, fun=fun, nit=0, nfev=1)


def _expanded(solver, part):
    """Passes requests on with all weights in them, and answers back with the free ones."""
    answer = None
    try:
        while True:
            try:
                request = solver.send(answer)
            except StopIteration as end:
                result = end.value
                result.x = part.whole(result.x)
                return result
            x = part.whole(request.x)
            if isinstance(request, Iterate):
                answer = yield Iterate(x)
            elif isinstance(request, HessianProduct):
                product = yield HessianProduct(x, part.padded(request.p))
                answer = product[..., part.is_free]
            elif isinstance(request, EvaluateWithGradient):
                fun, jac = yield EvaluateWithGradient(x)
                answer = fun, jac[part.is_free]
            elif isinstance(request, (EvaluateValue, Residuals)):
                answer = yield type(request)(x)
            elif isinstance(request, Jacobian):
                answer = (yield Jacobian(x))[:, part.is_free]
            elif isinstance(request, JacobianProduct):
                answer = yield JacobianProduct(x, part.padded(request.p))
            elif isinstance(request, TransposedProduct):
                answer = (yield TransposedProduct(x, request.r))[part.is_free]
            else:
                raise unknown_request(request)
    finally:
        solver.close()


class _Part:
    """The free weights among all of them.

    Args:
        is_free: Which ones may move, of shape `(n,)`.
        x0: A point with the values of the others.
    """

    def __init__(self, is_free: np.ndarray, x0: np.ndarray):
        self.is_free = is_free
        self._x0 = x0

    def whole(self, x):
        """The point whose free weights are `x`."""
        whole = self._x0.copy()
        whole[self.is_free] = x
        return whole

    def padded(self, p):
        """Directions, of shape `(k,)` or `(m, k)`, with zeros for the fixed weights."""
        padded = np.zeros((*p.shape[:-1], self._x0.size))
        padded[..., self.is_free] = p
        return padded

    def option(self, value):
        """An option, of which a vector or a square matrix over all weights keeps what belongs to the free ones."""
        if np.shape(value) == self._x0.shape:
            return np.asarray(value)[self.is_free]
        if np.shape(value) == 2 * self._x0.shape:
            return np.asarray(value)[np.ix_(self.is_free, self.is_free)]
        return value

    def constraint(self, constraint):
        """A constraint on all weights as one on the free ones."""
        if isinstance(constraint, LinearConstraint):
            matrix = constraint.A.toarray() if hasattr(constraint.A, "toarray") else np.atleast_2d(constraint.A)
            offset = matrix[:, ~self.is_free] @ self._x0[~self.is_free]
            limits = constraint.lb - offset, constraint.ub - offset
            return LinearConstraint(matrix[:, self.is_free], *limits, constraint.keep_feasible)
        if isinstance(constraint, NonlinearConstraint):
            hess = constraint.hess
            return NonlinearConstraint(
                lambda x: constraint.fun(self.whole(x)),
                constraint.lb,
                constraint.ub,
                jac=self._columns(constraint.jac),
                hess=(lambda x, v: self._block(hess(self.whole(x), v))) if callable(hess) else hess,
                keep_feasible=constraint.keep_feasible,
                finite_diff_rel_step=self.option(constraint.finite_diff_rel_step),
            )
        fun = constraint["fun"]
        changed = {"fun": lambda x, *args: fun(self.whole(x), *args)}
        if callable(constraint.get("jac")):
            changed["jac"] = self._columns(constraint["jac"])
        return {**constraint, **changed}

    def _columns(self, jac):
        if not callable(jac):
            return jac

        def columns(x, *args):
            whole = jac(self.whole(x), *args)
            return whole[:, self.is_free] if len(np.shape(whole)) == 2 else np.asarray(whole)[self.is_free]

        return columns

    def _block(self, hess):
        """The rows and columns of the free weights of a matrix, dense, sparse or a `LinearOperator`."""
        columns = hess @ self.padded(np.eye(int(self.is_free.sum()))).T
        return columns[self.is_free]
