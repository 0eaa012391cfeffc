"""The variables that a solver sees: the weights that may move, in the units of `units.py`.

    x[free] = T z,    dz f = T' dx f

Weights whose bounds are equal are taken out of the problem. scipy does this for some methods and some derivatives, with
errors of its own on the way. Here it is done once, for all methods. Units of 1 change nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import Bounds, LbfgsInvHessProduct, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator

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
from kormos_opt.solvers.first_step import visible_length
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.solvers.units import Units


def in_own_variables(
    make: Callable[[np.ndarray, Bounds | None, list, dict], Solver],
    x0: np.ndarray,
    bounds: Bounds | None,
    constraints: Sequence,
    options: dict,
    derivatives: bool,
    units: Units | None = None,
    resolution: float | None = None,
) -> Solver:
    """A solver of the whole problem, from one of its variables.

    Args:
        make: Called with the starting point, bounds, constraints and options in the variables of the solver. Returns
            the solver.
        x0: Starting point, float64 of shape `(n,)`, between the bounds.
        bounds: Of all weights.
        constraints: On all weights, as scipy takes them.
        options: As scipy takes them.
        derivatives: Whether the solver asks for gradients.
        units: The units of all weights, with no centered kernels where there are bounds or constraints. Defaults to
            `None`: 1.
        resolution: The relative resolution of f. With it, the units are multiplied by the length that
            `first_step.visible_length` finds. Defaults to `None`: they stay as they are.

    Returns:
        A solver, whose requests and result are points of shape `(n,)`. What else the result of scipy holds is that of
        the free weights.
    """
    is_free = np.ones(x0.size, bool) if bounds is None else np.broadcast_to(bounds.lb < bounds.ub, x0.shape)
    if not is_free.any():
        return _evaluate_once(x0, derivatives)

    def begin():
        part = _FreeWeights(is_free, x0, units or Units(np.ones_like(x0)))
        if part.is_whole:
            return make(x0, bounds, list(constraints), options)
        changed = [part.constraint(each) for each in constraints]
        settings = {name: part.option(name, value) for name, value in options.items()}
        return _expanded(make(part.own(x0), part.bounds(bounds), changed, settings), part)

    if resolution is None or not derivatives:
        return begin()
    return _stretched(begin, x0, units, is_free, resolution, bounds)


def _stretched(begin, x0, units, is_free, resolution, bounds):
    """Finds the unit of the first step before the solver begins."""
    answer = yield EvaluateWithGradient(x0)
    length, tried = yield from visible_length(x0, *answer, units, resolution, is_free, bounds)
    units.multiply(length)
    solver = begin()
    try:
        request = next(solver)
        if isinstance(request, EvaluateWithGradient) and np.array_equal(request.x, x0):
            request = solver.send(answer)
        while True:
            request = solver.send((yield request))
    except StopIteration as end:
        result = end.value
    finally:
        solver.close()
    if tried and "nfev" in result:
        result.nfev += tried
    return result


def _evaluate_once(x0, derivatives):
    answer = yield EvaluateWithGradient(x0) if derivatives else EvaluateValue(x0)
    fun = answer[0] if derivatives else answer
    return TerminationReason.ALL_FIXED.result(x=x0, fun=fun, nit=0, nfev=1)


def _expanded(solver, part):
    """Passes requests on with all weights in them, and answers back with the free ones."""
    answer = None
    try:
        while True:
            try:
                request = solver.send(answer)
            except StopIteration as end:
                return part.result(end.value)
            x = part.whole(request.x)
            if isinstance(request, Iterate):
                answer = yield Iterate(x)
            elif isinstance(request, HessianProduct):
                product = yield HessianProduct(x, part.padded(request.p))
                answer = part.columns(product)
            elif isinstance(request, EvaluateWithGradient):
                fun, jac = yield EvaluateWithGradient(x)
                answer = fun, part.columns(jac)
            elif isinstance(request, (EvaluateValue, Residuals)):
                answer = yield type(request)(x)
            elif isinstance(request, Jacobian):
                answer = part.columns((yield Jacobian(x)))
            elif isinstance(request, JacobianProduct):
                answer = yield JacobianProduct(x, part.padded(request.p))
            elif isinstance(request, TransposedProduct):
                answer = part.columns((yield TransposedProduct(x, request.r)))
            else:
                raise unknown_request(request)
    finally:
        solver.close()


class _FreeWeights:
    """The variables of a solver among all weights.

    Args:
        is_free: Which weights may move, of shape `(n,)`.
        x0: The starting point, with the values of the others.
        units: The units of all weights.
    """

    def __init__(self, is_free: np.ndarray, x0: np.ndarray, units: Units):
        self.is_free = is_free
        self._x0 = x0
        self._units = units if is_free.all() else Units(units.scale[is_free])
        self._z0 = self.own(x0)
        self.is_whole = bool(is_free.all() and self._units.are_plain)

    def whole(self, z):
        """The point whose free weights are those of z; the start itself, whose inverse may be rounded."""
        whole = self._x0.copy()
        if not np.array_equal(z, self._z0):
            whole[self.is_free] = self._units.weights(z)
        return whole

    def own(self, x):
        """The free weights of a whole point, in the units of the solver."""
        return self._units.own(x[self.is_free])

    def padded(self, p):
        """Directions, of shape `(k,)` or `(m, k)`, as directions of all weights."""
        padded = np.zeros((*p.shape[:-1], self._x0.size))
        padded[..., self.is_free] = self._units.weights(p)
        return padded

    def columns(self, derivatives):
        """Derivatives with respect to all weights, in the last axis, as those with respect to z."""
        return self._units.own_gradient(derivatives[..., self.is_free])

    def bounds(self, bounds):
        """Bounds on all weights as those on z."""
        if bounds is None:
            return None
        lower, upper, keep = (np.broadcast_to(each, self._x0.shape) for each in _parts_of(bounds))
        return Bounds(self.own(lower), self.own(upper), keep[self.is_free])

    def option(self, name, value):
        """An option, of which a vector or a matrix over all weights keeps what belongs to the free ones."""
        if np.shape(value) == self._x0.shape:
            return np.asarray(value)[self.is_free]
        if np.shape(value) == 2 * self._x0.shape:
            value = np.asarray(value)[np.ix_(self.is_free, self.is_free)]
            if name == "hess_inv0":
                return self._units.own(self._units.own(value).T)
            return self._units.own(value) if name in _OF_POINTS else value
        if name in _OF_POINTS and np.ndim(value) == 2 and np.shape(value)[1:] == self._x0.shape:
            return self._units.own(np.asarray(value)[:, self.is_free])
        return value

    def result(self, result):
        """What a solver has returned, with x of all weights and the rest in their units."""
        if "x" in result:
            result.x = self.whole(result.x)
        units, size = self._units, self._z0.size
        if units.are_plain:
            return result
        for name in ("jac", "grad", "lagrangian_grad"):
            if np.shape(result.get(name)) == (size,):
                result[name] = units.gradient(result[name])
        inverse = result.get("hess_inv")
        if isinstance(inverse, LbfgsInvHessProduct):
            result.hess_inv = LinearOperator(
                inverse.shape, lambda v: units.weights(inverse.matvec(units.own_gradient(np.ravel(v)))), dtype="float64"
            )
        elif np.shape(inverse) == (size, size):
            result.hess_inv = units.weights(units.weights(inverse).T)
        if "final_simplex" in result:
            points, values = result.final_simplex
            result.final_simplex = units.weights(points), values
        return result

    def constraint(self, constraint):
        """A constraint on all weights as one on the free ones."""
        if isinstance(constraint, LinearConstraint):
            matrix = constraint.A.toarray() if hasattr(constraint.A, "toarray") else np.atleast_2d(constraint.A)
            offset = matrix[:, ~self.is_free] @ self._x0[~self.is_free]
            limits = constraint.lb - offset, constraint.ub - offset
            return LinearConstraint(self.columns(matrix), *limits, constraint.keep_feasible)
        if isinstance(constraint, NonlinearConstraint):
            hess = constraint.hess
            return NonlinearConstraint(
                lambda x: constraint.fun(self.whole(x)),
                constraint.lb,
                constraint.ub,
                jac=self._jacobian(constraint.jac),
                hess=(lambda x, v: self._block(hess(self.whole(x), v))) if callable(hess) else hess,
                keep_feasible=constraint.keep_feasible,
                finite_diff_rel_step=self.option("finite_diff_rel_step", constraint.finite_diff_rel_step),
            )
        fun = constraint["fun"]
        changed = {"fun": lambda x, *args: fun(self.whole(x), *args)}
        if callable(constraint.get("jac")):
            changed["jac"] = self._jacobian(constraint["jac"])
        return {**constraint, **changed}

    def _jacobian(self, jac):
        if not callable(jac):
            return jac

        def jacobian(z, *args):
            whole = jac(self.whole(z), *args)
            if not hasattr(whole, "tocsc"):
                return self.columns(np.asarray(whole))
            return whole.tocsc()[:, self.is_free].multiply(self._units.scale).tocsr()

        return jacobian

    def _block(self, hess):
        """The rows and columns of the free weights of a matrix, dense, sparse or a `LinearOperator`."""
        columns = hess @ self.padded(np.eye(int(self.is_free.sum()))).T
        return columns[self.is_free] * self._units.scale[:, None]


_OF_POINTS = {"initial_simplex", "direc"}  # options whose rows are points or steps


def _parts_of(bounds):
    return bounds.lb, bounds.ub, bounds.keep_feasible
