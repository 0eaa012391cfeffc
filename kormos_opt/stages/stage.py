"""What a fit does, stage by stage: which method, for how long, with what options, after what preparation.

Most fits have one stage. In a chain the result of one stage starts the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import keras
import numpy as np

from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers import scipy_methods, scipy_minimize, scipy_options
from kormos_opt.solvers.base import Solver
from kormos_opt.solvers.fixed_weights import without_fixed
from kormos_opt.stages import bounds, constraints, matrices
from kormos_opt.training import graph_run


class Stage(NamedTuple):
    """One method of scipy with its settings.

    Attributes:
        method: The method.
        epochs: After how many epochs it ends, or `None`: when it has converged.
        pretrain_fn: Called with the model before it starts, or `None`.
        options: As scipy takes them; the method's own limits are switched off where they say nothing.
        tol: As scipy takes it.
        bounds: As `ScipyBatchOptimizer` takes them.
        constraints: A list of them.
        engine: `"scipy"`, or `"tfp"` for L-BFGS in the graph.
        memory: Pairs of changes that L-BFGS keeps.
    """

    method: scipy_methods.Method
    epochs: int | None
    pretrain_fn: Callable[[keras.Model], Any] | None
    options: dict
    tol: float | None
    bounds: Any
    constraints: list
    engine: str = "scipy"
    memory: int = 10

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name

    @property
    def ends_at_resolution(self) -> bool:
        """Whether to end where the precision of the loss hides all progress; tolerances that were given decide else."""
        given = self.tol is not None or self.options.keys() & set(self.method.tolerances)
        return self.method.ends_at_resolution and not given and not self.constraints

    def check(self, parameters: FlatParameters) -> None:
        """Raises what speaks against this stage, before any work."""
        limits = bounds.resolve(self.bounds, parameters, self.method)
        free = parameters.size if limits is None else np.count_nonzero(limits.lb < limits.ub)
        matrices.check_matrices(self.method, free, bool(self.constraints))
        if self.engine == "tfp" and limits is not None:
            raise ValueError(
                f"Expected no bounds for engine='tfp'. Received: bounds={self.bounds!r}. Use engine='scipy'."
            )
        constraints.resolve(self.constraints, parameters, self.method)

    def solver(self, parameters: FlatParameters, x0: np.ndarray) -> Solver:
        """A new solver of the variables' problem from `x0`, moved between the bounds."""
        limits = bounds.resolve(self.bounds, parameters, self.method)

        def make(x0, limits, constraints, options):
            return scipy_minimize.minimize(x0, self.method.name, self.tol, options, limits, constraints)

        return without_fixed(
            make,
            x0 if limits is None else np.clip(x0, limits.lb, limits.ub),
            limits,
            constraints.resolve(self.constraints, parameters, self.method),
            self.method.unlimited | self.options,
            derivatives=self.method.derivatives != "none",
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """The settings of a fit, each for all stages or a list of one for each; `memory` and `engine` are those of L-BFGS.

    Raises:
        ValueError: For a method or an option that scipy does not know, or for lists of different lengths.
    """

    method: str | Sequence[str] | None = None
    epochs: int | Sequence[int] | None = None
    pretrain_fn: Callable | Sequence[Callable] | None = None
    options: dict | Sequence[dict] | None = None
    bounds: Any = None
    constraints: Any = None
    tol: float | Sequence[float] | None = None
    memory: int = 10
    engine: str = "scipy"
    stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self):
        lists = ("method", "epochs", "pretrain_fn", "options", "tol")
        given = {name: getattr(self, name) for name in lists if _is_list(getattr(self, name))}
        lengths = {name: len(value) for name, value in given.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            received = ", ".join(f"len({name})={length}" for name, length in lengths.items())
            raise ValueError(f"Expected lists of one length, an item for each stage. Received: {received}.")
        count = next(iter(lengths.values()), 1)
        object.__setattr__(self, "stages", tuple(self._stage(i, given) for i in range(count)))

    def settings(self) -> dict:
        """The arguments."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def _stage(self, i, given):
        def setting(name):
            return given[name][i] if name in given else getattr(self, name)

        method = scipy_methods.method(setting("method") or "L-BFGS-B")
        epochs, options = setting("epochs"), dict(setting("options") or {})
        if epochs is not None and not (is_positive_integer(epochs)):
            raise ValueError(f"Expected a positive integer, a list of them, or None. Received: epochs={self.epochs!r}.")
        engine = self.engine if method.name == "L-BFGS-B" else "scipy"
        if engine == "tfp":
            tol = {} if setting("tol") is None else {"ftol": setting("tol"), "gtol": setting("tol")}
            options = _known_to_tfp(tol | options)
        else:
            if method.name == "L-BFGS-B":
                options = {"maxcor": self.memory} | options
            scipy_options.check_options(method.name, setting("tol"), options)
        listed = constraints.as_list(self.constraints)
        return Stage(
            method,
            epochs,
            setting("pretrain_fn"),
            options,
            setting("tol"),
            self.bounds,
            listed,
            engine,
            self.memory,
        )


def _known_to_tfp(options):
    unknown = options.keys() - graph_run.OPTIONS.keys()
    numbers = all(isinstance(value, (int, float, np.number)) for value in options.values())
    if unknown or not numbers:
        known = ", ".join(graph_run.OPTIONS)
        raise ValueError(f'Expected numbers for {known} with engine="tfp". Received: options={options!r}.')
    return options


def is_positive_integer(value) -> bool:
    """Whether `value` is an integer above 0, and no truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


def _is_list(value):
    return isinstance(value, Sequence) and not isinstance(value, str)
