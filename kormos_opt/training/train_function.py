"""One epoch of the stock `fit` loop is one iteration of the solver: starts it, resumes it, stops the fit with it.

The solver stays suspended between epochs and fits. Whatever interrupts an epoch, the model's weights are the last
accepted iterate.
"""

import contextlib
import itertools
import logging
import types
from collections.abc import Callable

import keras
import numpy as np

from kormos_opt.data import full_batch
from kormos_opt.data.full_batch import FullBatch
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import has_rows
from kormos_opt.evaluation import Evaluation
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective import precision
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.objective import Objective, structure_of
from kormos_opt.solvers.base import Evaluate
from kormos_opt.solvers.safeguards import safeguard
from kormos_opt.training import advice
from kormos_opt.training.graph_run import GraphRun
from kormos_opt.training.progress import Chain
from kormos_opt.training.sign_of_life import SignOfLife
from kormos_opt.training.solver_run import SolverRun

COLUMNS = ("grad", "fg_evals", "hessp_evals", "stage")
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
        self._epochs = 0
        self._step = 0
        self._awaited = None
        self._first = self._is_new_epoch = True
        self._is_pretraining = False
        self._has_no_row = False
        self._sign_of_life = None
        self._chain = Chain(())
        self._run = None
        self._anew_at = None
        self._said = set()
        if model.built:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
            self._check_stages()
        self._why_afresh = _FROM_A_FILE if optimizer.has_lost_memory_of(model) else None

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
    def has_no_row(self) -> bool:
        """Whether the solver has ended in this epoch without an iterate: it would repeat the row before."""
        return self._has_no_row

    @property
    def is_fitting(self) -> bool:
        """Whether a fit runs."""
        return self._data is not None

    @property
    def writes_files(self) -> bool:
        """Whether callbacks may write files here: of several workers, only the first."""
        return self._replicas is None or self._replicas.worker == 0

    def collect(self, shuffle, **data) -> FullBatch:
        """The full batch of the data arguments of `fit`. The order of a sum's terms matters to its rounding only."""
        del shuffle
        self._refuse_nested()
        collected = full_batch.of_fit(self._replicas, self._optimizer.cache, **data)
        if self._replicas is not None:
            keras_model.build(self._model, full_batch.first_chunk(collected, self._replicas, rows=1))
        return collected

    @contextlib.contextmanager
    def fitting(self, data: FullBatch, epochs: int = 0, show_rows: Callable[[int], None] | None = None):
        """Inside, epochs work on `data`; afterwards nothing holds it any more.

        Args:
            data: All rows.
            epochs: How many there will be at most. Defaults to `0`: nobody knows.
            show_rows: Called with the rows of an epoch so far, where it takes long. Defaults to `None`.
        """
        self._refuse_nested()
        self._data = data
        self._epochs = epochs
        self._step = 0
        self._first = self._is_new_epoch = True
        self._has_no_row = False
        self._anew_at = None
        self._said.discard("anew")
        self._chain.messages.clear()
        try:
            with contextlib.ExitStack() as stack:
                if self._replicas is not None:
                    stack.enter_context(self._replicas.explained())
                if show_rows is not None:
                    self._sign_of_life = stack.enter_context(SignOfLife(show_rows, self._rows_done))
                yield
        finally:
            self._data = self._batch = self._sign_of_life = None
            self._forget_awaited()
            if self._run is not None and self._run.accepted is None:
                self.close()
            elif self._run is not None and not self.has_ended:
                self._optimizer.record(self._run.interrupted(_GOES_ON))

    def __call__(self, iterator) -> dict:
        if self._data is None:
            return self._on_batch(iterator)
        if isinstance(iterator, types.GeneratorType):
            self._refuse_nested()
        self._step += 1
        return self.epoch() if self._step % self._data.steps == 0 else self._guarded_step()

    def epoch(self) -> dict:
        """Inside `fitting`: one epoch, as logs."""
        return self._guarded_epoch(self._optimizer.iterations_per_epoch)

    def messages(self) -> list[str]:
        """Why the stages that have ended did so, and where the solver stands that has not."""
        suspended = self._run is not None and not self.has_ended
        return self._chain.messages + ([self._optimizer.result.message] if suspended else [])

    def renew(self) -> None:
        """Makes the objective anew at the next step, of the model as it is then, and starts the solver afresh."""
        self.close()
        self._forget_awaited()
        self._objective = self._batch = None
        self._is_new_epoch = True
        self._why_afresh = "The train function was made anew: the solver starts afresh from the weights."

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

    def check_start(self, evaluation: Evaluation) -> None:
        """Answers the solver: raises `ValueError` if a run cannot start from this evaluation."""
        self._objective.check_start(evaluation, self._batch)

    def _refuse_nested(self):
        if self._is_pretraining:
            raise RuntimeError(
                "Expected a pretrain_fn that does not fit the model: it is in the middle of a fit. "
                "Received: a call of fit or train_on_batch. Fit before this fit, or give the chain another stage."
            )
        if self.is_fitting:
            raise RuntimeError(
                "Expected callbacks that do not train the model: its solver is in the middle of a fit. "
                "Received: a call of fit or train_on_batch. Call it after this fit, which then goes on with "
                "another fit(), or change the weights with set_weights."
            )

    def _on_batch(self, iterator):
        """One iteration on the batch of `train_on_batch`, with the logs that Keras would return."""
        batch = next(iterator)
        if not has_rows(batch):
            raise RuntimeError(
                "Expected a model that stays compiled as it is during a fit. Received: a call of compile in the middle "
                "of one, by a callback. Compile before fit, or use model.make_train_function(force=True) alone."
            )
        with self.fitting(full_batch.of_batches(itertools.chain([batch], iterator), self._replicas)):
            logs = self._guarded_epoch(iterations=1)
        return {name: value for name, value in logs.items() if name not in COLUMNS}

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
                if self._run.result is not None and not self._goes_on_elsewhere():
                    self._chain.end(self._run.result)
            self._chain.count_epoch(self._run)
            self._optimizer.iterations.assign_add(moved)
            if self.has_ended:
                self._optimizer.record(self._chain.result)
                self._model.stop_training = True
                self._has_no_row = not moved and self._run.nit > 0
            self._is_new_epoch = True
            self._objective.outside.remember()  # a train step may count its calls in a variable of its own
            return self._logs()

    def _begin_epoch(self):
        if self._batch is None:
            self._prepare()
        if not self._is_new_epoch:
            return
        if self._must_start():
            begins = self._first or self.has_ended
            if begins:
                self._chain = Chain(self._optimizer.stages)
            self._start(pretrain=begins)
        elif not self._first:
            self._notice_changes()
        self._first = self._is_new_epoch = False

    def _begin_stage(self):
        if self._chain.is_between_stages:
            self._chain.next(self._run)
            self._start(pretrain=True)

    @contextlib.contextmanager
    def _guarded(self):
        """Inside, an exception leaves the model at the last accepted iterate."""
        try:
            with contextlib.nullcontext() if self._sign_of_life is None else self._sign_of_life.epoch():
                yield
        except BaseException as error:
            self._abandon(is_interrupt=isinstance(error, KeyboardInterrupt))
            raise

    def _prepare(self):
        variables = [id(variable) for variable in self._model.trainable_variables]
        structure = structure_of(full_batch.first_chunk(self._data, self._replicas, rows=1))
        objective, batch_size = self._objective, self._optimizer.batch_size
        usable = objective is not None and objective.parameters.ids == variables and objective.structure == structure
        if not usable or objective.batch_size != batch_size:
            self.close()
            objective = Objective(self._model, self._optimizer.precision == "float64", batch_size, self._replicas)
        self._batch = objective.prepare(self._data)
        self._objective = objective
        self._state = objective.state.save()
        objective.outside.remember()
        self._check_columns()
        self._advise()

    def _check_columns(self):
        clash = self._objective.log_names.intersection(COLUMNS)
        clash |= {"loss"}.intersection(keras_model.names_of_compiled_metrics(self._model))
        if clash:
            raise ValueError(
                f"Expected metrics of other names than loss, {', '.join(COLUMNS)}, the columns of the solver in the "
                "history. "
                f"Received: a metric named {', '.join(sorted(clash))}. Give it another name=."
            )

    def _advise(self):
        iterations = int(self._optimizer.iterations.numpy()) + self._epochs * self._optimizer.iterations_per_epoch
        self._say("dropout", advice.on_dropout(self._model))
        self._say("averages", advice.on_batch_normalization(self._model, iterations) if self._epochs else None)

    def _say(self, what, message):
        """A warning, once for each `what`."""
        if message is not None and what not in self._said:
            self._said.add(what)
            _log.warning(message)

    def _must_start(self):
        """Whether the solver has to start afresh. The log says why, unless it is the first time or it had ended."""
        if self._run is None:
            reason, self._why_afresh = self._why_afresh, None
        elif self.has_ended or self._chain.stages is not self._optimizer.stages:
            reason = None
        elif self._chain.is_between_stages and not self._first:
            return False
        else:
            reason = self._what_changed()
            if reason is None:
                return False
        if reason is not None:
            _log.warning(reason)
        return True

    def _what_changed(self):
        parameters = self._objective.parameters
        if not np.array_equal(parameters.ravel(), parameters.round(self._run.accepted.x)):
            return "The weights were changed since the last iteration: the solver starts afresh from them."
        if self._first and not self._is_same_objective():
            return "The data or the model were changed since the last fit: the solver starts afresh."
        return None

    def _notice_changes(self):
        """A callback may have assigned what f reads beside the weights."""
        self._objective.state.put_seeds_back(self._state)
        changed = self._objective.outside.changed()
        if changed:
            self._objective.outside.remember()
            self._state = self._objective.state.save()
            self._take_anew(", ".join(changed), self._evaluate_again())

    def _take_anew(self, changed, evaluation):
        """f is another function from here on: the solver goes on from its new value and gradient."""
        run = self._run
        self.check_start(evaluation)
        keeps = run.takes_anew(evaluation)
        if not keeps:
            self._start(pretrain=False, start=evaluation)
        what_next = "keeps its memory" if keeps else "starts afresh"
        self._say("anew", _ANEW.format(changed, self._chain.stage.name, what_next))

    def _goes_on_elsewhere(self):
        """Before an end is reported: whether f has changed where nobody could see it. Then the end is none."""
        run, outside = self._run, self._objective.outside
        if not outside.may_change_unseen:
            return False
        fun, again = run.accepted.fun, self._evaluate_again()
        if abs(again.fun - fun) <= 10 * self._resolution_of_f() * abs(fun):
            return False
        if self._anew_at == run.nit:
            run.result.update(success=False, status=4, message=_NOT_A_FUNCTION.format(fun, again.fun))
            return False
        self._anew_at = run.nit
        self._take_anew("a Python value that it reads", again)
        return True

    def _evaluate_again(self):
        accepted = self._run.accepted
        return self._objective.evaluate(accepted.x, self._batch, accepted.jac is not None)

    def _start(self, pretrain, start=None):
        before = None if start is None else self._run
        self.close()
        self._forget_awaited()
        stage = self._chain.stage
        if pretrain and stage.pretrain_fn is not None:
            self._pretrain(stage.pretrain_fn)
        parameters = self._objective.parameters
        stage.check(parameters)
        if stage.engine == "tfp":
            memory = self._optimizer.memory_for(self._model, parameters.size, stage.memory)
            self._run = GraphRun(self._objective, lambda: self._batch, memory, stage.options, **self._resolution(stage))
        else:
            solver = stage.solver(parameters, parameters.ravel() if start is None else start.x)
            self._run = SolverRun(safeguard(solver, **self._resolution(stage)), self, start, before)

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
        starts = run.accepted is None
        moved = run.iterate()
        if run.position is not run.accepted.x:
            self._objective.parameters.assign(run.accepted.x)
        advances = moved and bool(run.accepted.averages)
        if advances:
            self._objective.state.assign_averages(run.accepted.averages)
        if advances or starts:  # a run that goes on from a file brings its seeds
            self._state = self._objective.state.save()
        return moved

    def _is_same_objective(self):
        accepted, again = self._run.accepted, self._evaluate_again()
        return again.fun == accepted.fun and (again.jac is None or np.array_equal(again.jac, accepted.jac))

    def _dtype(self):
        return "float64" if self._optimizer.precision == "float64" else precision.compute_dtype(self._model)

    def _resolution_of_f(self):
        return precision.resolution(self._dtype())

    def _resolution(self, stage):
        return {"dtype": self._dtype(), "resolution": self._resolution_of_f() if stage.ends_at_resolution else None}

    def _rows_done(self):
        return 0 if self._objective is None else int(self._objective.rows_done.numpy())

    def _logs(self):
        run, chain = self._run, self._chain
        logs = keras.tree.map_structure(np.asarray, run.accepted.logs or {})
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

    def _forget_awaited(self):
        if self._awaited is not None:
            self._awaited.close()
        self._awaited = None

    def _abandon(self, is_interrupt):
        """Puts the model back to the last accepted iterate. After Ctrl-C the run stays suspended where it can."""
        self._forget_awaited()
        run = self._run
        survives = is_interrupt and run is not None and run.survives_interrupt()
        if run is not None and run.accepted is not None:
            self._objective.parameters.assign(run.accepted.x)
            how = () if survives else ("Interrupted by an error",)
            self._optimizer.record(run.interrupted(_GOES_ON if survives else _AFRESH, *how))
            self._why_afresh = None if survives else _AFTER_AN_ERROR
        else:
            self._optimizer.record(None)
        if self._state is not None and self._objective is not None:
            self._objective.state.restore(self._state)
        self._is_new_epoch = True
        if not survives:
            self.close()


_GOES_ON = "fit goes on from here"
_AFRESH = "another fit starts afresh"
_FROM_A_FILE = (
    "The solver starts afresh from the weights: its memory of the iterations before is gone, since neither "
    "a file nor compile() carries it. LBFGS(engine='tfp') keeps it in its variables."
)
_AFTER_AN_ERROR = "The last fit ended with an error: the solver starts afresh from the weights."
_ANEW = (
    "The objective was changed in the middle of the fit ({}). The loss and its gradient are taken anew at the weights "
    "as they are; {} {} there. Further changes in this fit are not reported."
)
_NOT_A_FUNCTION = (
    "Stopped: the loss at the same weights was {:.6g} and is {:.6g} now. A solver needs a loss that is a function of "
    "the weights: leave out random numbers and Python values that change"
)
