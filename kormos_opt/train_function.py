"""One epoch of the stock `fit` loop is one iteration of the solver: starts it, resumes it, stops the fit with it.

The solver stays suspended between epochs and fits. Whatever interrupts an epoch, the model's weights are the last
accepted iterate.
"""

import contextlib
import logging

import keras
import numpy as np

from kormos_opt import full_batch, keras_hook, precision
from kormos_opt.chain import Chain
from kormos_opt.flat_parameters import FlatParameters
from kormos_opt.full_batch import FullBatch
from kormos_opt.graph_run import GraphRun
from kormos_opt.objective import Evaluation, Objective
from kormos_opt.replicas import Replicas
from kormos_opt.solver_run import SolverRun
from kormos_opt.solvers.base import Evaluate
from kormos_opt.solvers.safeguards import safeguard

_log = logging.getLogger("kormos_opt")


class TrainFunction:
    """What `Model.fit` calls once an epoch, and `Model.train_on_batch` with an iterator over one batch.

    Args:
        model: The model to train.
        optimizer: The `BatchOptimizer` it is compiled with: settings and the stages of the fit.
    """

    def __init__(self, model: keras.Model, optimizer):
        self._model = model
        self._optimizer = optimizer
        self._replicas = Replicas.of(model)
        self._objective = None
        self._state = None
        self._data = None
        self._batch = None
        self._step = 0
        self._awaited = None
        self._row = None
        self._first = self._is_new_epoch = True
        self._is_pretraining = False
        self._chain = Chain(())
        self._run = None
        if model.built:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
            self._check_stages()

    def _check_stages(self):
        """Those whose variables are known: a `pretrain_fn` may freeze some."""
        parameters = FlatParameters(self._model.trainable_variables)
        for stage in self._optimizer.stages:
            if stage.pretrain_fn is not None:
                break
            stage.check(parameters)

    @property
    def has_ended(self) -> bool:
        """Whether the last stage has ended."""
        return self._chain.has_ended

    @property
    def writes_files(self) -> bool:
        """Whether callbacks may write files here: of several workers, only the first."""
        return self._replicas is None or self._replicas.worker == 0

    def collect(self, shuffle, **data) -> FullBatch:
        """The full batch of the data arguments of `fit`. The order of a sum's terms matters to its rounding only."""
        del shuffle
        collected = full_batch.of_fit(self._replicas, self._optimizer.cache, **data)
        if self._replicas is not None:
            keras_hook.build(self._model, full_batch.first_chunk(collected, self._replicas, rows=1))
        return collected

    @contextlib.contextmanager
    def fitting(self, data: FullBatch):
        """Inside, epochs work on `data`; afterwards nothing holds it any more."""
        if self._is_pretraining:
            raise RuntimeError(
                "Expected a pretrain_fn that does not fit the model: it is in the middle of a fit. "
                "Received: a call of fit or train_on_batch. Fit before this fit, or give the chain another stage."
            )
        self._data = data
        self._step = 0
        self._row = None
        self._chain.messages.clear()
        try:
            with contextlib.nullcontext() if self._replicas is None else self._replicas.explained():
                yield
        finally:
            self._data = self._batch = self._awaited = None
            if self._run is not None and self._run.accepted is None:
                self.close()
            elif self._run is not None and not self.has_ended:
                self._optimizer.record(self._run.interrupted("Another fit on the same data goes on from here"))

    def __call__(self, iterator) -> dict:
        if self._data is None:
            with self.fitting(full_batch.of_batches(iterator, self._replicas)):
                return self._guarded_epoch(iterations=1)
        self._step += 1
        return self.epoch() if self._step % self._data.steps == 0 else self._guarded_step()

    def epoch(self) -> dict:
        """Inside `fitting`: one epoch, as logs."""
        return self._guarded_epoch(self._optimizer.iterations_per_epoch)

    def conclude(self, history: keras.callbacks.History) -> list[str]:
        """Takes back the row of an epoch in which the solver ended without an iterate.

        Returns:
            Why the stages that have ended did so.
        """
        if self._row:
            lengths, epochs = self._row
            del history.epoch[epochs:]
            for name, values in history.history.items():
                del values[lengths.get(name, 0) :]
        return list(self._chain.messages)

    def close(self) -> None:
        """Ends the solver and frees what it holds."""
        if self._run is not None:
            self._run.close()
        self._run = None

    def evaluate(self, x: np.ndarray, gradient: bool) -> Evaluation:
        """Answers the solver: f at `x`, and its gradient."""
        awaited, self._awaited = self._awaited, None
        if awaited is None:
            evaluation = self._objective.evaluate(x, self._batch, gradient)
        else:
            awaited.resume()
            evaluation = self._objective.end(awaited, x, self._batch)
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

    def _guarded_step(self):
        """One batch of a stream. The model is then again what it was, whatever a callback does with it."""
        with self._guarded():
            self._begin_epoch()
            self._begin_stage()
            asked = self._run.awaited()
            if asked is not None:
                weights = self._objective.parameters.ravel()
                if self._awaited is None:
                    self._awaited = self._objective.begin(asked.x, self._batch, isinstance(asked, Evaluate))
                else:
                    self._awaited.resume()
                self._awaited.step()
                self._awaited.suspend()
                self._objective.parameters.assign(weights)
            return {} if self._run.accepted is None else self._logs()

    def _guarded_epoch(self, iterations):
        with self._guarded():
            self._begin_epoch()
            moved = 0
            while moved < iterations and not self.has_ended:
                self._begin_stage()
                moved += self._iterate()
                if self._run.result is not None:
                    self._chain.end(self._run.result)
            self._chain.count_epoch(self._run)
            self._optimizer.iterations.assign_add(moved)
            if self.has_ended:
                self._end(moved)
            self._is_new_epoch = True
            return self._logs()

    def _begin_epoch(self):
        if self._batch is None:
            self._prepare()
            self._first = self._is_new_epoch = True
        if self._is_new_epoch and self._must_start():
            if self._first or self.has_ended:
                self._chain = Chain(self._optimizer.stages)
            self._start()
        self._first = self._is_new_epoch = False

    def _begin_stage(self):
        if self._chain.is_between_stages:
            self._chain.next(self._run)
            self._start()

    @contextlib.contextmanager
    def _guarded(self):
        """Inside, an exception leaves the model at the last accepted iterate."""
        try:
            yield
        except BaseException:
            self._abandon()
            raise

    def _prepare(self):
        variables = [id(variable) for variable in self._model.trainable_variables]
        objective = self._objective
        batch_size = self._optimizer.batch_size
        if objective is None or objective.parameters.ids != variables or objective.batch_size != batch_size:
            self.close()
            objective = Objective(self._model, self._optimizer.precision == "float64", batch_size, self._replicas)
        self._batch = objective.prepare(self._data)
        self._objective = objective
        self._state = objective.state.save()

    def _must_start(self):
        if self._run is None and self._optimizer.iterations > 0 and self._optimizer.stages[0].engine == "scipy":
            _log.info(
                "The solver starts afresh from the weights: its memory of the iterations before is gone, since neither "
                "a file nor compile() carries it. LBFGS(engine='tfp') keeps it in its variables."
            )
        if self._run is None or self.has_ended or self._chain.stages is not self._optimizer.stages:
            return True
        if self._chain.is_between_stages and not self._first:
            return False
        parameters = self._objective.parameters
        if not np.array_equal(parameters.ravel(), parameters.round(self._run.accepted.x)):
            _log.info("The weights were changed since the last iteration: the solver starts afresh from them.")
            return True
        if self._first and not self._is_same_objective():
            _log.info("The data or the model were changed since the last fit: the solver starts afresh.")
            return True
        return False

    def _start(self):
        self.close()
        self._awaited = None
        stage = self._chain.stage
        if stage.pretrain_fn is not None:
            self._pretrain(stage.pretrain_fn)
        parameters = self._objective.parameters
        stage.check(parameters)
        if stage.engine == "tfp":
            memory = self._optimizer.memory_for(parameters.size, stage.memory)
            self._run = GraphRun(self._objective, lambda: self._batch, memory, stage.options, **self._resolution(stage))
        else:
            self._run = SolverRun(safeguard(stage.solver(parameters), **self._resolution(stage)), self)

    def _pretrain(self, pretrain_fn):
        """The function may freeze layers, so the objective is made anew; it may not take this fit's own place."""
        model, train_function = self._model, self._model.train_function
        self._state = self._objective = None
        self._is_pretraining = True
        try:
            pretrain_fn(model)
        finally:
            self._is_pretraining = False
        if model.optimizer is not self._optimizer or model.train_function is not train_function:
            raise ValueError(
                "Expected a pretrain_fn that leaves the model compiled as it is: this fit goes on after it. "
                f"Received: {getattr(pretrain_fn, '__name__', pretrain_fn)}, which compiled the model again. "
                "Freezing and unfreezing layers needs no compile here; pretrain with another optimizer before fit."
            )
        self._prepare()

    def _iterate(self):
        run = self._run
        moved = run.iterate()
        if run.position is not run.accepted.x:
            self._objective.parameters.assign(run.accepted.x)
        if moved and run.accepted.averages:
            self._objective.state.assign_averages(run.accepted.averages)
            self._state = self._objective.state.save()
        return moved

    def _end(self, moved):
        self._optimizer.record(self._chain.result)
        self._model.stop_training = True
        history = getattr(self._model, "history", None)
        if not moved and self._run.nit and history is not None:
            self._row = {name: len(values) for name, values in history.history.items()}, len(history.epoch)

    def _is_same_objective(self):
        accepted = self._run.accepted
        again = self._objective.evaluate(accepted.x, self._batch, accepted.jac is not None)
        return again.fun == accepted.fun and (again.jac is None or np.array_equal(again.jac, accepted.jac))

    def _resolution(self, stage):
        dtype = "float64" if self._optimizer.precision == "float64" else precision.compute_dtype(self._model)
        return {"dtype": dtype, "resolution": precision.resolution(dtype) if stage.ends_at_resolution else None}

    def _logs(self):
        run, chain = self._run, self._chain
        logs = {name: np.asarray(value) for name, value in (run.accepted.logs or {}).items()}
        logs["loss"] = run.accepted.fun
        if run.gradient_norm is not None:
            logs["grad"] = run.gradient_norm
        elif any(stage.method.derivatives != "none" for stage in chain.stages):
            logs["grad"] = np.nan
        logs["fg_evals"] = chain.nfev + run.nfev
        logs["hessp_evals"] = chain.nhev + run.nhev
        if len(chain.stages) > 1:
            logs["stage"] = chain.index
        return logs

    def _abandon(self):
        self._awaited = None
        if self._run is not None and self._run.accepted is not None:
            self._objective.parameters.assign(self._run.accepted.x)
            self._optimizer.record(self._run.interrupted("Interrupted by an error; another fit starts afresh"))
        else:
            self._optimizer.record(None)
        if self._state is not None and self._objective is not None:
            self._objective.state.restore(self._state)
        self.close()
