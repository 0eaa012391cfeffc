"""Whether a run can start where the weights are, and where the NaN comes from if it cannot."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective.flat_parameters import FlatParameters


def check_weights(parameters: FlatParameters) -> None:
    """Raises `ValueError` for weights that are NaN or infinite, and names the variables."""
    bad = [
        f"{variable.path} ({_share(variable.numpy())})" for variable in parameters.variables if _count(variable.numpy())
    ]
    if bad:
        raise ValueError(
            f"Expected finite weights to start from. Received: NaN or inf in {', '.join(bad)}. "
            "Set other weights, or make the model anew."
        )


def check_leaves_weights(model: keras.Model, parameters: FlatParameters, assigned: list) -> None:
    """Raises `ValueError` where the train step assigns trainable weights itself, and says which part of it does.

    Args:
        model: The model.
        parameters: Its trainable weights.
        assigned: The variables that its train step assigns.
    """
    ids = {id(each) for each in assigned}
    weights = [
        variable
        for variable in parameters.variables
        if ids & {id(each) for each in keras_model.tensorflow_variables(variable)}
    ]
    if not weights:
        return
    normalizing = [each for each in keras_model.layers(model) if isinstance(each, keras.layers.SpectralNormalization)]
    by_layer = [each for each in normalizing if any(w is weight for w in each.weights for weight in weights)]
    if by_layer:
        culprit = f"layer {by_layer[0].name!r} (SpectralNormalization)"
        what_next = "Leave that layer out, or freeze it"
    else:
        culprit = f"the train step of {type(model).__name__} or a layer in it"
        what_next = (
            "If another optimizer trains them inside of the step, fit the two parts one after the other: freeze one "
            "and fit the other"
        )
    raise ValueError(
        "Expected a train step that leaves the trainable weights alone: the loss must be a function of the weights. "
        f"Received: {', '.join(weight.path for weight in weights)}, which {culprit} assigns. {what_next}."
    )


def check_evaluation(fun: float, jac: np.ndarray | None, batches: Iterable) -> None:
    """Raises `ValueError` if f or its gradient is NaN or infinite, and names the arrays of the data that are.

    Args:
        fun: The loss.
        jac: Its gradient, of shape `(n,)`, or `None`.
        batches: What `train_step` takes, looked at only where something is wrong.
    """
    if not np.isfinite(fun):
        raise ValueError(f"Expected a finite loss at the starting point. Received: loss={fun}, {_of_data(batches)}.")
    if jac is not None and not np.isfinite(jac).all():
        raise ValueError(
            "Expected a finite gradient at the starting point. "
            f"Received: {np.count_nonzero(~np.isfinite(jac))} entries of {jac.size} that are NaN or inf. "
            "Look for a square root or a logarithm at 0 in the model or its loss, or start from other weights."
        )


def _of_data(batches):
    bad = {}
    for batch in batches:
        for name, leaf in _named(batch):
            if leaf is not None and _count(leaf):
                bad.setdefault(name, _share(leaf))
    if bad:
        named = ", ".join(f"{name} ({share})" for name, share in bad.items())
        return f"and NaN or inf in {named}. Take these rows out of the data, or give them finite values"
    return (
        "from finite weights and data. Look for a logarithm, a root or a division at 0 in the model or its loss, or "
        "start from other weights"
    )


def _named(batch):
    """The arrays of a batch, with the names that they have as arguments of `fit`."""
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    for name, part in zip(("x", "y", "sample_weight"), parts, strict=True):
        for path, leaf in keras.tree.flatten_with_path(part):
            yield name + "".join(f"[{key!r}]" for key in path), leaf


def _values(leaf):
    leaf = getattr(leaf, "flat_values", getattr(leaf, "values", leaf))  # ragged, sparse
    return np.asarray(leaf)


def _count(leaf):
    values = _values(leaf)
    return 0 if values.dtype.kind in "biuOSU" else np.count_nonzero(~np.isfinite(values.astype("float64")))


def _share(leaf):
    return f"{_count(leaf)} of {_values(leaf).size} entries"


def perturbed(x: np.ndarray) -> np.ndarray:
    """A point at which to look again: what holds at the first weights may be due to their zeros."""
    return x + 0.1 * (1 + np.abs(x)) * np.random.default_rng(0).choice([-1.0, 1.0], x.size)
