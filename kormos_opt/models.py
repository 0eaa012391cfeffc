"""kormos's models: `fit` takes the solver's arguments too, and runs Keras's own loop with them.

Plain Keras models need none of this: there the arguments belong to the optimizer.
"""

import inspect
import warnings

import keras
import numpy as np

from kormos_opt.optimizers.scipy_batch_optimizer import ScipyBatchOptimizer
from kormos_opt.solvers import registry
from kormos_opt.stages.plan import NAMES

_SOLVER_ARGUMENTS = tuple(name for name in NAMES if name != "epochs")  # which `fit` has already
_BATCH_SIZE = 1024


class _BatchOptimized:
    """Mixed into `keras.Model` and `keras.Sequential`."""

    def fit(self, *args, **kwargs) -> keras.callbacks.History:
        """Fits as `keras.Model.fit` does; with one of our optimizers as `fit_batch` does."""
        solver_arguments = {name: kwargs.pop(name) for name in _SOLVER_ARGUMENTS if name in kwargs}
        if isinstance(getattr(self, "optimizer", None), ScipyBatchOptimizer):
            arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments  # type: ignore[misc]
            return self.fit_batch(**arguments, **solver_arguments)
        if any(value is not None for value in solver_arguments.values()):
            raise ValueError(
                "Expected arguments of a solver only with one of its optimizers. "
                f"Received: {', '.join(solver_arguments)}, and optimizer={getattr(self, 'optimizer', None)}. "
                'Compile with optimizer="scipy".'
            )
        return super().fit(*args, **kwargs)  # type: ignore[misc]

    def fit_batch(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=20,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=False,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
        max_queue_size=10,
        workers=1,
        use_multiprocessing=False,
        **arguments,
    ) -> keras.callbacks.History:
        """Trains with the whole of the data in every iteration.

        Args:
            x: As in `keras.Model.fit`, like all arguments that are not named here.
            batch_size: Rows that are evaluated at a time; it bounds memory and leaves the result alone. Defaults to
                `None`: the optimizer's, else 1024.
            epochs: Iterations at most, or a list with those of each stage. Defaults to `20`.
            max_queue_size: Keras 3 has moved it to `PyDataset`. Leave it at its default.
            workers: Keras 3 has moved it to `PyDataset`. Leave it at its default.
            use_multiprocessing: Keras 3 has moved it to `PyDataset`. Leave it at its default.
            **arguments: The arguments of a stage, as in `ScipyBatchOptimizer`. They take precedence over its settings.
                Options that the method does not know are left out with a warning.

        Returns:
            The history, with kormos's columns `loss`, `grad`, `fg_evals`, `hessp_evals`.

        Raises:
            RuntimeError: If the model is compiled with another optimizer.
        """
        optimizer = getattr(self, "optimizer", None)
        if not isinstance(optimizer, ScipyBatchOptimizer):
            raise RuntimeError(
                f'Expected a model compiled with optimizer="scipy" or another of ours. Received: optimizer={optimizer}.'
            )
        if (max_queue_size, workers, use_multiprocessing) != (10, 1, False):
            raise ValueError(
                "Expected max_queue_size, workers and use_multiprocessing at their defaults: in Keras 3 they are "
                "arguments of keras.utils.PyDataset. Received: "
                f"max_queue_size={max_queue_size}, workers={workers}, use_multiprocessing={use_multiprocessing}."
            )
        usual_batch_size = optimizer.batch_size
        stages = list(epochs) if isinstance(epochs, (list, tuple)) else None
        _refuse_unknown(arguments)
        arguments["options"] = _known(arguments.get("options"), arguments.get("method"), optimizer)
        try:
            optimizer.batch_size = batch_size or usual_batch_size or _BATCH_SIZE
            with optimizer.planned(epochs=stages, **arguments):
                return super().fit(  # type: ignore[misc]
                    x,
                    y,
                    batch_size=batch_size,
                    epochs=int(np.sum(epochs)),
                    verbose=verbose,
                    callbacks=callbacks,
                    validation_split=validation_split,
                    validation_data=validation_data,
                    shuffle=shuffle,
                    class_weight=class_weight,
                    sample_weight=sample_weight,
                    initial_epoch=initial_epoch,
                    steps_per_epoch=steps_per_epoch,
                    validation_steps=validation_steps,
                    validation_batch_size=validation_batch_size,
                    validation_freq=validation_freq,
                )
        finally:
            optimizer.batch_size = usual_batch_size


def _refuse_unknown(arguments):
    unknown = arguments.keys() - set(_SOLVER_ARGUMENTS)
    if unknown:
        raise TypeError(
            f"Expected arguments of keras.Model.fit, or {', '.join(_SOLVER_ARGUMENTS)}. "
            f"Received: {', '.join(sorted(unknown))}. Leave them out."
        )


def _known(options, method, optimizer):
    """The options that scipy knows, stage by stage: kormos passed on the others, which scipy ignored with a warning."""
    if options is None:
        return None
    names = method if isinstance(method, (list, tuple)) else [method] if method else None
    names = [name or registry.DEFAULT_METHOD for name in names or [stage.name for stage in optimizer.stages]]
    listed = list(options) if isinstance(options, (list, tuple)) else [options] * len(names)
    names = names * len(listed) if len(names) == 1 else names
    kept, unknown = [], set()
    for name, each in zip(names, listed, strict=False):
        found = registry.find(name)
        known = found.options
        kept.append({option: value for option, value in (each or {}).items() if option in known})
        unknown |= {
            f"{option} ({found.name} knows {', '.join(sorted(known))})" for option in (each or {}).keys() - known.keys()
        }
    if unknown:
        warnings.warn(f"Left out options that scipy does not know: {'; '.join(sorted(unknown))}.", stacklevel=4)
    return kept if len(kept) > 1 else kept[0]


@keras.saving.register_keras_serializable("kormos_opt")
class BatchOptimizedModel(_BatchOptimized, keras.Model):
    """A `keras.Model` whose `fit` also takes the arguments of a solver, as kormos's did.

    Example:

    >>> import keras, numpy as np
    >>> from kormos_opt.models import BatchOptimizedModel
    >>> inputs = keras.Input((3,))
    >>> model = BatchOptimizedModel(inputs=inputs, outputs=keras.layers.Dense(1)(inputs))
    >>> model.compile(loss="mse", optimizer="scipy")
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> history = model.fit(x, x.sum(axis=1), epochs=[3, 5], method=["cg", "newton-cg"], verbose=0)
    >>> bool(history.history["loss"][-1] < 1e-6)
    True
    """


@keras.saving.register_keras_serializable("kormos_opt")
class BatchOptimizedSequentialModel(_BatchOptimized, keras.Sequential):
    """A `keras.Sequential` whose `fit` also takes the arguments of a solver, as kormos's did.

    Example:

    >>> import keras, numpy as np
    >>> from kormos_opt.models import BatchOptimizedSequentialModel
    >>> model = BatchOptimizedSequentialModel([keras.layers.Dense(1)])
    >>> model.compile(loss="mse", optimizer="l-bfgs-b")
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> history = model.fit(x, x.sum(axis=1), epochs=10, options={"maxcor": 3}, verbose=0)
    >>> bool(history.history["loss"][-1] < 1e-6)
    True
    """
