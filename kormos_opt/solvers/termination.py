"""How a run may end: in words that a person can act on, for scipy's own words and for all our runs."""

from enum import Enum

from scipy.optimize import OptimizeResult

_CONVERGED = "Converged: {}. Decrease {{option}} to continue"
SEES_MORE = ' (precision="float64" sees more)'
_AS_LOW_AS_SEEN = f"Either the loss is as low as its rounding errors let it be seen{SEES_MORE}, or "


class TerminationReason(Enum):
    """Why a run has ended. The value is what is said, whether it is a success, and the status of the result.

    Example:

    >>> TerminationReason.LIMIT.message(option="options={'maxiter': ...}")
    "Stopped: options={'maxiter': ...} is reached. Increase it to continue"
    >>> TerminationReason.LIMIT.success, TerminationReason.LIMIT.status
    (False, 1)
    """

    SMALL_GRADIENT = _CONVERGED.format("no component of the gradient is larger than `gtol`"), True, 0
    SMALL_GRADIENT_NORM = _CONVERGED.format("the gradient is smaller than `gtol`"), True, 0
    SMALL_REDUCTION = _CONVERGED.format("the last iteration lowered the loss by less than `ftol`"), True, 0
    SHORT_STEP = _CONVERGED.format("the last step was shorter than `xtol`"), True, 0
    SMALL_CHANGE = _CONVERGED.format("the last iteration changed less than the tolerances"), True, 0
    WITHIN_TOLERANCES = _CONVERGED.format("within the tolerances of the method"), True, 0
    SMALL_TRUST_REGION = _CONVERGED.format("the trust region is smaller than `xtol`"), True, 0
    TRUST_REGION_AT_TOLERANCE = _CONVERGED.format("the trust region is at `tol`"), True, 0
    SMALLEST_TRUST_REGION = _CONVERGED.format("the trust region is at its smallest"), True, 0
    RESOLUTION = "Converged: the next step would change the loss by less than {dtype} can show{further}", True, 0
    ZERO_LOSS = "Converged: the loss is zero, as far as float64 can tell it from that of the first weights", True, 0
    ALL_FIXED = "Converged: the bounds leave every weight exactly one value", True, 0
    POLISHED = "Converged: truncated Newton steps ({steps}) have left little to gain", True, 0
    NOTHING_LEFT = "Converged: the arithmetic of the method is at its limits, and nothing is left to gain", True, 0
    PROGRESS_LEFT = "Stopped: {reason}, though about {share} of the loss can be gained. {what_next}", False, 2
    BLIND = (
        "Stopped: {reason}. The second derivatives are zero, as those of mae, so nobody knows what is left to gain. "
        "A loss without kinks, such as Huber with a small delta, can be fitted to the end",
        False,
        2,
    )
    FLAT = (
        "Stopped: the gradient is next to zero where the loss is no lower than that of a constant. Saturated units are "
        "flat: begin with smaller weights, or standardize the inputs (keras.layers.Normalization)",
        False,
        2,
    )
    LIMIT = "Stopped: {option} is reached. Increase it to continue", False, 1
    INTERRUPTED = "{how} after {nit} iterations: {where}; {what_next}.", False, 1
    NO_BETTER_POINT = (
        f"Stopped: the line search found no better point. {_AS_LOW_AS_SEEN}its gradient is wrong or not continuous",
        False,
        2,
    )
    NO_PREDICTED_IMPROVEMENT = (
        f"Stopped: the quadratic model predicts no improvement. {_AS_LOW_AS_SEEN}its derivatives are wrong or not "
        "continuous",
        False,
        2,
    )
    ONLY_SHORT_STEPS = (
        "Stopped: the steps have become shorter than the tolerance, but the gradient's norm is {norm:.3g}. A smaller "
        "tol may go further, or a start that is inside of all bounds. Where the second derivatives are zero, as those "
        "of mae, take a method without them, such as L-BFGS-B",
        False,
        2,
    )
    INDEFINITE_HESSIAN = (
        "Stopped: the Hessian is not positive definite, which this method needs. "
        "trust-ncg, trust-krylov and trust-exact do without",
        False,
        3,
    )
    INFEASIBLE = "Stopped: the constraints do not hold. Check that they can all hold", False, 4
    NEXT_STEP_IS_NAN = (
        "Stopped: the next step of the method is NaN or infinite, as its arithmetic is at its limits: the weights are "
        "the last iterate. Take another method to continue",
        False,
        3,
    )
    WALKED_INTO_NAN = (
        "Stopped: the method accepts a point where the loss is NaN or infinite; the weights are those before it. Keep "
        "the weights away from there with bounds=, or take a method that backs off, such as L-BFGS-B",
        False,
        3,
    )
    NOT_A_FUNCTION = (
        "Stopped: the loss at the same weights was {before:.6g} and is {now:.6g} now. A solver needs a loss that is a "
        "function of the weights: leave out random numbers and Python values that change",
        False,
        4,
    )

    @property
    def success(self) -> bool:
        """Whether the run has converged."""
        return self.value[1]

    @property
    def status(self) -> int:
        """The status of the result."""
        return self.value[2]

    def message(self, **words) -> str:
        """The sentence, with these words in its places."""
        return self.value[0].format(**words)

    def result(self, **fields) -> OptimizeResult:
        """A result with this ending, these fields, and `message` if it is among them."""
        fields.setdefault("message", self.value[0])
        return OptimizeResult(ending=self, success=self.success, status=self.status, **fields)


