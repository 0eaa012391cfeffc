"""The methods by name, one row each: what a method needs and takes, and how it starts. New solvers enter here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

from kormos_opt.solvers.base import ArraySpec, Solver

DEFAULT_METHOD = "L-BFGS-B"
NO_LIMIT = 2**31 - 1
_NO_OPTIONS = {"x0", "tol", "bounds", "constraints", "state"}  # arguments of `start` that are no options
MethodT = TypeVar("MethodT", bound="Method")
METHODS: dict[str, Method] = {}
"""All rows, by their names in lower case."""


@dataclass(frozen=True)
class Method:
    """What the two kinds of methods have in common. A row of the registry is a `NumpyMethod` or a `GraphMethod`.

    Args:
        name: What `ScipyBatchOptimizer(method=name)` and `compile(optimizer=name)` call it, in any case.
        derivatives: What it asks for beside f: `"none"`, `"gradient"`, `"hvp"` (Hessian-vector products),
            `"hessian"` (products with all unit vectors) or `"jacobian"` (residuals and their Jacobian in place of f).
        options: What `options=` may hold, with the defaults.
        limits: The options that limit its length. They are switched off, since `epochs` limits it. Defaults to none.
        tolerances: The options that say when it has converged. Defaults to none.
        set_by_tol: The tolerances that `tol=` of an optimizer sets, where `options=` does not. Defaults to `None`: all.
        variables: Called as `variables(size, options)`. Returns an `ArraySpec` of all that the solver remembers, by
            name. Defaults to `None`: a run cannot be saved.
        on_objective_change: For an f that changes in the middle of a run. Defaults to `None`.
        check_installed: Raises `ImportError` if the solver needs a package that is missing. Defaults to `None`.
        bounds: Whether it takes bounds. Defaults to `False`.
        constraints: Whether it takes constraints. Defaults to `False`.
        matrices: How many n x n matrices of float64 it holds at its peak. Defaults to `0`.
        constrained_matrices: How many it holds with nonlinear constraints and bounds. Defaults to `0`.
        instead: The method to take where those do not fit. Defaults to `"L-BFGS-B"`.
        stops_at_precision: Whether the first trial point of an iteration is a step that the method hopes to take. The
            end at the resolution of f can be told from such a step. Defaults to `True`.
        reference: Where to read about it. Defaults to none.
    """

    name: str
    derivatives: Literal["none", "gradient", "hvp", "hessian", "jacobian"]
    _: KW_ONLY
    options: Mapping[str, Any] = field(default=None, compare=False)  # type: ignore[arg-type]  # set below
    limits: tuple[str, ...] = ()
    tolerances: tuple[str, ...] = ()
    set_by_tol: tuple[str, ...] = None  # type: ignore[assignment]
    variables: Callable[[int, Mapping], Mapping[str, ArraySpec]] | None = field(default=None, compare=False)
    on_objective_change: Callable[[Mapping], Mapping] | None = field(default=None, compare=False)
    check_installed: Callable[[], None] | None = field(default=None, compare=False)
    bounds: bool = False
    constraints: bool = False
    matrices: float = 0
    constrained_matrices: float = 0
    instead: str = "L-BFGS-B"
    stops_at_precision: bool = True
    reference: str = ""

    def __post_init__(self):
        if self.set_by_tol is None:
            self._set("set_by_tol", self.tolerances)

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    @property
    def unlimited(self) -> dict:
        """Options that switch the method's own limits off."""
        return dict.fromkeys(self.limits, NO_LIMIT)

    def settings(self, tol: float | None, options: Mapping[str, Any]) -> dict:
        """All that is not left to the method: the more special wins, `options` over `tol`, as in scipy.

        Args:
            tol: What the user gave, or `None`.
            options: The options that the user gave, or none.
        """
        by_tol = {} if tol is None else dict.fromkeys(self.set_by_tol, tol)
        return {**self.unlimited, **by_tol, **options}


@dataclass(frozen=True)
class NumpyMethod(Method):
    """A method whose solver is a generator in numpy. One with `variables` can be saved in the middle of a run.

    Args:
        name: As in `Method`, like all arguments that are not named here.
        derivatives: As in `Method`.
        start: Called as `start(x0, **options)`. Returns a generator of requests, see `solvers/base.py`. `bounds=` and
            `constraints=` are handed over where the method takes them; `state=`, arrays to work on by the names of
            `variables`, where there are `variables`. They are zeros for a new run, and what they were at a request of
            an earlier run for one that goes on from there.
        options: Defaults to `None`: the other arguments of `start`.
        set_by_tol: Defaults to `None`: all tolerances, or the argument `tol` of `start` if it has one and there are
            no tolerances.
        on_objective_change: Called with the arrays of the run so far. Returns those that the next run begins with,
            where all others are zeros. Defaults to `None`: the solver starts afresh.
    """

    start: Callable[..., Solver] = field(compare=False)

    def __post_init__(self):
        arguments = inspect.signature(self.start).parameters
        if self.options is None:
            self._set("options", {name: arguments[name].default for name in arguments if name not in _NO_OPTIONS})
        if self.set_by_tol is None and not self.tolerances and "tol" in arguments:
            self._set("set_by_tol", ("tol",))
        super().__post_init__()


