"""The columns of a solver in the history, beside the metrics of the model."""

import keras
import numpy as np

from kormos_opt.keras_internals import model as keras_model
from kormos_opt.training.progress import Progress

COLUMNS = ("grad", "fg_evals", "hessp_evals", "stage")


def check(model: keras.Model, metrics: set[str]) -> None:
    """Raises `ValueError` for metrics whose names are those of columns.

    Args:
        model: The model.
        metrics: The names of its logs.
    """
    clash = metrics.intersection(COLUMNS) | {"loss"}.intersection(keras_model.names_of_compiled_metrics(model))
    if clash:
        raise ValueError(
            f"Expected metrics of other names than loss, {', '.join(COLUMNS)}, the columns of the solver in the "
            f"history. Received: a metric named {', '.join(sorted(clash))}. Give it another name=."
        )


def row(progress: Progress, of_starts: tuple[int, int]) -> dict:
    """The logs of an epoch: where the run stands, with its metrics.

    Args:
        progress: Where the solver stands.
        of_starts: The evaluations and Hessian-vector products that trying starts has taken.
    """
    run = progress.run
    logs = keras.tree.map_structure(np.asarray, run.accepted.logs or {})
    logs["loss"] = run.accepted.fun
    if run.gradient_norm is not None:
        logs["grad"] = run.gradient_norm
    elif any(stage.method.derivatives != "none" for stage in progress.stages):
        logs["grad"] = np.nan
    logs["fg_evals"], logs["hessp_evals"] = np.add(of_starts, (progress.nfev + run.nfev, progress.nhev + run.nhev))
    if len(progress.stages) > 1:
        logs["stage"] = progress.index
    return logs
