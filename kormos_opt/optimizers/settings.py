"""The settings that all optimizers take by keyword, and what they may be."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import keras
import numpy as np

from kormos_opt.stages import x_scale as stages_x_scale
from kormos_opt.stages.options import is_positive_integer


class Settings(TypedDict, total=False):
    """What all optimizers take by keyword, see `BatchOptimizer`."""

    batch_size: int | Literal["auto"] | None
    max_cache_entries: int
    dtype: str
    iterations_per_epoch: int
    cache: bool | Literal["auto"]
    precision: Literal["model", "float64", "auto"]
    save_memory: bool | Literal["auto"]
    curvature: Literal["exact", "gauss-newton"]
    x_scale: float | Sequence[float] | np.ndarray | Literal["auto", "inputs", "jac"] | None
    polish: bool


def check_settings(
    iterations_per_epoch,
    batch_size,
    max_cache_entries,
    dtype,
    cache,
    precision,
    save_memory,
    curvature,
    x_scale,
    polish,
) -> None:
    """Raises `ValueError` for a setting that is none of those that `BatchOptimizer` names."""
    if not is_positive_integer(iterations_per_epoch):
        raise ValueError(f"Expected a positive integer. Received: iterations_per_epoch={iterations_per_epoch!r}.")
    if not (batch_size in (None, "auto") or is_positive_integer(batch_size)):
        raise ValueError(f'Expected a positive integer, "auto" or None. Received: batch_size={batch_size!r}.')
    if not is_positive_integer(max_cache_entries):
        raise ValueError(f"Expected a positive integer. Received: max_cache_entries={max_cache_entries!r}.")
    if keras.backend.standardize_dtype(dtype) != "float64":
        raise ValueError(f"Expected float64, in which scipy computes. Received: dtype={dtype!r}. Leave it out.")
    if not (isinstance(cache, bool) or cache == "auto"):
        raise ValueError(f'Expected True, False or "auto". Received: cache={cache!r}.')
    if precision not in ("model", "float64", "auto"):
        raise ValueError(f'Expected "model", "float64" or "auto". Received: precision={precision!r}.')
    if not isinstance(polish, bool):
        raise ValueError(f"Expected True or False. Received: polish={polish!r}.")
    if not (isinstance(save_memory, bool) or save_memory == "auto"):
        raise ValueError(f'Expected True, False or "auto". Received: save_memory={save_memory!r}.')
    if curvature not in ("exact", "gauss-newton"):
        raise ValueError(f'Expected "exact" or "gauss-newton". Received: curvature={curvature!r}.')
    stages_x_scale.check(x_scale)


def deserialized(value, custom_objects):
    """What Keras has serialized, at any depth; all else, as `get_config` itself returns it, as it is."""
    if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
    if isinstance(value, dict):
        return {name: deserialized(each, custom_objects) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(deserialized(each, custom_objects) for each in value)
    return value
