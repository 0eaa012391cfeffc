"""What is said at the end of a run, in words that a person can act on, for scipy's own words and for our runs."""

CONVERGED = "Converged: {}. A smaller {} goes further"
LIMIT = "Stopped: {} is reached. A larger value goes further"
_AS_LOW_AS_SEEN = 'Either the loss is as low as its rounding errors let it be seen (precision="float64" sees more), or '
NO_BETTER_POINT = (
    f"Stopped: the line search found no better point. {_AS_LOW_AS_SEEN}its gradient is wrong or not continuous"
)
SHORT_STEPS = (
    "Stopped: the steps have become shorter than the tolerance, but the gradient's norm is {:.3g}. A smaller tol may "
    "go further. Where the second derivatives are zero, as those of mae, take a method without them, such as L-BFGS-B"
)
_INFEASIBLE = "Stopped: the constraints do not hold. Check that they can all hold"

# How scipy words an end that rests on the length of a step, by method.
_STEP_ENDS = {
    "newton-cg": "Optimization terminated successfully",
    "bfgs": "Optimization terminated successfully",
    "tnc": "Converged (|x_n",
    "trust-constr": "`xtol` termination condition",
}

# By the beginning of scipy's own words.
_ADVICE = {
    "CONVERGENCE: RELATIVE REDUCTION": CONVERGED.format(
        "the last iteration lowered the loss by less than `ftol`", "options={'ftol': ...}"
    ),
    "CONVERGENCE: NORM OF PROJECTED GRADIENT": CONVERGED.format(
        "no component of the gradient is larger than `gtol`", "options={'gtol': ...}"
    ),
    "Local minimum reached": CONVERGED.format("the gradient is smaller than `gtol`", "options={'gtol': ...}"),
    "Optimization terminated successfully": CONVERGED.format("within the tolerances of the method", "tol"),
    "`gtol` termination condition": CONVERGED.format("the gradient is smaller than `gtol`", "tol"),
    "`xtol` termination condition": CONVERGED.format("the trust region is smaller than `xtol`", "tol"),
    "Converged (": CONVERGED.format("the last iteration changed less than the tolerances", "tol"),
    "Return from COBYLA because the trust region radius": CONVERGED.format("the trust region is at `tol`", "tol"),
    "The lower bound for the trust-region radius": CONVERGED.format("the trust region is at its smallest", "tol"),
    "ABNORMAL": NO_BETTER_POINT,
    "Desired error": NO_BETTER_POINT,
    "Warning: Desired error": NO_BETTER_POINT,
    "Linear search failed": NO_BETTER_POINT,
    "Positive directional derivative": NO_BETTER_POINT,
    "A bad approximation": (
        f"Stopped: the quadratic model predicts no improvement. {_AS_LOW_AS_SEEN}its derivatives are wrong or not "
        "continuous"
    ),
    "A linalg error": (
        "Stopped: the Hessian is not positive definite, which this method needs. "
        "trust-ncg, trust-krylov and trust-exact do without"
    ),
    "Inequality constraints incompatible": _INFEASIBLE,
    "Constraint violation exceeds": _INFEASIBLE,
    "Did not converge to a solution satisfying": _INFEASIBLE,
    "STOP: TOTAL NO. OF ITERATIONS": LIMIT.format("options={'maxiter': ...}"),
    "STOP: TOTAL NO. OF F,G EVALUATIONS": LIMIT.format("options={'maxfun': ...}"),
    "Iteration limit reached": LIMIT.format("options={'maxiter': ...}"),
    "Max. number of function evaluations": LIMIT.format("options={'maxfun': ...}"),
    "Maximum number of": LIMIT.format("a limit given in `options`"),
    "Warning: Maximum number of": LIMIT.format("a limit given in `options`"),
    "Return from COBYLA because the objective function has been evaluated": LIMIT.format("options={'maxiter': ...}"),
    "The maximum number of": LIMIT.format("a limit given in `options`"),
}


def rests_on_step(method: str, message: str) -> bool:
    """Whether scipy may have ended only because a step was short, which says nothing about the gradient."""
    beginning = _STEP_ENDS.get(method.lower())
    return beginning is not None and message.startswith(beginning)


def explain(message: str) -> str:
    """What happened and what to do next, with scipy's words in brackets.

    >>> explain("Desired error not necessarily achieved due to precision loss.").partition(".")[0]
    'Stopped: the line search found no better point'
    """
    message = message.strip().rstrip(":")
    for beginning, advice in _ADVICE.items():
        if message.startswith(beginning):
            return f"{advice} [scipy: {message}]"
    return message
