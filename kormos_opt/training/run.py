"""What every run of a solver has in common: where it stands, how it is advanced, what it ends with."""

from scipy.optimize import OptimizeResult

from kormos_opt.evaluation import Evaluation
from kormos_opt.solvers.base import Evaluate, Value


class Run:
    """A run of a solver, which a fit advances by iterations.

    Attributes:
        accepted: The evaluation at the last accepted iterate, at first the starting point. `None` before the first.
        position: Where the last request was answered: the model's weights are there.
        nit: Accepted iterates.
        nfev: Evaluations of f, with its gradient where the solver asks for it.
        nhev: Products of the Hessian with a vector.
        gradient_norm: The 2-norm of the gradient at the last accepted iterate, `None` without derivatives.
        result: The solver's `OptimizeResult` once it has ended, else `None`.
    """

    def __init__(self):
        self.accepted = self.position = self.gradient_norm = self.result = None
        self.nit = self.nfev = self.nhev = 0

    def iterate(self) -> bool:
        """Runs to the next iterate, and to the end of a solver that has converged there.

        Returns:
            Whether there was a next iterate; if not, the solver has ended without one.

        Raises:
            ValueError: If f or its gradient is not finite at the starting point.
        """
        raise NotImplementedError

    def awaited(self) -> Evaluate | Value | None:
        """The evaluation that the next iteration begins with, if it is known."""
        return None

    def close(self) -> None:
        """Ends the solver and frees what it holds."""

    def takes_anew(self, evaluation: Evaluation) -> bool:
        """Goes on from the last accepted iterate after the objective has changed.

        Args:
            evaluation: The new one there.

        Returns:
            Whether it could. If not, a new run has to start there.
        """
        return False

    def survives_interrupt(self) -> bool:
        """Whether the run can go on from its last accepted iterate after Ctrl-C."""
        return False

    def interrupted(self, what_next: str, how: str = "Not converged") -> OptimizeResult:
        """A result for a run that did not end by itself."""
        where = (
            f"the loss is {self.accepted.fun:.3g}"
            if self.gradient_norm is None
            else f"the gradient's norm is {self.gradient_norm:.3g}"
        )
        return self.outcome(False, 1, f"{how} after {self.nit} iterations: {where}; {what_next}.")

    def outcome(self, success: bool, status: int, message: str) -> OptimizeResult:
        """A result at the last accepted iterate."""
        return OptimizeResult(
            x=self.accepted.x,
            fun=self.accepted.fun,
            jac=self.accepted.jac,
            nit=self.nit,
            nfev=self.nfev,
            njev=0 if self.accepted.jac is None else self.nfev,
            nhev=self.nhev,
            success=success,
            status=status,
            message=message,
        )
