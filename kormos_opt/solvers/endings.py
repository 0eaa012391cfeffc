"""Names of the version before, for programs that import them; they go in version 0.3 (see docs/decisions.md)."""

from kormos_opt.solvers.termination import TerminationReason as Ending  # noqa: F401
