"""Bounds on the weights: as scipy takes them, by the names of variables, or from Keras's `NonNeg` constraint."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import keras
import numpy as np
from scipy.optimize import Bounds

from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.registry import Method, NumpyMethod, names_of


def resolve(bounds, parameters: "FlatParameters", method: Method) -> Bounds | None:
    """The bounds of the flat vector, or `None` if there are none.

    Args:
        bounds: `None`, a `scipy.optimize.Bounds`, a sequence of `(low, high)` for every weight, `(lower, upper)` for
            all of them as in `scipy.optimize.curve_fit` unless there are two weights, or a mapping from patterns to
            `(low, high)`, where `None` means no bound and arrays have the shape of the variable. A pattern of `fnmatch`
            matches the whole of `variable.path` or its last parts; where several match, the last counts.
        parameters: The variables.
        method: The method that shall take them.

    Raises:
        ValueError: For bounds that the method does not take, that match no variable, that do not have the length of
            the vector, or that leave nothing between them; and for a Keras constraint other than `NonNeg`.

    Example:

    >>> import keras
    >>> from kormos_opt.objective.flat_parameters import FlatParameters
    >>> from kormos_opt.solvers.registry import find
    >>> parameters = FlatParameters([keras.Variable([1.0, 2.0], name="bias")])
    >>> resolve({"bias": (0, None)}, parameters, find("TNC"))
    Bounds(array([0., 0.]), array([inf, inf]))
    """
    resolved = _by_name(bounds, parameters) if isinstance(bounds, Mapping) else _by_position(bounds, parameters)
    not_negative = _not_negative(parameters)
    if not_negative is not None:
        lb, ub, keep_feasible = (-np.inf, np.inf, False) if resolved is None else _parts(resolved)
        resolved = Bounds(np.maximum(lb, not_negative), np.broadcast_to(ub, not_negative.shape), keep_feasible)
    if resolved is None:
        return None
    if not method.bounds:
        received = f"bounds={bounds!r}" if bounds is not None else "a variable with the constraint NonNeg"
        takers = names_of(lambda each: each.bounds) if isinstance(method, NumpyMethod) else method.instead
        raise ValueError(f"Expected no bounds for {method.name}, which takes none. Received: {received}. Use {takers}.")
    empty = np.flatnonzero(resolved.lb > resolved.ub)
    if empty.size:
        name, index = parameters.name_of(empty[0])
        raise ValueError(
            f"Expected lower bounds below upper bounds. Received: ({resolved.lb[empty[0]]}, {resolved.ub[empty[0]]}) "
            f"for {name}[{index}], and {empty.size - 1} more."
        )
    return resolved


def _parts(bounds):
    return bounds.lb, bounds.ub, bounds.keep_feasible


def _side(side, usual, size):
    """One side of `(lower, upper)`: a number for all weights, or one for each."""
    numbers = [side] * size if side is None or np.ndim(side) == 0 else side
    return [_number(number, usual) for number in numbers]


def _by_position(bounds, parameters):
    if bounds is None:
        return None
    if isinstance(bounds, Bounds):
        lb, ub, keep_feasible = _parts(bounds)
    elif len(bounds) == 2 and parameters.size != 2:
        lb, ub = (_side(side, usual, parameters.size) for side, usual in zip(bounds, (-np.inf, np.inf), strict=True))
        keep_feasible = False
    else:
        pairs = [(_number(low, -np.inf), _number(high, np.inf)) for low, high in bounds]
        lb, ub, keep_feasible = [low for low, _ in pairs], [high for _, high in pairs], False
    try:
        if not isinstance(bounds, Bounds) and len(lb) != parameters.size:
            raise ValueError
        return Bounds(*(np.broadcast_to(side, parameters.size).astype("float64") for side in (lb, ub)), keep_feasible)
    except ValueError:
        raise ValueError(
            f"Expected bounds for {parameters.size} weights. Received: bounds of length {np.size(lb)}. "
            'Bounds by variable need no lengths: bounds={"dense/kernel": (0, None)}.'
        ) from None


def _by_name(bounds, parameters):
    lb = [np.full(variable.shape, -np.inf) for variable in parameters.variables]
    ub = [np.full(variable.shape, np.inf) for variable in parameters.variables]
    for pattern, (low, high) in bounds.items():
        matches = [i for i, variable in enumerate(parameters.variables) if _matches(variable.path, pattern)]
        if not matches:
            paths = ", ".join(variable.path for variable in parameters.variables)
            raise ValueError(f"Expected patterns that match one of {paths}. Received: bounds with {pattern!r}.")
        for i in matches:
            lb[i][...] = _number(low, -np.inf)
            ub[i][...] = _number(high, np.inf)
    return Bounds(*(np.concatenate([side.ravel() for side in sides]) for sides in (lb, ub)))


def _matches(path, pattern):
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")


def _number(value, default):
    return default if value is None else value


def _not_negative(parameters):
    """The lower bounds that Keras's constraints say, or `None` if they say nothing."""
    for variable in parameters.variables:
        if not isinstance(variable.constraint, (type(None), keras.constraints.NonNeg)):
            raise ValueError(
                "Expected no Keras constraint but NonNeg, which becomes a bound: a solver assigns its iterates as they "
                f"are. Received: {variable.path} with constraint={variable.constraint}. Remove it, or say what it "
                "means with bounds= or constraints=."
            )
    if all(variable.constraint is None for variable in parameters.variables):
        return None
    lower = [
        np.full(variable.shape, -np.inf if variable.constraint is None else 0.0) for variable in parameters.variables
    ]
    return np.concatenate([side.ravel() for side in lower])
