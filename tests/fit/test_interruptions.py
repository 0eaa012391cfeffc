"""Whatever ends a fit, the weights are the last accepted iterate and nothing is left behind."""

import dataclasses
import gc
import signal
import threading
import traceback
import warnings
import weakref

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
import threadpoolctl

import kormos_opt
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.optimizers import LBFGS, ScipyBatchOptimizer
from kormos_opt.solvers import registry
from kormos_opt.solvers.one_blas_thread import OneBlasThread, one_blas_thread
from kormos_opt.training.runs.solver_run import SolverRun
from tests.support.helpers import assert_weights
from tests.support.problems import compiled, linear, network, regression


def solver_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kormos_opt")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert solver_threads() == []


class Accepted(keras.callbacks.Callback):
    """Keeps the weights of the last epoch that ended."""

    def on_epoch_end(self, epoch, logs=None):
        self.weights = self.model.get_weights()


class BoomError(Exception):
    pass


def boom(*_, **__):
    raise BoomError


HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_train_end",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_exception_in_a_callback(hook):
    x, y = regression()
    model, accepted = compiled(network()), Accepted()
    model.fit(x, y, epochs=2, callbacks=[accepted], verbose=0)
    raising = keras.callbacks.LambdaCallback(**{hook: boom})
    with pytest.raises(BoomError):
        model.fit(x, y, epochs=1, callbacks=[raising], verbose=0)
    if hook.endswith("begin"):
        assert_weights(model, accepted.weights)
    loss = model.evaluate(x, y, verbose=0)
    history = model.fit(x, y, epochs=3, verbose=0).history
    assert history["loss"][-1] < loss


def fail_at(monkeypatch, number, error):
    """Raises `error` after so many evaluations."""
    evaluate, left = BoundObjective.evaluate, [number]

    def failing(self, *arguments):
        evaluation = evaluate(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise error
        return evaluation

    monkeypatch.setattr(BoundObjective, "evaluate", failing)


@pytest.mark.parametrize("error", [BoomError, MemoryError])
def test_error_in_the_middle_of_a_line_search(error, monkeypatch, caplog):
    x, y = regression()
    model, accepted = compiled(network()), Accepted()
    fail_at(monkeypatch, 4, error)
    with pytest.raises(error) as raised:
        model.fit(x, y, epochs=9, callbacks=[accepted], verbose=0)
    assert "failing" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert_weights(model, accepted.weights)
    assert solver_threads() == []
    monkeypatch.undo()
    assert model.fit(x, y, epochs=2, verbose=0).history["fg_evals"][0] <= 3
    assert caplog.messages == ["The last fit ended with an error: the solver starts afresh from the weights."]


@pytest.mark.parametrize("name", ["L-BFGS-B", "Newton-CG", "Nelder-Mead"])
def test_ctrl_c_in_an_evaluation_is_no_error(name, monkeypatch, caplog):
    """The run stays suspended: the rows before and after are those of a fit that was never interrupted."""
    x, y = regression()
    model = compiled(network(), ScipyBatchOptimizer(method=name))
    start = model.get_weights()
    expected = model.fit(x, y, epochs=8, verbose=0).history
    for number in range(2, 9):
        model.set_weights(start)
        model.train_function.close()
        fit_with_ctrl_c(model, x, y, number, expected, monkeypatch)
        assert caplog.messages == []


def fit_with_ctrl_c(cut, x, y, number, expected, monkeypatch):
    """Ctrl-C after so many evaluations, and another fit."""
    fail_at(monkeypatch, number, KeyboardInterrupt)
    accepted = Accepted()
    with pytest.raises(KeyboardInterrupt):
        cut.fit(x, y, epochs=8, callbacks=[accepted], verbose=0)
    monkeypatch.undo()
    if hasattr(accepted, "weights"):
        assert_weights(cut, accepted.weights)
    assert cut.optimizer.result.message.endswith("fit goes on from here.")
    rows = cut.history.history
    more = cut.fit(x, y, epochs=8, initial_epoch=len(rows.get("loss", [])), verbose=0).history
    for column in expected:
        assert rows.get(column, []) + more[column] == expected[column]


def test_ctrl_c_inside_the_solver_starts_afresh_and_says_so(monkeypatch, caplog):
    x, y = regression()
    model, accepted = compiled(network()), Accepted()
    send, left = SolverRun._send, [5]

    def failing(self, answer):
        left[0] -= 1
        if left[0] == 0:
            self._solver.close()
            raise KeyboardInterrupt
        send(self, answer)

    monkeypatch.setattr(SolverRun, "_send", failing)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=9, callbacks=[accepted], verbose=0)
    assert_weights(model, accepted.weights)
    monkeypatch.undo()
    assert model.fit(x, y, epochs=2, verbose=0).history["fg_evals"][0] <= 3
    assert "starts afresh" in caplog.text


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_between_two_iterations(interruptible):
    """SIGINT arrives while the solver is suspended."""
    x, y = regression()
    model, accepted = compiled(network()), Accepted()

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if hasattr(accepted, "weights"):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=9, callbacks=[accepted, Interrupt()], verbose=0)
    assert_weights(model, accepted.weights)
    assert len(model.fit(x, y, epochs=2, verbose=0).history["loss"]) == 2


