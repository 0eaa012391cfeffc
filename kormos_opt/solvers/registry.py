"""The methods by name, one row each: what a method needs and takes, and how it starts. The one door for new solvers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kormos_opt.solvers.base import ArraySpec, Solver

DEFAULT_METHOD = "L-BFGS-B"
NO_LIMIT = 2**31 - 1
_NO_OPTIONS = {"x0", "tol", "bounds", "constraints", "state"}  # arguments of `start` that are no options
METHODS: dict[str, Method] = {}
"""All rows, by their names in lower case."""


@dataclass(frozen=True)
class Method:
    """One method.

    A solver in numpy has `start`. A solver in the graph has `variables` and `step`. A solver in numpy that has
    `variables` too can be saved in the middle of a run.

    Args:
        name: What `ScipyBatchOptimizer(method=name)` and `compile(optimizer=name)` call it, in any case.
        derivatives: What it asks for beside f: `"none"`, `"gradient"`, `"hvp"` (Hessian-vector products),
            `"hessian"` (products with all unit vectors) or `"jacobian"` (residuals and their Jacobian in place of f).
        start: Called as `start(x0, **options)`. Returns a generator of requests, see `solvers/base.py`. `bounds=` and
            `constraints=` are handed over where the method takes them; `state=`, arrays to work on by the names of
            `variables`, where there are `variables`. They are zeros for a new run, and what they were at a request of
            an earlier run for one that goes on from there.
        variables: Called as `variables(size, options)`. Returns an `ArraySpec` of all that the solver remembers, by
            name. In the graph, `position`, `objective_value` and `objective_gradient` must be among them.
        step: Called as `step(value_and_gradient, state, nit, options)` while a graph is traced. `state` holds tensors
            by the names of `variables`. Returns the next state, and whether no better point was found.
        on_objective_change: For an f that changes in the middle of a run. In the graph: called with the state, as
            tensors, in which f and its gradient are new already. Returns what else has to change. In numpy: called with
            the arrays of the run so far. Returns those that the next run begins with, where all others are zeros.
            Defaults to `None`: nothing changes in the graph, and a solver in numpy starts afresh.
        check_installed: Raises `ImportError` if the solver needs a package that is missing. Defaults to `None`.
        options: What `options=` may hold, with the defaults. Defaults to `None`: the other arguments of `start`. A
            solver in the graph names them all.
        limits: The options that limit its length. They are switched off, since `epochs` limits it. Defaults to none.
        tolerances: The options that say when it has converged. Defaults to none.
        set_by_tol: Those of them that `tol=` of an optimizer sets, where `options=` does not. Defaults to `None`: all,
            or the argument `tol` of `start` if it has one and there are no tolerances.
        bounds: Whether it takes bounds. Defaults to `False`.
        constraints: Whether it takes constraints. Defaults to `False`.
        matrices: How many n x n matrices of float64 it holds at its peak. Defaults to `0`.
        constrained_matrices: How many it holds with nonlinear constraints and bounds. Defaults to `0`.
        instead: The method to take where those do not fit. Defaults to `"L-BFGS-B"`.
        takes_xla: Whether XLA may compile `step`: no shape in it depends on a value. Defaults to `True`.
        choices: Of a name that stands for two methods, a method in the graph and one in numpy, which takes its place
            where there are bounds, or where the data is streamed or cannot be joined. Defaults to `()`.
        stops_at_precision: Whether the first trial point of an iteration is a step that the method hopes to take. The
            end at the resolution of f can be told from such a step. Defaults to `True`.
        reference: Where to read about it. Defaults to none.

    Raises:
        ValueError: Without `start`, or `variables`, `step` and `options`, or `choices` and `options`.
    """

    name: str
    derivatives: Literal["none", "gradient", "hvp", "hessian", "jacobian"] = "gradient"
    start: Callable[..., Solver] | None = field(default=None, compare=False)
    variables: Callable[[int, Mapping], Mapping[str, ArraySpec]] | None = field(default=None, compare=False)
    step: Callable | None = field(default=None, compare=False)
    on_objective_change: Callable[[Mapping], Mapping] | None = field(default=None, compare=False)
    check_installed: Callable[[], None] | None = field(default=None, compare=False)
    options: Mapping[str, Any] = field(default=None, compare=False)  # type: ignore[arg-type]  # set below
    limits: tuple[str, ...] = ()
    tolerances: tuple[str, ...] = ()
    set_by_tol: tuple[str, ...] = None  # type: ignore[assignment]
    bounds: bool = False
    constraints: bool = False
    matrices: float = 0
    constrained_matrices: float = 0
    instead: str = "L-BFGS-B"
    takes_xla: bool = True
    choices: tuple[str, str] | tuple[()] = ()
    stops_at_precision: bool = True
    reference: str = ""

    def __post_init__(self):
        in_numpy = self.start is not None and self.step is None
        in_graph = self.start is None and self.step is not None and self.variables is not None
        if not (in_numpy or in_graph or self.choices):
            raise ValueError(
                "Expected `start` for a solver in numpy, or `variables` and `step` for one in the graph. "
                f"Received: start={self.start!r}, variables={self.variables!r}, step={self.step!r}."
            )
        if self.options is None and not in_numpy:
            raise ValueError(
                "Expected the options of a solver in the graph: those of graph_solvers.variables.OPTIONS and its own. "
                f"Received: options=None for {self.name}."
            )
        if self.set_by_tol is None:
            takes_tol = in_numpy and "tol" in inspect.signature(self.start).parameters
            object.__setattr__(self, "set_by_tol", self.tolerances or (("tol",) if takes_tol else ()))
        if self.options is None:
            arguments = inspect.signature(self.start).parameters.values()
            known = {each.name: each.default for each in arguments if each.name not in _NO_OPTIONS}
            object.__setattr__(self, "options", known)

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


def register(method: Method) -> Method:
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
    >>> from kormos_opt.solvers import EvaluateValue, Iterate, Method, register
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
    >>> sorted(register(Method("random-search", "none", random_search)).options)
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
    function = method.start or method.step or _origin
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
