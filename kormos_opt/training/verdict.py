"""Whether a run that has ended may say "Converged": only where little is left to gain.

An end by rounding, by a small reduction or by a short step speaks of the step that the method happened to try. What can
be gained is asked of f itself, in double precision, by `solvers/remaining_gain.py`.
"""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf
from scipy.optimize import Bounds, OptimizeResult

from kormos_opt.objective import precision
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.objective.build import variant_of
from kormos_opt.solvers.base import EvaluateWithGradient, HessianProduct, run_to_end
from kormos_opt.solvers.change_of_variables import in_own_variables
from kormos_opt.solvers.linearized import Linearized
from kormos_opt.solvers.remaining_gain import remaining_gain
from kormos_opt.solvers.termination import TerminationReason, rests_on_gradient
from kormos_opt.stages.constraints import resolve
from kormos_opt.stages.stage import Stage
from kormos_opt.training.runs.run import Run

LITTLE = 2e-4  # of the loss
_LITTLE_WHERE_LOOSE = 0.1
_LITTLE_OF_NULL = 5e-5  # of the loss that the best constant has
_ROUNDING = 1e-6  # of a loss in float32
_FLAT = 1e-3  # of the loss: a slope that is next to zero
_CAUTION = 100.0  # times what a quadratic would gain
_MAY_NOT_BE = (
    TerminationReason.RESOLUTION,
    TerminationReason.SMALL_REDUCTION,
    TerminationReason.SHORT_STEP,
    TerminationReason.SMALL_CHANGE,
    TerminationReason.WITHIN_TOLERANCES,
    TerminationReason.SMALL_TRUST_REGION,
    TerminationReason.TRUST_REGION_AT_TOLERANCE,
    TerminationReason.SMALLEST_TRUST_REGION,
    TerminationReason.SMALL_GRADIENT,
    TerminationReason.SMALL_GRADIENT_NORM,
    TerminationReason.NEXT_STEP_IS_NAN,
)
_STUCK = (
    TerminationReason.NO_BETTER_POINT,
    TerminationReason.NO_PREDICTED_IMPROVEMENT,
    TerminationReason.ONLY_SHORT_STEPS,
)
_REFUSALS = ValueError, TypeError, LookupError, NotImplementedError, tf.errors.OpError


def needs_certificate(stage: Stage, run: Run, objective: BoundObjective, may_go_on: bool) -> bool:
    """Whether what is left has to be asked.

    Not where the user gave a tolerance for the gradient, or one for the loss that is larger than that of the method;
    nor, without constraints, where the steps so far have told the smallest curvature, and the gradient is small for it:
    f falls by `|jac|^2 / (2 curvature)` at most.

    Args:
        stage: The stage.
        run: Its run, which has ended.
        objective: f.
        may_go_on: Whether the fit can go on by other means. Then it asks after ends without success too.
    """
    ending, accepted = run.result.get("ending"), run.accepted
    if stage.method.derivatives == "jacobian":
        return False
    if may_go_on and ending in _STUCK:
        return True
    if ending not in _MAY_NOT_BE:
        return False
    if rests_on_gradient(ending, run.method) and stage.has_own_tolerances:
        return False
    if stage.has_loose_tolerances and ending is TerminationReason.SMALL_REDUCTION:
        return False
    if stage.constraints or run.steps is None or accepted.jac is None:
        return True
    smallest = run.steps.smallest_curvature(accepted.fun, precision.resolution(objective.objective.dtype))
    if not smallest:
        return True
    own = run.units.own_gradient(accepted.jac)
    most = _CAUTION * (own @ own) / (2 * smallest)
    return bool(most > LITTLE * abs(accepted.fun) and most > _LITTLE_OF_NULL * _null_loss(objective))


def _null_loss(objective):
    """The loss of the best constant, 0 where nobody knows."""
    with contextlib.suppress(*_REFUSALS):  # of a train step that needs the gradient of its loss
        return objective.null_loss()
    return 0.0


