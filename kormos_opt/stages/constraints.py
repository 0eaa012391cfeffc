"""Constraints on the weights, as scipy takes them, or as a function of the variables by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
from scipy.optimize import HessianUpdateStrategy, LinearConstraint, NonlinearConstraint

from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.solvers.registry import Method, names_of


@keras.saving.register_keras_serializable("kormos_opt")
class VariableConstraint:
    """`lb <= fun(variables) <= ub`, where `fun` reads the variables by name.

    Args:
        fun: Called with a mapping from `variable.path`, or its last parts, to numpy arrays in float64. Returns a number
            or an array of shape `(m,)`. It is called in a thread of its own.
        lb: Lower bound, a number or of shape `(m,)`. Defaults to `0`.
        ub: Upper bound. Equal to `lb` for an equality. Defaults to no bound.
        jac: The derivative, called like `fun`. Returns a mapping from names to arrays of shape `(m,)` (left out for
            m = 1) followed by the variable's; variables that are left out have none. Defaults to `None`: finite
            differences, one call of `fun` per weight.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> y = x @ [0.5, 0.3, 0.4]
    >>> model = keras.Sequential([keras.layers.Dense(1, use_bias=False, name="shares")])
    >>> total = kormos_opt.VariableConstraint(lambda weights: weights["shares/kernel"].sum(), 1.0, 1.0)
    >>> model.compile(optimizer=kormos_opt.SLSQP(constraints=total), loss="mse")
    >>> history = model.fit(x, y, epochs=20, verbose=0)
    >>> print(round(float(np.sum(model.get_weights()[0])), 4))
    1.0

    Reference: https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.NonlinearConstraint.html
    """

    def __init__(
        self,
        fun: Callable[[Mapping[str, np.ndarray]], float | np.ndarray],
        lb: float | np.ndarray = 0.0,
        ub: float | np.ndarray = np.inf,
        jac: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None,
    ):
        self.fun = fun
        self.lb = lb
        self.ub = ub
        self.jac = jac

    def over(self, parameters: "FlatParameters") -> NonlinearConstraint:
        """The constraint as a function of the flat vector."""

        def fun(x):
            return np.atleast_1d(self.fun(_ByName(parameters, x)))

        def jac(x):
            derivatives = _ByName(parameters, x).matching(self.jac(_ByName(parameters, x)))
            rows = [
                np.zeros((1, size)) if value is None else np.reshape(np.asarray(value, "float64"), (-1, size))
                for value, size in zip(derivatives, parameters.sizes, strict=True)
            ]
            count = max(len(row) for row in rows)
            return np.concatenate([np.broadcast_to(row, (count, row.shape[1])) for row in rows], axis=1)

        return NonlinearConstraint(fun, self.lb, self.ub, jac="2-point" if self.jac is None else jac)

    def get_config(self) -> dict:
        """The arguments."""
        return {"fun": self.fun, "lb": self.lb, "ub": self.ub, "jac": self.jac}

    @classmethod
    def from_config(cls, config: dict) -> "VariableConstraint":
        """The inverse of `get_config`, after Keras has serialized it."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


class _ByName(Mapping):
    """The pieces of a flat vector by the paths of the variables, or by the last parts of them."""

    def __init__(self, parameters, x):
        self._parameters = parameters
        self._x = x

    def __getitem__(self, name: str) -> np.ndarray:
        return self._parameters.split(self._x)[self._index(name)]

    def __iter__(self) -> Iterator[str]:
        return (variable.path for variable in self._parameters.variables)

    def __len__(self) -> int:
        return len(self._parameters.variables)

    def matching(self, values):
        """The values in the order of the variables, `None` where there is none."""
        by_index = {self._index(name): value for name, value in values.items()}
        return [by_index.get(i) for i in range(len(self))]

    def _index(self, name):
        matches = [i for i, path in enumerate(self) if path == name or path.endswith(f"/{name}")]
        if len(matches) != 1:
            raise KeyError(
                f"Expected the name of one variable among {', '.join(self)}. "
                f"Received: {name!r}, which names {len(matches)}."
            )
        return matches[0]


def as_list(constraints) -> list:
    """One constraint, or a sequence of them, as a list."""
    if constraints is None:
        return []
    return list(constraints) if isinstance(constraints, Sequence) else [constraints]


def resolve(constraints: list, parameters: "FlatParameters", method: Method) -> list:
    """The constraints as functions of the flat vector.

    Raises:
        ValueError: If the method takes none.
    """
    if constraints and not method.constraints:
        takers = names_of(lambda each: each.constraints)
        raise ValueError(
            f"Expected no constraints for {method.name}, which takes none. "
            f"Received: constraints={constraints!r}. Use {takers}."
        )
    return [each.over(parameters) if isinstance(each, VariableConstraint) else each for each in constraints]


def to_config(constraint):
    """What Keras can serialize in place of a constraint of scipy."""
    if isinstance(constraint, LinearConstraint):
        matrix = constraint.A.toarray() if hasattr(constraint.A, "toarray") else np.asarray(constraint.A)
        return {"A": matrix, **{name: getattr(constraint, name) for name in ("lb", "ub", "keep_feasible")}}
    if isinstance(constraint, NonlinearConstraint):
        names = ("fun", "lb", "ub", "jac", "keep_feasible", "finite_diff_rel_step")
        config = {name: getattr(constraint, name) for name in names}
        return config if isinstance(constraint.hess, HessianUpdateStrategy) else {**config, "hess": constraint.hess}
    return constraint


def from_config(config):
    """The inverse of `to_config`."""
    if isinstance(config, dict) and "A" in config:
        return LinearConstraint(**config)
    if isinstance(config, dict) and "keep_feasible" in config:
        return NonlinearConstraint(**config)
    return config