def words_of(dtype: str) -> dict[str, str]:
    """What `TerminationReason.RESOLUTION` says of an f that is computed in `dtype`."""
    return {"dtype": dtype, "further": "" if dtype == "float64" else '. precision="float64" goes on'}


_GTOL, _FTOL = "options={'gtol': ...}", "options={'ftol': ...}"
_MAXITER, _MAXFUN, _SOME_LIMIT = "options={'maxiter': ...}", "options={'maxfun': ...}", "a limit given in `options`"

# What the beginning of scipy's own words means, and which option continues.
_WORDS_OF_SCIPY = {
    "CONVERGENCE: RELATIVE REDUCTION": (TerminationReason.SMALL_REDUCTION, _FTOL),
    "CONVERGENCE: NORM OF PROJECTED GRADIENT": (TerminationReason.SMALL_GRADIENT, _GTOL),
    "Local minimum reached": (TerminationReason.SMALL_GRADIENT_NORM, _GTOL),
    "Optimization terminated successfully": (TerminationReason.WITHIN_TOLERANCES, "tol"),
    "`gtol` termination condition": (TerminationReason.SMALL_GRADIENT_NORM, "tol"),
    "`xtol` termination condition": (TerminationReason.SMALL_TRUST_REGION, "tol"),
    "Converged (": (TerminationReason.SMALL_CHANGE, "tol"),
    "Return from COBYLA because the trust region radius": (TerminationReason.TRUST_REGION_AT_TOLERANCE, "tol"),
    "The lower bound for the trust-region radius": (TerminationReason.SMALLEST_TRUST_REGION, "tol"),
    "ABNORMAL": (TerminationReason.NO_BETTER_POINT, None),
    "Desired error": (TerminationReason.NO_BETTER_POINT, None),
    "Warning: Desired error": (TerminationReason.NO_BETTER_POINT, None),
    "Linear search failed": (TerminationReason.NO_BETTER_POINT, None),
    "Positive directional derivative": (TerminationReason.NO_BETTER_POINT, None),
    "A bad approximation": (TerminationReason.NO_PREDICTED_IMPROVEMENT, None),
    "A linalg error": (TerminationReason.INDEFINITE_HESSIAN, None),
    "Warning: CG iterations didn't converge": (TerminationReason.INDEFINITE_HESSIAN, None),
    "Inequality constraints incompatible": (TerminationReason.INFEASIBLE, None),
    "Constraint violation exceeds": (TerminationReason.INFEASIBLE, None),
    "Did not converge to a solution satisfying": (TerminationReason.INFEASIBLE, None),
    "STOP: TOTAL NO. OF ITERATIONS": (TerminationReason.LIMIT, _MAXITER),
    "STOP: TOTAL NO. OF F,G EVALUATIONS": (TerminationReason.LIMIT, _MAXFUN),
    "Iteration limit reached": (TerminationReason.LIMIT, _MAXITER),
    "Max. number of function evaluations": (TerminationReason.LIMIT, _MAXFUN),
    "Maximum number of": (TerminationReason.LIMIT, _SOME_LIMIT),
    "Warning: Maximum number of": (TerminationReason.LIMIT, _SOME_LIMIT),
    "Return from COBYLA because the objective function has been evaluated": (TerminationReason.LIMIT, _MAXITER),
    "The maximum number of": (TerminationReason.LIMIT, _SOME_LIMIT),
}


# Methods that say "Optimization terminated successfully" where the gradient is small.
_GRADIENT_ENDS = {"bfgs", "cg", "dogleg", "trust-ncg", "trust-exact", "trust-krylov"}


def rests_on_gradient(ending: TerminationReason, method: str) -> bool:
    """Whether a run of a method has ended because the gradient is small."""
    if ending in (TerminationReason.SMALL_GRADIENT, TerminationReason.SMALL_GRADIENT_NORM):
        return True
    return ending is TerminationReason.WITHIN_TOLERANCES and method.lower() in _GRADIENT_ENDS


def explain(message: str) -> tuple[TerminationReason | None, str]:
    """What scipy's words mean: the ending, `None` if they are unknown, and its message with scipy's words in brackets.

    >>> ending, message = explain("Desired error not necessarily achieved due to precision loss.")
    >>> ending.name, message.partition(".")[0]
    ('NO_BETTER_POINT', 'Stopped: the line search found no better point')
    """
    message = message.strip().rstrip(":")
    for beginning, (ending, option) in _WORDS_OF_SCIPY.items():
        if message.startswith(beginning):
            return ending, f"{ending.message(option=option)} [scipy: {message}]"
    return None, message
