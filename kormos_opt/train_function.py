"""One epoch of the stock `fit` loop is one iteration of the solver: starts it, resumes it, stops the fit with it.

The solver stays suspended between epochs and fits. Whatever interrupts an epoch, the model's weights are the last
accepted iterate.
"""

import contextlib
import logging

import keras
import numpy as np

from kormos_opt import full_batch, precision
from kormos_opt.flat_parameters import FlatParameters
from kormos_opt.full_batch import FullBatch
from kormos_opt.objective import Evaluation, Objective
from kormos_opt.solver_run import SolverRun
from kormos_opt.solvers.safeguards import safeguard

_log = logging.getLogger("kormos_opt")


class TrainFunction:
    """What `Model.fit` calls once an epoch, and `Model.train_on_batch` with an iterator over one batch.

    Args:
        model: The model to train.
        optimizer: The `BatchOptimizer` it is compiled with: settings and the solver.
    """

    def __init__(self, model: keras.Model, optimizer):
        self._model = model
        self._optimizer = optimizer
        self._objective = None
        self._run = None
        self._state = None
        self._data = None
        self._batch = None
        self._first = True
        self._row = self._message = None
        if model.built:
            FlatParameters(model.trainable_variables)

    def collect(self, shuffle, **data) -> FullBatch:
        """The full batch of the data arguments of `fit`. The order of a sum's terms matters to its rounding only."""
        del shuffle
        return full_batch.of_fit(self._model, self._optimizer.cache, **data)

    @contextlib.contextmanager
    def fitting(self, data: FullBatch):
        """Inside, epochs work on `data`; afterwards nothing holds it any more."""
        self._data = data
        self._row = self._message = None
        try:
            yield
        finally:
            self._data = self._batch = None
            if self._run is not None and self._run.result is None:
                self._optimizer.record(self._run.interrupted("Another fit on the same data goes on from here"))

    def __call__(self, iterator) -> dict:
        if self._data is None:
            with self.fitting(full_batch.of_batches(iterator)):
                return self._guarded_epoch(iterations=1)
        return self._guarded_epoch(self._optimizer.iterations_per_epoch)

    def conclude(self, history: keras.callbacks.History) -> str | None:
        """Takes back the row of an epoch in which the solver ended without an iterate.

        Returns:
            Why the solver ended, or `None` if it did not.
        """
        if self._row:
            lengths, epochs = self._row
            del history.epoch[epochs:]
            for name, values in history.history.items():
                del values[lengths.get(name, 0) :]
        return self._message

    def _guarded_epoch(self, iterations):
        if self._batch is None:
            self._prepare()
        try:
            if self._must_start():
                self._start()
            before = self._run.nit
            while self._run.result is None and self._run.nit < before + iterations:
                self._iterate()
            self._optimizer.iterations.assign_add(self._run.nit - before)
            if self._run.result is not None:
                self._end(moved=self._run.nit > before)
            return self._logs()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._first = False

    def _prepare(self):
        variables = [id(variable) for variable in self._model.trainable_variables]
        objective = self._objective
        if objective is None or objective.parameters.ids != variables:
            self._close()
            objective = Objective(self._model, self._optimizer.precision == "float64", self._optimizer.batch_size)
        self._batch = objective.prepare(self._data)
        self._objective = objective
        self._state = objective.state()
        self._first = True

    def _must_start(self):
        if self._run is None or self._run.result is not None:
            return True
        parameters = self._objective.parameters
        if not np.array_equal(parameters.ravel(), parameters.round(self._run.accepted.x)):
            _log.info("The weights were changed since the last iteration: the solver starts afresh from them.")
            return True
        if self._first and not self._is_same_objective():
            _log.info("The data or the model were changed since the last fit: the solver starts afresh.")
            return True
        return False

    def _start(self):
        self._close()
        solver = self._optimizer.solver(self._objective.parameters.ravel())
        self._run = SolverRun(safeguard(solver, **self._resolution()), self)

    def _iterate(self):
        run = self._run
        moved = run.iterate()
        if run.position is not run.accepted.x:
            self._objective.parameters.assign(run.accepted.x)
        if moved and run.accepted.averages:
            self._objective.assign_averages(run.accepted.averages)
            self._state = self._objective.state()

    def evaluate(self, x: np.ndarray, gradient: bool) -> Evaluation:
        """Answers the solver: f at `x`, and its gradient."""
        evaluation = self._objective.evaluate(x, self._batch, gradient)
        parameters = self._objective.parameters
        if self._run.nfev == 0 and not np.array_equal(parameters.ravel(), parameters.round(x)):
            raise ValueError(
                "Expected layers that leave the trainable weights alone in their call: the loss must be a function of "
                "the weights. Received: weights that changed in an evaluation, as SpectralNormalization changes them. "
                "Leave that layer out, or freeze it."
            )
        return evaluation

    def products(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Answers the solver: the Hessian at `x` times every row of `p`."""
        return self._objective.products(x, p, self._batch)

    def _end(self, moved):
        self._optimizer.record(self._run.result)
        self._message = self._run.result.message
        self._model.stop_training = True
        history = getattr(self._model, "history", None)
        if not moved and self._run.nit and history is not None:
            self._row = {name: len(values) for name, values in history.history.items()}, len(history.epoch)

    def _is_same_objective(self):
        accepted = self._run.accepted
        again = self._objective.evaluate(accepted.x, self._batch, accepted.jac is not None)
        return again.fun == accepted.fun and (again.jac is None or np.array_equal(again.jac, accepted.jac))

    def _resolution(self):
        dtype = "float64" if self._optimizer.precision == "float64" else precision.compute_dtype(self._model)
        return {"dtype": dtype, "resolution": precision.resolution(dtype) if self._optimizer.at_resolution else None}

    def _logs(self):
        run = self._run
        metrics = {name: np.asarray(value) for name, value in (run.accepted.logs or {}).items()}
        gradient = {} if run.gradient_norm is None else {"grad": run.gradient_norm}
        return {**metrics, "loss": run.accepted.fun, **gradient, "fg_evals": run.nfev, "hessp_evals": run.nhev}

    def _abandon(self):
        if self._run is not None and self._run.accepted is not None:
            self._objective.parameters.assign(self._run.accepted.x)
            self._optimizer.record(self._run.interrupted("Interrupted by an error; another fit starts afresh"))
        else:
            self._optimizer.record(None)
        if self._state is not None:
            self._objective.restore(self._state)
        self._close()

    def _close(self):
        if self._run is not None:
            self._run.close()
        self._run = None
