"""The settings of a fit, each for all stages or a list with one for each, checked when they are given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import keras
from scipy.optimize import Bounds
from typing_extensions import Unpack

from kormos_opt.solvers import registry
from kormos_opt.solvers.registry import AutoMethod, NumpyMethod
from kormos_opt.stages import constraints
from kormos_opt.stages.options import check_options, is_positive_integer
from kormos_opt.stages.stage import AutoStage, GraphStage, SolverStage, Stage

BoundsLike: TypeAlias = Bounds | Sequence[tuple[Any, Any]] | Mapping[str, tuple[Any, Any]] | None
_PretrainFn = Callable[[keras.Model], Any]


class StageArguments(TypedDict, total=False):
    """The arguments of a stage, as `ScipyBatchOptimizer` explains them. Checks and defaults of all of them are here."""

    method: str | Sequence[str] | None
    epochs: int | Sequence[int] | None
    pretrain_fn: _PretrainFn | Sequence[_PretrainFn | None] | None
    options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    bounds: BoundsLike
    constraints: Any
    tol: float | Sequence[float | None] | None


NAMES = tuple(StageArguments.__annotations__)
_LISTS = ("method", "epochs", "pretrain_fn", "options", "tol")  # a list of them has an item for each stage


class Plan:
    """The stages that these arguments ask for.

    Args:
        preset: Options by the name of a method, which those of the user overrule. Defaults to `None`.
        **arguments: The arguments of a stage.

    Attributes:
        arguments: All of them, `None` where they were not given.
        stages: The stages.

    Raises:
        ValueError: For a method or an option that nobody knows, or for lists of different lengths.
        ImportError: For a method whose package is not installed.
    """

    def __init__(self, preset: Mapping[str, Mapping] | None = None, **arguments: Unpack[StageArguments]):
        self.arguments: dict[str, Any] = {**dict.fromkeys(NAMES), **arguments}
        self._preset = preset or {}
        given = {name: self.arguments[name] for name in _LISTS if _is_list(self.arguments[name])}
        lengths = {name: len(value) for name, value in given.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            received = ", ".join(f"len({name})={length}" for name, length in lengths.items())
            raise ValueError(f"Expected lists of one length, an item for each stage. Received: {received}.")
        count = next(iter(lengths.values()), 1)
        self.stages = tuple(self._stage({name: value[i] for name, value in given.items()}) for i in range(count))

    def changed(self, **arguments: Unpack[StageArguments]) -> "Plan":
        """A plan with other values for the arguments that are not `None`; this one if there are none."""
        given = {name: value for name, value in arguments.items() if value is not None}
        return Plan(self._preset, **{**self.arguments, **given}) if given else self

    def _stage(self, items) -> Stage:
        settings = {**self.arguments, **items}
        method = registry.find(settings["method"] or registry.DEFAULT_METHOD)
        if method.check_installed is not None:
            method.check_installed()
        epochs = settings["epochs"]
        if epochs is not None and not is_positive_integer(epochs):
            received = self.arguments["epochs"]
            raise ValueError(f"Expected a positive integer, a list of them, or None. Received: epochs={received!r}.")
        given = settings["options"] or {}
        check_options(method, settings["tol"], given)
        settings |= {
            "method": method,
            "options": {**self._preset.get(method.name, {}), **given},
            "constraints": constraints.as_list(settings["constraints"]),
        }
        if not isinstance(method, AutoMethod):
            return SolverStage(**settings) if isinstance(method, NumpyMethod) else GraphStage(**settings)
        in_graph, in_numpy = (
            self._with(registry.find(name), settings, given) for name in (method.in_graph, method.in_numpy)
        )
        return AutoStage(**in_graph, fallback=SolverStage(**in_numpy))

    def _with(self, method, settings, given):
        """The settings for another method, with those of the options that it knows."""
        known = {name: value for name, value in given.items() if name in method.options}
        return {**settings, "method": method, "options": {**self._preset.get(method.name, {}), **known}}


def _is_list(value):
    return isinstance(value, Sequence) and not isinstance(value, str)