def test_error_inside_scipy(monkeypatch):
    x, y = regression()
    model = compiled(network(), kormos_opt.BFGS())
    weights = model.get_weights()

    def broken(*_, **__):
        raise BoomError("inside scipy")

    monkeypatch.setattr("scipy.optimize.minimize", broken)
    with pytest.raises(BoomError, match="inside scipy") as raised:
        model.fit(x, y, epochs=2, verbose=0)
    assert "broken" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert_weights(model, weights)
    monkeypatch.undo()
    assert len(model.fit(x, y, epochs=2, verbose=0).history["loss"]) == 2


def log_of_weights(limit):
    """A loss that is NaN where the kernel's first entry exceeds `limit`, and so is its gradient."""

    def loss(y, y_pred):
        return keras.ops.mean((y - y_pred) ** 2) + 0 * keras.ops.sum(keras.ops.log(limit - y_pred))

    return loss


def test_nan_at_a_trial_point_is_backed_off_from(float64):
    """The first step of length one overshoots into the region where the logarithm is NaN."""
    x = np.ones((1, 1))
    model = compiled(linear(1, kernel_initializer="zeros", use_bias=False), loss=log_of_weights(1.5))
    history = model.fit(x, x * 1.4, epochs=30, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_allclose(model.get_weights()[0], 1.4, atol=1e-4)


def test_nan_everywhere_but_here_keeps_the_weights(float64):
    x = np.ones((1, 1))
    model = compiled(
        linear(1, kernel_initializer="zeros", use_bias=False),
        loss=lambda y, y_pred: keras.ops.mean((y - y_pred) ** 2) + 0 / keras.ops.cast(y_pred == 0, "float64"),
    )
    model.fit(x, x, epochs=3, verbose=0)
    assert not model.optimizer.result.success
    np.testing.assert_array_equal(model.get_weights()[0], 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_initial_loss_is_an_error(value):
    x, y = regression()
    y[3] = value
    model = compiled(network())
    weights = model.get_weights()
    with pytest.raises(ValueError, match="finite loss at the starting point"):
        model.fit(x, y, epochs=3, verbose=0)
    assert_weights(model, weights)


def test_infinite_gradient_at_the_start_is_an_error():
    x = np.ones((2, 1), "float32")
    model = compiled(
        linear(1, kernel_initializer="zeros", use_bias=False), loss=lambda y, y_pred: keras.ops.sqrt(y_pred)
    )
    with pytest.raises(ValueError, match="finite gradient at the starting point"):
        model.fit(x, x, verbose=0)


def test_no_thread_or_memory_leaks_over_200_fits():
    x, y = regression(rows=2000, columns=50)
    model = compiled(linear(50))
    start = model.get_weights()
    process = psutil.Process()
    used = []
    for _ in range(200):
        model.set_weights(start)
        model.fit(x, y, epochs=2, verbose=0)
        used.append(process.memory_info().rss)
        assert len(solver_threads()) <= 1
    assert used[-1] - used[99] < 100 * x.nbytes / 4


def test_deleted_while_suspended():
    x, y = regression()
    references = []
    for _ in range(5):
        model = compiled(network(), kormos_opt.BFGS())
        model.fit(x, y, epochs=1, verbose=0)
        references.append(weakref.ref(model))
    assert len(solver_threads()) >= 1
    keras.backend.clear_session()
    del model
    gc.collect()
    assert [reference() for reference in references] == [None] * 5
    assert solver_threads() == []


@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_data_is_not_kept_after_fit(engine):
    """Of the suspended solver, the compiled graphs and the last evaluation, none holds a tensor with all rows."""
    x, y = regression(rows=1234)
    model = compiled(network(), kormos_opt.LBFGS(engine=engine))
    model.fit(x, y, epochs=2, verbose=0)
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, tf.Tensor) and not tf.is_symbolic_tensor(each)]
    assert 1234 not in [tensor.shape[0] for tensor in tensors if tensor.shape.rank]
    assert model.train_function._progress.is_suspended


def test_recompiling_ends_the_suspended_solver():
    x, y = regression()
    model = compiled(network(), kormos_opt.BFGS())
    model.fit(x, y, epochs=1, verbose=0)
    assert len(solver_threads()) == 1
    model.compile("adam", "mse")
    gc.collect()
    assert solver_threads() == []


