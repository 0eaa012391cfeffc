"""A `Fit` on a function of numpy with scripted solvers: epochs, stages, resuming, endings, errors."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import kormos_opt
from kormos_opt.solvers.registry import NumpyMethod
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.stages.stage import SolverStage
from kormos_opt.training.fit import Fit
from kormos_opt.training.progress import Progress, restart_reason
from kormos_opt.training.runs.host_optimizer import HostOptimizer
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.start import start_run
from tests.support.doubles import NumpyObjective, Script, parabola

pytestmark = pytest.mark.quick


class Optimizer:
    """What a fit asks of its optimizer."""

    iterations_per_epoch = 1
    loaded_state = None
    precision, polish, x_scale = "model", False, None

    def __init__(self, *stages):
        self.stages = stages
        self.iterations = keras.Variable(0, dtype="int64")
        self.result = None

    def has_starts(self):
        return False

    def evaluations_of_starts(self):
        return 0, 0

    def record(self, result):
        self.result = result

    def loads_float64(self):
        return False

    def take_loaded_state(self):
        return None

    def variables_for(self, model, specs, dtype):
        raise NotImplementedError("no solver in the graph")

    def watch(self, run):
        """Files are none of its business."""


@pytest.mark.parametrize("optimizer", [Optimizer(), kormos_opt.LBFGS(), kormos_opt.MultiStart("l-bfgs-b")])
def test_the_double_has_what_a_fit_asks_for(optimizer):
    """And no more, so that it stands for the optimizer itself."""
    assert isinstance(optimizer, HostOptimizer)
    asked = set(HostOptimizer.__annotations__) | {name for name in vars(HostOptimizer) if not name.startswith("_")}
    own = {name for name in dir(optimizer) if not name.startswith("_")}
    assert asked <= own
    assert type(optimizer) is not Optimizer or own - {"result"} <= asked


def stage(solver, epochs=None, pretrain_fn=None, derivatives="gradient", **row):
    method = NumpyMethod("scripted", derivatives, solver, options={}, **row)
    return SolverStage(method, epochs, pretrain_fn, {}, None, None, [])


class Fitted:
    """A fit with its surroundings. `again` begins another one on the same progress."""

    def __init__(self, *stages, x0=(4.0,), fun=parabola, progress=None):
        self.objective = NumpyObjective(fun, x0)
        self.optimizer = Optimizer(*stages)
        self.model = keras.Sequential([keras.Input((1,))])
        self.model.optimizer = self.optimizer
        self.model.compile_metrics = None
        self.progress = progress or Progress()
        self.warnings = []
        self.again()

    def again(self):
        arguments = self.model, self.optimizer, lambda: self.objective, self._begin, self.progress, 10
        self.fit = Fit(*arguments, lambda topic, message: self.warnings.append(message) if message else None)
        return self

    def _begin(self, stage, oracle, evaluation, before):
        return start_run(stage, self.model, self.optimizer, oracle, self.warn, evaluation, before)

    def warn(self, topic, message):
        self.warnings.append(message)

    def epochs(self, count):
        return [self.fit.epoch(1)["loss"] for _ in range(count)]

    @property
    def x(self):
        return self.objective.parameters.ravel().tolist()


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch):
    monkeypatch.setattr("kormos_opt.keras_internals.model.names_of_compiled_metrics", lambda model: [])
    monkeypatch.setattr("kormos_opt.training.verdict.variant_of", lambda objective, **settings: objective)


STEPS = ([3.0],), [2.5], ([2.0],), ([1.0],), ([0.5],)


def test_an_epoch_is_an_iterate_with_its_logs():
    made = Fitted(stage(Script(*STEPS)))
    logs = made.fit.epoch(1)
    assert logs == {"loss": 4.5, "grad": 3.0, "fg_evals": 2, "hessp_evals": 0}
    assert made.x == [3.0]
    assert made.fit.epoch(1)["fg_evals"] == 4
    assert int(made.optimizer.iterations) == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_only_where_f_is_in_float32_double_precision_is_recommended(dtype):
    made = Fitted(stage(Script(([3.0],), ending=TerminationReason.NO_BETTER_POINT)))
    made.objective.objective.dtype = dtype
    made.fit.epoch(2)
    assert made.optimizer.result.ending is TerminationReason.NO_BETTER_POINT
    assert ('precision="float64"' in made.optimizer.result.message) == (dtype == "float32")


def test_several_iterations_an_epoch():
    made = Fitted(stage(Script(*STEPS)))
    assert made.fit.epoch(3)["loss"] == 0.5
    assert int(made.optimizer.iterations) == 3


def test_the_end_stops_the_fit_and_is_recorded():
    made = Fitted(stage(Script(([3.0],))))
    made.model.stop_training = False
    made.fit.epoch(1)
    assert made.model.stop_training
    assert made.optimizer.result.ending is TerminationReason.ALL_FIXED
    assert made.progress.messages == [made.optimizer.result.message]
    assert not made.fit.has_no_row


def test_an_end_without_an_iterate_has_no_row():
    made = Fitted(stage(Script(([3.0],), [9.0], ending=TerminationReason.NO_BETTER_POINT)))
    made.fit.epoch(1)
    made.fit.epoch(1)
    assert made.fit.has_no_row
    assert made.x == [3.0]


@pytest.mark.parametrize("pieces", [(2, 2), (1, 3), (1, 1, 2)])
def test_stop_and_resume_is_never_stopped(pieces):
    whole, cut = Fitted(stage(Script(*STEPS))), Fitted(stage(Script(*STEPS)))
    expected = whole.epochs(4)
    seen = []
    for piece in pieces:
        seen += cut.again().epochs(piece)
    assert seen == expected
    assert cut.optimizer.result.nfev == whole.optimizer.result.nfev
    assert cut.warnings == []


def test_other_weights_start_afresh():
    made = Fitted(stage(Script(*STEPS)))
    made.epochs(2)
    made.objective.parameters.assign(np.array([8.0]))
    assert made.again().fit.epoch(1)["fg_evals"] == 2
    assert made.warnings == [RestartReason.OTHER_WEIGHTS.message]


def test_another_objective_starts_afresh():
    made = Fitted(stage(Script(*STEPS)))
    made.epochs(2)
    made.objective._fun = lambda x: (parabola(x)[0] + 1, parabola(x)[1])
    made.again().epochs(1)
    assert made.warnings == [RestartReason.OTHER_OBJECTIVE.message]


def test_a_change_in_the_middle_is_noticed_and_the_counts_go_on():
    made = Fitted(stage(Script(*STEPS)))
    made.epochs(2)
    made.objective._fun = lambda x: (parabola(x)[0] + 1, parabola(x)[1])
    made.objective.names = ["weight"]
    logs = made.fit.epoch(1)
    assert logs["fg_evals"] == 4 + 2
    assert "The objective was changed in the middle of the fit (weight)" in made.warnings[0]


def test_stages_follow_each_other():
    seen = []
    made = Fitted(
        stage(Script(*STEPS), epochs=2),
        stage(Script(([1.5],)), pretrain_fn=lambda model: seen.append(made.x)),
    )
    made.model.train_function = None
    logs = [made.fit.epoch(1) for _ in range(3)]
    assert [row["stage"] for row in logs] == [0, 0, 1]
    assert [row["loss"] for row in logs] == [4.5, 2.0, 1.125]
    assert logs[-1]["fg_evals"] == 4 + 2
    assert seen == [[2.0]]
    first, last = made.progress.messages
    assert first.startswith("Stage 0 (scripted): Not converged after 2 iterations")
    assert last.startswith("Stage 1 (scripted): Converged")


def test_the_first_end_starts_the_next_stage_in_the_same_epoch():
    made = Fitted(stage(Script(([3.0],))), stage(Script(([1.0],))))
    assert made.fit.epoch(2)["loss"] == 0.5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_last_accepted_iterate(error):
    def failing(x):
        if x[0] == 2.5 and left:
            raise left.pop()
        return parabola(x)

    left = [error("boom")]
    made = Fitted(stage(Script(*STEPS)), fun=failing)
    made.epochs(1)
    with pytest.raises(error):
        made.fit.epoch(1)
    made.fit.abandon(is_interrupt=error is KeyboardInterrupt)
    assert made.x == [3.0]
    made.again().epochs(1)
    if error is KeyboardInterrupt:
        assert made.x == [2.0]
        assert made.warnings == []
    else:
        assert made.warnings == [RestartReason.AFTER_AN_ERROR.message]


def test_a_fit_after_the_end_starts_at_the_first_stage():
    made = Fitted(stage(Script(([3.0],))), stage(Script(([1.0],))))
    made.epochs(2)
    made.again().epochs(1)
    assert made.progress.index == 0
    assert made.warnings == []


STAGES = (stage(Script()),)


def suspended(**changes):
    """A progress in the middle of its only stage."""
    progress = Progress()
    progress.begin(STAGES)
    progress.run = SimpleNamespace(result=None, is_superseded=False)
    for name, value in changes.items():
        setattr(progress, name, value)
    return progress


@pytest.mark.parametrize(
    ("progress", "first", "same_weights", "same_objective", "reason"),
    [
        (Progress(), True, True, True, RestartReason.FIRST),
        (Progress(RestartReason.FROM_A_FILE), True, True, True, RestartReason.FROM_A_FILE),
        (suspended(), True, True, True, None),
        (suspended(), False, True, True, None),
        (suspended(), True, False, True, RestartReason.OTHER_WEIGHTS),
        (suspended(), False, False, True, RestartReason.OTHER_WEIGHTS),
        (suspended(), True, True, False, RestartReason.OTHER_OBJECTIVE),
        (suspended(), False, True, False, None),
        (suspended(stages=(stage(Script()),)), True, True, True, RestartReason.OTHER_PLAN),
        (suspended(_stage_has_ended=True), True, True, True, RestartReason.ENDED),
        (suspended(run=None, reason=RestartReason.MADE_ANEW), False, True, True, RestartReason.MADE_ANEW),
    ],
)
def test_why_a_solver_starts_afresh(progress, first, same_weights, same_objective, reason):
    assert restart_reason(progress, STAGES, first, lambda: same_weights, lambda: same_objective) is reason