@dataclass(frozen=True)
class GraphMethod(Method):
    """A method whose iteration is traced into a TensorFlow graph.

    Args:
        name: As in `Method`, like all arguments that are not named here.
        variables: As in `Method`. It must name `position`, `objective_value` and `objective_gradient`.
        step: Called as `step(value_and_gradient, state, nit, options)` while a graph is traced. `state` holds tensors
            by the names of `variables`. Returns the next state, and whether no better point was found.
        options: All of them: those of `graph_solvers.variables.OPTIONS` and its own.
        takes_xla: Whether XLA may compile `step`: no shape in it depends on a value. Defaults to `True`.
        on_objective_change: Called with the state, as tensors, in which f and its gradient are new already. Returns
            what else has to change. Defaults to `None`: nothing.
    """

    derivatives: Literal["gradient"] = "gradient"  # type: ignore[assignment]
    _: KW_ONLY
    variables: Callable[[int, Mapping], Mapping[str, ArraySpec]] = field(compare=False)
    options: Mapping[str, Any] = field(compare=False)
    step: Callable = field(compare=False)
    takes_xla: bool = True


@dataclass(frozen=True)
class AutoMethod(Method):
    """A name that stands for two methods.

    Args:
        name: As in `Method`, like all arguments that are not named here.
        in_graph: The name of the one that is taken where it can do the job.
        in_numpy: The name of the one that is taken where there are bounds, or the data is streamed or cannot be joined.
    """

    derivatives: Literal["gradient"] = "gradient"  # type: ignore[assignment]
    _: KW_ONLY
    in_graph: str
    in_numpy: str


def register(method: MethodT) -> MethodT:
    """Makes a method known by its name, to `ScipyBatchOptimizer`, to chains and to `compile(optimizer=name)`.

    A package of your own calls it once, where it is imported. A process that loads a saved model has to import that
    package first.

    Args:
        method: The row.

    Returns:
        `method`.

    Raises:
        ValueError: For a name that another solver has.

    Example:

    >>> import numpy as np
    >>> from scipy.optimize import OptimizeResult
    >>> from kormos_opt.solvers import EvaluateValue, Iterate, NumpyMethod, register
    >>> def random_search(x0, spread=1.0, seed=0):
    ...     rng, best = np.random.default_rng(seed), (yield EvaluateValue(x0))
    ...     while spread > 1e-6:
    ...         x = x0 + spread * rng.normal(size=x0.size)
    ...         value = yield EvaluateValue(x)
    ...         spread *= 1.1 if value < best else 0.9
    ...         if value < best:
    ...             x0, best = x, value
    ...             yield Iterate(x0)
    ...     return OptimizeResult(x=x0, success=True, message="Converged: the search has become narrow")
    >>> sorted(register(NumpyMethod("random-search", "none", random_search)).options)
    ['seed', 'spread']
    """
    known = METHODS.get(method.name.lower())
    if known is not None and _origin(known) != _origin(method):
        raise ValueError(
            f"Expected a name that no other solver has. Received: name={method.name!r}, which is known already. "
            "Give the method another name."
        )
    METHODS[method.name.lower()] = method
    return method


def _origin(method):
    """Where a solver was written: a notebook may run the same cell again."""
    function = getattr(method, "start", getattr(method, "step", _origin))
    function = getattr(function, "func", function)  # of a partial
    return method.name, function.__module__, function.__qualname__


def find(name: str) -> Method:
    """The method of that name, in any case.

    Raises:
        ValueError: For a name that nobody has registered.
    """
    try:
        return METHODS[name.lower()]
    except (KeyError, AttributeError):
        known = ", ".join(method.name for method in METHODS.values())
        raise ValueError(f"Expected one of {known}. Received: method={name!r}.") from None


def names_of(which: Callable[[Method], bool]) -> str:
    """The names of the methods for which `which` is true, for a message."""
    return ", ".join(method.name for method in METHODS.values() if which(method))