def left_to_gain(objective: BoundObjective, run: Run, bounds: Bounds | None, stage: Stage) -> OptimizeResult:
    """What `remaining_gain` finds, in double precision where the model can be computed in it.

    Args:
        objective: f.
        run: The run, at its last accepted iterate.
        bounds: The bounds of the stage, or `None`.
        stage: For a method without derivatives difference quotients of gradients serve. With a larger tolerance than
            that of the method a tenth of the loss is little.

    Returns:
        Its result, with `nhev`, the products and the evaluations beside them, `nfev`, the evaluations of a method
        without derivatives, `is_little`, and `is_flat`: whether the model is no better than a constant, with no better
        point in sight.
    """
    x, constraints = run.accepted.x, resolve(stage.constraints, objective.parameters, stage.method)
    has_derivatives = stage.method.derivatives != "none"
    if objective.objective.dtype != "float64":
        x = objective.parameters.round(x)
    linearized = Linearized(constraints, x, bounds) if constraints else None

    def look():
        if linearized is not None:
            return remaining_gain(x, bounds, linearized)
        return in_own_variables(lambda z, limits, *_: remaining_gain(z, limits), x, bounds, (), {}, True, run.units)

    try:
        in_float64 = variant_of(objective, float64=True, curvature="exact", copies=False, checks=False)
        oracle = _CountingOracle(in_float64, has_derivatives)
        found = run_to_end(look(), oracle)
    except _REFUSALS:
        oracle = _CountingOracle(objective, has_derivatives)
        found = run_to_end(look(), oracle)
    little = (_LITTLE_WHERE_LOOSE if stage.has_loose_tolerances else LITTLE) * abs(found.fun + found.gain)
    null = _null_loss(objective)
    little = max(little, _LITTLE_OF_NULL * null)
    slope = np.linalg.norm(run.accepted.jac) if run.accepted.jac is not None else np.inf
    is_flat = objective.is_one_chunk and 0 < null * (1 - _ROUNDING) <= found.fun and slope < _FLAT * abs(found.fun)
    found.update(nfev=oracle.nfev, nhev=oracle.nhev, is_little=bool(found.gain <= little), is_flat=bool(is_flat))
    return found


def tell(run: Run, found: OptimizeResult, dtype: str) -> None:
    """Makes the result of a run say what is left to gain.

    Args:
        run: The run, which has ended.
        found: What is left.
        dtype: The precision f is computed in.
    """
    result, ending = run.result, run.result.ending
    result.remaining_gain = found.gain
    if result.success and found.is_flat and found.is_little:
        _end(result, TerminationReason.FLAT)
    elif result.success and found.is_blind and np.any(run.accepted.jac):
        _end(result, TerminationReason.BLIND, reason=result.message.removeprefix("Converged: ").partition(". ")[0])
    elif found.is_little and ending is TerminationReason.NEXT_STEP_IS_NAN:
        _end(result, TerminationReason.NOTHING_LEFT)
    elif not found.is_little and result.success:
        reason, _, what_next = result.message.removeprefix("Converged: ").partition(". ")
        if ending is TerminationReason.RESOLUTION:
            reason = f"{dtype} cannot show further progress"
            what_next = _IN_FLOAT64 if dtype != "float64" else _BY_ANOTHER_METHOD
        elif dtype != "float64":
            what_next = what_next.replace(
                " to continue", f' to continue, with precision="float64" where {dtype} hides it'
            )
        share = found.gain / max(abs(found.fun + found.gain), found.gain)
        _end(result, TerminationReason.PROGRESS_LEFT, reason=reason, share=f"{100 * share:.2g} %", what_next=what_next)


_IN_FLOAT64 = 'precision="float64" goes on'
_BY_ANOTHER_METHOD = "Another method goes on, such as SSBroyden or NewtonCG"


def _end(result, ending, **words):
    message = ending.message(**words)
    result.update(ending=ending, success=ending.success, status=ending.status, message=message)


class _CountingOracle:
    """Answers `remaining_gain`, and counts: evaluations as products, unless differences stand for these."""

    def __init__(self, objective, has_products):
        self._objective = objective
        self._has_products = has_products
        self.nfev = self.nhev = 0

    def __call__(self, request):
        if isinstance(request, HessianProduct):
            return self.product(request.x, request.p)
        return self.gradient(request.x) if isinstance(request, EvaluateWithGradient) else self.value(request.x)

    def value(self, x):
        self._count()
        return self._objective.evaluate(x, gradient=False).fun

    def gradient(self, x):
        self._count()
        evaluation = self._objective.evaluate(x)
        return evaluation.fun, evaluation.jac

    def product(self, x, p):
        """The exact one; where an operation has no second derivative, the difference quotient of gradients."""
        if self._has_products:
            self._count()
            try:
                return self._objective.hvps(x, p)
            except _REFUSALS:
                self._has_products = False
        if not p.any():
            return np.zeros_like(p)
        h = 1e-5 * max(1.0, np.abs(x).max()) / np.abs(p).max()
        return (self.gradient(x + h * p)[1] - self.gradient(x - h * p)[1]) / (2 * h)

    def _count(self):
        if self._has_products:
            self.nhev += 1
        else:
            self.nfev += 1
