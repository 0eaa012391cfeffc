"""Pictures of fits: `kormos_opt.plot_history`. Needs matplotlib, which is imported at the first picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, Sequence[float]]


def plot_history(
    history: keras.callbacks.History | Columns | Mapping[str, keras.callbacks.History | Columns],
    x: str | None = "fg_evals",
) -> list[Axes]:
    """Draws the loss of one run or more, with validation, the norm of the gradient, and the borders of stages.

    Evaluations are what a full-batch solver costs, so they are the axis that compares solvers. An epoch of mini-batches
    in a chain counts as one. Axes are logarithmic where all values are positive.

    Args:
        history: What `fit` returns, or its dictionary, or a dictionary of these by the name of the run.
        x: The column of the horizontal axis, `None` for epochs. Defaults to `"fg_evals"`.

    Returns:
        The axes: of the loss, and below it of the gradient's norm where a run has it. `axes[0].figure` is the figure.

    Raises:
        ValueError: If a history has no such column.
        ImportError: If matplotlib is not installed.

    Example:

    >>> import kormos_opt
    >>> history = {"loss": [1.0, 0.5, 0.1], "grad": [2.0, 1.0, 0.1], "fg_evals": [1, 3, 4]}
    >>> axes = kormos_opt.plot_history({"mine": history})
    >>> [each.get_ylabel() for each in axes]
    ['loss', 'norm of the gradient']
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib, which draws. Received: no matplotlib. Install it: pip install 'kormos_opt[plot]'"
        ) from error
    runs = _runs(history)
    places = {name: _places(name, columns, x) for name, columns in runs.items()}
    has_gradient = any("grad" in columns for columns in runs.values())
    rows = 1 + has_gradient
    _, grid = plt.subplots(rows, figsize=(7, 3 + 2 * has_gradient), sharex=True, squeeze=False, layout="constrained")
    axes = list(grid[:, 0])
    for name, columns in runs.items():
        _draw(axes, name, columns, places[name])
    for each, label in zip(axes, ("loss", "norm of the gradient"), strict=False):
        _finish(each, label)
    axes[0].legend()
    axes[-1].set_xlabel({"fg_evals": "evaluations of the loss and its gradient", None: "epochs"}.get(x, x))
    return axes


def _runs(history) -> dict[str, Columns]:
    """Columns by the name of the run; one run alone has no name."""
    history = _columns(history)
    if any(isinstance(value, Mapping | keras.callbacks.History) for value in history.values()):
        return {name: _columns(columns) for name, columns in history.items()}
    return {"": history}


def _columns(history):
    return history.history if isinstance(history, keras.callbacks.History) else history


def _places(name, columns, x):
    if x is None:
        return np.arange(1, len(columns["loss"]) + 1)
    if x not in columns:
        raise ValueError(
            f"Expected a column of the history, or None for epochs. Received: x={x!r}, and a history {name} with "
            f"{', '.join(columns)}. Write x=None to compare with a fit by an optimizer of Keras."
        )
    return np.asarray(columns[x])


def _draw(axes, name, columns, places):
    (line,) = axes[0].plot(places, columns["loss"], label=name or "training")
    if "val_loss" in columns:
        label = f"{name}, validation" if name else "validation"
        axes[0].plot(places, columns["val_loss"], "--", color=line.get_color(), label=label)
    if "grad" in columns:
        axes[1].plot(places, columns["grad"], color=line.get_color())
    stages = np.asarray(columns.get("stage", np.zeros(len(places))))
    for border in places[:-1][np.diff(stages) > 0]:
        for each in axes:
            each.axvline(border, color=line.get_color(), linestyle=":", linewidth=1)


def _finish(axes, label):
    values = np.concatenate([line.get_ydata() for line in axes.lines if line.get_linestyle() != ":"])
    values = values[np.isfinite(values)]
    axes.set(ylabel=label, yscale="log" if (values > 0).all() and len(values) else "linear")
    axes.grid(alpha=0.3)
