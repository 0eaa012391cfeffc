"""The settings that all optimizers take by keyword: one line each, with its type, default, check and words.

A new setting is one line of `Settings`. It is then an argument of every optimizer, an attribute, checked, saved in
files and explained in the docstring.
"""

import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import keras
import numpy as np
from typing_extensions import TypedDict

from kormos_opt.stages import x_scale
from kormos_opt.stages.options import is_positive_integer


@dataclass(frozen=True)
class Setting:
    """One setting.

    Args:
        default: Its default.
        expected: What it may be, in words.
        is_valid: Called with a value. Returns whether it is one.
        means: What it does, in words.
    """

    default: Any
    expected: str
    is_valid: Callable[[Any], bool]
    means: str


def _one_of(*values):
    """What `expected` and `is_valid` are for a choice among a few values."""
    named = [repr(value).replace("'", '"') for value in values]
    words = f"{', '.join(named[:-1])} or {named[-1]}"
    return {"expected": words, "is_valid": lambda value: any(value is each or _equal(value, each) for each in values)}


def _equal(value, text):
    return isinstance(value, str) and isinstance(text, str) and value == text


class Settings(TypedDict, total=False):
    """What all optimizers take by keyword."""

    batch_size: Annotated[
        int | Literal["auto"] | None,
        Setting(
            None,
            'a positive integer, "auto" or None',
            lambda value: value is None or _equal(value, "auto") or is_positive_integer(value),
            "Rows that are evaluated at a time. It bounds memory and leaves the result alone. `None`: as many rows as "
            'take about 64 MiB of intermediate results, estimated from the graph. `"auto"` measures what the first '
            "rows take, inside recurrent layers too, and takes as many as fill an eighth of the memory. A number is an "
            "upper limit. If it would need more than 1/8 of the memory, fewer rows are used and a warning is logged. "
            "Models with BatchNormalization always use exactly this number.",
        ),
    ]
    max_cache_entries: Annotated[
        int,
        Setting(
            10,
            "a positive integer",
            is_positive_integer,
            "Points whose values `func`, `grad` and `func_and_grad` keep.",
        ),
    ]
    dtype: Annotated[
        str,
        Setting(
            "float64",
            "float64, in which scipy computes",
            lambda value: keras.backend.standardize_dtype(value) == "float64",
            "Of the flat vector, always float64, which scipy needs.",
        ),
    ]
    iterations_per_epoch: Annotated[
        int,
        Setting(
            1,
            "a positive integer",
            is_positive_integer,
            "Solver iterations that make one Keras epoch. More of them spare small problems the cost of an epoch in "
            "the stock loop.",
        ),
    ]
    cache: Annotated[
        bool | Literal["auto"],
        Setting(
            "auto",
            **_one_of(True, False, "auto"),
            means="Whether the training data is kept in memory: `True`, `False` (every evaluation reads the input "
            'pipeline anew), or `"auto"` (kept, up to half of the machine\'s memory).',
        ),
    ]
    precision: Annotated[
        Literal["model", "float64", "auto"],
        Setting(
            "model",
            **_one_of("model", "float64", "auto"),
            means='`"model"` evaluates the objective in the dtypes of the model, `"float64"` in double precision; '
            'the weights keep their dtype. `"auto"` begins as the model and goes on in double precision, in the same '
            "fit, where rounding hides progress that can still be made.",
        ),
    ]
    save_state: Annotated[
        bool | Literal["auto"],
        Setting(
            "auto",
            **_one_of(True, False, "auto"),
            means="Whether files carry the state of the solver, so that a fit goes on from them with exactly the same "
            'iterates: `True`, `False`, or `"auto"` (up to 256 MiB). L-BFGS keeps 2 m n numbers, for m pairs and n '
            "weights, SSBroyden and SSBFGS n^2; the other methods of scipy cannot be saved in the middle.",
        ),
    ]
    curvature: Annotated[
        Literal["exact", "gauss-newton"],
        Setting(
            "exact",
            **_one_of("exact", "gauss-newton"),
            means='What methods with second derivatives multiply with: `"exact"`, the Hessian, or '
            '`"gauss-newton"`, a matrix that is positive semidefinite for every convex loss. For models that are '
            "linear in their weights it is the Hessian.",
        ),
    ]
    x_scale: Annotated[
        float | Sequence[float] | np.ndarray | Literal["auto", "inputs", "jac"] | None,
        Setting(
            "auto",
            x_scale.EXPECTED,
            x_scale.is_valid,
            "The units in which the solver sees the weights, as `scipy.optimize.least_squares` has them: it moves z = "
            'weights / x_scale. A positive number, or one for each weight; `"inputs"`, as if the inputs of kernels on '
            'the data were standardized (with bounds or constraints: divided by their root mean square); `"jac"`, 1 / '
            'norm of the column of the Jacobian at the start, which takes n products; `None`, 1; or `"auto"`: '
            '`"inputs"` where the sizes of the inputs differ by more than a hundred, which is said once, else 1. '
            "Where the precision of f cannot show what a step of length 1 changes, all but `None` look for a longer "
            "one first. Numbers are rounded to powers of two. Weights, bounds, constraints, results and files stay in "
            "your units; `gtol` is for the gradient that the solver sees.",
        ),
    ]
    polish: Annotated[
        bool,
        Setting(
            False,
            **_one_of(True, False),
            means="Whether a fit that stops although something is left to gain is finished by truncated Newton steps "
            "in double precision, ten at most; each is an iterate.",
        ),
    ]


def all_settings() -> dict[str, Setting]:
    """The settings by their names."""
    return {name: hint.__metadata__[0] for name, hint in Settings.__annotations__.items()}


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, and the defaults of the others, as Keras can save them.

    Args:
        given: The settings by their names.

    Raises:
        ValueError: For a value that a setting does not take.
    """
    values = {}
    for name, setting in all_settings().items():
        value = given.get(name, setting.default)
        if not setting.is_valid(value):
            raise ValueError(f"Expected {setting.expected}. Received: {name}={value!r:.200}.")
        is_sequence = isinstance(value, (Sequence, np.ndarray, np.generic)) and not isinstance(value, str)
        values[name] = np.asarray(value).tolist() if is_sequence else value
    return values


_OLD_NAMES = {"save_memory": "save_state"}


def with_new_names(given: Mapping[str, Any], is_file: bool) -> dict[str, Any]:
    """The settings that were given, by the names of this version.

    Args:
        given: The settings, maybe by the names of earlier versions.
        is_file: Whether they come from a file. A program is told of the new names.
    """
    for name in _OLD_NAMES.keys() & given.keys() if not is_file else ():
        warnings.warn(_RENAMED.format(name, _OLD_NAMES[name]), DeprecationWarning, stacklevel=4)
    return {_OLD_NAMES.get(name, name): value for name, value in given.items()}


_RENAMED = "The argument {}= is called {}= now. The old name will go in version 0.3."


def arguments_docstring() -> str:
    """The settings as lines of a docstring, below `Args:`."""
    lines = []
    for name, setting in all_settings().items():
        default = repr(setting.default).replace("'", '"')
        text = f"{name}: {setting.means} Defaults to `{default}`."
        lines += textwrap.wrap(text, 116, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return "\n".join(lines)


def deserialized(value, custom_objects):
    """What Keras has serialized, at any depth; all else, as `get_config` itself returns it, as it is."""
    if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
    if isinstance(value, dict):
        return {name: deserialized(each, custom_objects) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(deserialized(each, custom_objects) for each in value)
    return value