def test_blas_is_limited_while_the_solver_computes_and_only_then(monkeypatch):
    x, y = regression()
    in_solver, in_objective = [], []
    evaluate, method = BoundObjective.evaluate, registry.find("L-BFGS-B")

    def blas_threads():
        return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

    def looking_evaluate(self, *arguments):
        in_objective.append(blas_threads())
        return evaluate(self, *arguments)

    def looking_minimize(*arguments, **options):
        inner, answer = method.start(*arguments, **options), None
        try:
            while True:
                in_solver.append(blas_threads())
                answer = yield inner.send(answer)
        finally:
            inner.close()

    monkeypatch.setattr(BoundObjective, "evaluate", looking_evaluate)
    monkeypatch.setitem(registry.METHODS, "l-bfgs-b", dataclasses.replace(method, start=looking_minimize))
    with threadpoolctl.threadpool_limits(2, "blas"):
        compiled(network()).fit(x, y, epochs=2, verbose=0)
        assert blas_threads() == {2}
    assert in_objective and all(threads == {2} for threads in in_objective)
    assert len(in_solver) > 2 and all(threads == {1} for threads in in_solver[1:])


def test_no_false_end_beside_a_wall(float64):
    """Steps that the wall made tiny are no sign of convergence: the minimum over x < 1.4 lies at its very edge."""
    x = np.ones((1, 1))
    model = compiled(
        linear(1, kernel_initializer="zeros", use_bias=False),
        loss=lambda y, y_pred: keras.ops.mean((y_pred - 3) ** 2) + 0 * keras.ops.sum(keras.ops.log(1.4 - y_pred)),
    )
    model.fit(x, x, epochs=50, verbose=0)
    assert model.get_weights()[0] < 1.4
    assert np.abs(model.optimizer.result.jac).max() > 1
    assert not model.optimizer.result.success


def test_result_after_an_error_is_not_that_of_an_earlier_fit(monkeypatch):
    x, y = regression()
    model = compiled(linear())
    model.fit(x, y, epochs=50, verbose=0)
    assert model.optimizer.result.success
    with pytest.raises(ValueError, match="finite loss"):
        model.fit(x, y * np.nan, verbose=0)
    assert model.optimizer.result is None
    model.set_weights([weight + 1 for weight in model.get_weights()])
    evaluate, left = BoundObjective.evaluate, [4]

    def failing(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise BoomError
        return evaluate(self, *arguments)

    monkeypatch.setattr(BoundObjective, "evaluate", failing)
    with pytest.raises(BoomError):
        model.fit(x, y, epochs=9, verbose=0)
    assert not model.optimizer.result.success
    assert "Interrupted by an error" in model.optimizer.result.message


def test_error_puts_back_the_state_from_the_start_of_its_own_fit(monkeypatch):
    x, y = regression()
    model = compiled(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]))
    model.fit(x, y, epochs=2, verbose=0)
    model.layers[0].moving_mean.assign([7.0] * 4)

    def failing(self, *arguments):
        raise BoomError

    monkeypatch.setattr(BoundObjective, "evaluate", failing)
    with pytest.raises(BoomError):
        model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(model.layers[0].moving_mean.numpy(), [7.0] * 4)


@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_fits_in_several_threads(arguments):
    x, y = regression()
    stock = keras.losses.Loss.__call__, keras.Layer.__call__
    expected = compiled(network(), LBFGS(precision="float64"), **arguments)
    models = [compiled(network(), LBFGS(precision="float64"), **arguments) for _ in range(3)]
    for model in models:
        model.set_weights(expected.get_weights())
    losses, errors = {}, []

    def fit(number):
        try:
            losses[number] = models[number].fit(x, y, epochs=4, verbose=0).history["loss"]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (keras.losses.Loss.__call__, keras.Layer.__call__) == stock
    loss = expected.fit(x, y, epochs=4, verbose=0).history["loss"]
    for number in range(3):
        np.testing.assert_allclose(losses[number], loss, rtol=1e-10)


def test_blas_has_its_threads_back_after_concurrent_fits():
    """Two runs that overlap: the setting of the process is put back by the last one that leaves."""

    def blas_threads():
        return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

    first, second = OneBlasThread(), None
    with threadpoolctl.threadpool_limits(2, "blas"):
        with first:
            assert blas_threads() == {1}
        assert blas_threads() == {2}
        second = threading.Thread(target=lambda: one_blas_thread.__enter__())
        one_blas_thread.__enter__()
        second.start()
        second.join()
        one_blas_thread.__exit__()
        assert blas_threads() == {1}
        one_blas_thread.__exit__()
        assert blas_threads() == {2}


def test_constructors_in_several_threads_leave_no_filter_of_warnings():
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [LBFGS(options={"ftol": 0}) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
