"""What Keras calls from one `compile` to the next: once for each batch or epoch of a fit, and by `train_on_batch`."""

import contextlib
import functools
import itertools
import logging
import types
from collections.abc import Callable

import keras
import numpy as np

from kormos_opt.data import collect, full_batch
from kormos_opt.data.full_batch import FullBatch
from kormos_opt.data.replicas import Replicas
from kormos_opt.data.rows import has_rows
from kormos_opt.data.stream import fingerprint
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective.build import bind, build
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.objective import Objective, ObjectiveSettings
from kormos_opt.training.columns import COLUMNS
from kormos_opt.training.fit import AFTER_AN_ERROR, GOES_ON, Fit
from kormos_opt.training.progress import Progress
from kormos_opt.training.progress_heartbeat import ProgressHeartbeat
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.start import start_run
from kormos_opt.training.session import Session

_log = logging.getLogger("kormos_opt")


class TrainFunction:
    """What `Model.fit` calls once an epoch, and `Model.train_on_batch` with an iterator over one batch.

    The solver stays suspended between epochs and fits.

    Args:
        model: The model to train.
        optimizer: The `BatchOptimizer` it is compiled with: settings and the stages of the fit.

    Attributes:
        logs_of_epoch: The logs of the last epoch, `None` before the first.
    """

    logs_of_epoch: dict | None = None

    def __init__(self, model: keras.Model, optimizer):
        self._model = model
        self._optimizer = optimizer
        self._replicas = Replicas.of(model)
        self._objective: Objective | None = None  # of the last fit, for the next
        self._session: Session | None = None  # while a fit runs
        self._said: set[str] = set()
        if model.built:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
            self._check_stages()
        lost = optimizer.has_lost_state()
        self._progress = Progress(RestartReason.FROM_A_FILE if lost else RestartReason.FIRST)

    def _check_stages(self):
        """Checks the stages before the first `pretrain_fn`, which may freeze variables."""
        parameters = FlatParameters(self._model.trainable_variables)
        for stage in self._optimizer.stages:
            if stage.pretrain_fn is not None:
                break
            stage.check(parameters)

    @property
    def has_ended(self) -> bool:
        """Whether the last stage has ended."""
        return self._progress.has_ended

    @property
    def has_no_row(self) -> bool:
        """Whether the solver has ended in this epoch without an iterate: it would repeat the row before."""
        return self._session is not None and self._session.is_begun and self._session.fit.has_no_row

    @property
    def is_fitting(self) -> bool:
        """Whether a fit runs."""
        return self._session is not None

    @property
    def writes_files(self) -> bool:
        """Whether callbacks may write files here: of several workers, only the first."""
        return self._replicas is None or self._replicas.worker == 0

    def collect(self, shuffle, **data) -> FullBatch:
        """The full batch of the data arguments of `fit`. The order of a sum's terms matters to its rounding only."""
        del shuffle
        self._refuse_nested()
        collected = collect.of_fit(self._replicas, self._optimizer.cache, **data)
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
        self._said.discard("anew")
        progress = self._progress
        progress.messages.clear()
        make_fit = functools.partial(
            Fit, self._model, self._optimizer, self._bind, self._begin, progress, epochs, self._warn
        )
        try:
            with contextlib.ExitStack() as stack:
                if self._replicas is not None:
                    stack.enter_context(self._replicas.explained())
                heartbeat = contextlib.nullcontext
                if show_rows is not None:
                    heartbeat = stack.enter_context(ProgressHeartbeat(show_rows, self._rows_done)).epoch
                self._session = Session(data, make_fit, heartbeat)
                yield
        finally:
            self._session = None
            if progress.run is not None and progress.run.accepted is None:
                progress.close()
            elif progress.is_suspended and self._model.stop_training:
                self._optimizer.record(progress.run.interrupted(GOES_ON, "A callback has ended the fit"))
            elif progress.is_suspended:
                self._optimizer.record(progress.run.interrupted(GOES_ON))
            if progress.run is not None:
                progress.run.detach()

    def __call__(self, iterator) -> dict:
        if self._session is None:
            return self._on_batch(iterator)
        if isinstance(iterator, types.GeneratorType):
            self._refuse_nested()
        return self.epoch()

    def epoch(self) -> dict:
        """Inside `fitting`: one epoch, as logs."""
        with self._guarded() as fit:
            self.logs_of_epoch = fit.epoch(self._optimizer.iterations_per_epoch)
        return self.logs_of_epoch

    def messages(self) -> list[str]:
        """Why the stages that have ended did so, and where the solver stands that has not."""
        return self._progress.messages + ([self._optimizer.result.message] if self._progress.is_suspended else [])

    @property
    def rows(self) -> int:
        """The rows of the fit that runs, in all processes."""
        rows = self._session.data.rows
        return rows if self._replicas is None else self._replicas.sum_of_rows(rows)

    def fingerprint(self) -> int:
        """A number that tells the data of the fit that runs from other data."""
        return fingerprint(full_batch.batches_of(self._session.data, self._replicas), self._replicas)

    def stands_where_it_was(self) -> bool:
        """Whether the weights are those of the last iterate, as far as this process knows of one."""
        run = self._progress.run
        if run is None or run.accepted is None or self._objective is None or run.is_superseded:
            return True
        parameters = self._objective.parameters
        return np.array_equal(parameters.ravel(), parameters.round(run.accepted.x))

    def begin_with(self, *arrays) -> None:
        """Before the first step of a fit: takes these arrays for its data, x, y and sample_weight or less."""
        self._session.data = self._collect_arrays(*arrays)

    def go_on_with(self, *arrays) -> None:
        """Between two epochs: the fit goes on with these arrays for its data, x, y and sample_weight or less."""
        data = self._collect_arrays(*arrays)
        with self._guarded() as fit:
            fit.change_data(functools.partial(setattr, self._session, "data", data))

    def _collect_arrays(self, x, y=None, sample_weight=None):
        if full_batch.is_stream(self._session.data):
            raise ValueError(
                "Expected a fit on data in memory: new data can replace it then. Received: data that is streamed. "
                "Give fit arrays, or the optimizer cache=True."
            )
        settings = {"class_weight": None, "batch_size": None, "steps_per_epoch": None}
        return collect.of_fit(self._replicas, True, x, y, sample_weight, **settings)

    def rebuild(self) -> None:
        """Makes the objective anew at the next step, of the model as it is then, and starts the solver afresh."""
        self._progress.close(RestartReason.MADE_ANEW)
        self._objective = None
        self._session.rebuild()

    def follow(self, other: "TrainFunction") -> None:
        """Takes over what another stage of the same fit has traced and said."""
        self._objective, self._said = other._objective, other._said

    def end(self) -> None:
        """The solver shall not go on: the epochs of its stage are over."""
        self._progress.end_stage(self._progress.run.interrupted("the epochs of this stage are over"))
        self._optimizer.record(self._progress.result)

    def close(self) -> None:
        """Ends the solver and frees what it holds."""
        self._progress.close()

    @contextlib.contextmanager
    def _guarded(self):
        """Inside, an exception leaves the model at the last accepted iterate."""
        session, progress = self._session, self._progress
        with session.heartbeat():
            try:
                fit = session.fit
            except BaseException:
                run = progress.run
                self._optimizer.record(None if run is None else run.interrupted(*AFTER_AN_ERROR))
                progress.close_after_error()
                raise
            try:
                yield fit
            except BaseException as error:
                fit.abandon(is_interrupt=isinstance(error, KeyboardInterrupt))
                raise

    def _bind(self):
        """The objective of the model as it is now, with the data of the fit that runs."""
        data = self._session.data
        settings = ObjectiveSettings.of(self._optimizer, self._progress.is_in_float64)
        if self._objective is None or not self._objective.suits(self._model, settings, data):
            self._progress.close(self._progress.reason)
            self._objective = None
            self._objective = build(self._model, settings, data, self._replicas)
        return bind(self._objective, data)

    def _begin(self, stage, oracle, evaluation, before):
        return start_run(stage, self._model, self._optimizer, oracle, self._warn, evaluation, before)

    def _warn(self, topic, message):
        said = {topic} if topic == "anew" else {topic, message}  # which is said again in another fit
        if message is not None and not said & self._said:
            self._said |= said
            _log.warning(message)

    def _rows_done(self):
        return 0 if self._objective is None else int(self._objective.rows_done.numpy())

    def _refuse_nested(self):
        if self._session is None:
            return
        if self._session.is_begun and self._session.fit.is_pretraining:
            raise RuntimeError(
                "Expected a pretrain_fn that does not fit the model: it is in the middle of a fit. "
                "Received: a call of fit or train_on_batch. Fit before this fit, or give the chain another stage."
            )
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
        data = collect.of_batches(itertools.chain([batch], iterator), self._replicas)
        with self.fitting(data), self._guarded() as fit:
            logs = fit.epoch(iterations=1)
        return {name: value for name, value in logs.items() if name not in COLUMNS}
