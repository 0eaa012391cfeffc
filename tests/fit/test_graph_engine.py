"""The engines in the graph: the optimum of scipy, one graph call per epoch, exact resuming from files, errors."""

import os
import signal
import subprocess
import sys
import textwrap

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.solvers import registry
from kormos_opt.training.runs.graph_step import GraphStep
from tests.support.helpers import flat_weights, operations_of_an_iteration, whole_and_pieces, with_dropout_and_batchnorm
from tests.support.light_solver import light
from tests.support.problems import compiled, linear, network, regression


def tfp_engine(**arguments):
    return kormos_opt.LBFGS(engine="tfp", **arguments)


def graph_engine(**arguments):
    return kormos_opt.LBFGS(engine="graph", **arguments)


@pytest.mark.slow  # shown by test_models.py, by the document's examples too
def test_the_ancestors_table_to_the_same_loss():
    np.random.seed(1)
    w = np.random.normal(size=50)
    x = np.random.normal(size=(1000, 50))
    losses, evaluations = {}, {}
    for engine in ("scipy", "graph", "tfp"):
        penalty = keras.regularizers.L2(1e-3)
        model = linear(50, use_bias=False, kernel_regularizer=penalty, kernel_initializer="ones")
        history = compiled(model, kormos_opt.LBFGS(engine=engine)).fit(x, x @ w[:, None], epochs=40, verbose=0).history
        losses[engine], evaluations[engine] = history["loss"][-1], history["fg_evals"][-1] / len(history["loss"])
        assert model.optimizer.result.success, model.optimizer.result.message
        np.testing.assert_allclose(model.get_weights()[0].ravel(), w, atol=1e-2)
    np.testing.assert_allclose(list(losses.values()), losses["scipy"], atol=1e-6)
    assert evaluations["graph"] < 1.2
    assert evaluations["tfp"] < 2


@pytest.mark.slow  # shown by test_graph_engine.py, test_ways_to_run too
def test_tfp_tries_step_one_before_it_searches(float64):
    """Its own loop makes three evaluations an iteration."""
    x, y = regression(dtype="float64")
    model = compiled(linear(), tfp_engine())
    history = model.fit(x, y, epochs=100, verbose=0).history
    assert model.optimizer.result.success
    assert history["fg_evals"][-1] < 2 * len(history["loss"])
    best = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0].ravel()
    np.testing.assert_allclose(flat_weights(model), best, atol=1e-5)


@pytest.mark.slow_cases("*-tfp_engine", "with_dropout_and_batchnorm-*")
@pytest.mark.parametrize(
    ("make", "optimizer"),
    [(linear, light), (network, tfp_engine), (network, graph_engine), (with_dropout_and_batchnorm, light)],
)
def test_logs_are_those_of_the_accepted_iterate(make, optimizer):
    x, y = regression()
    model = compiled(make(), optimizer(), metrics=["mae"])
    rows = []

    def look(epoch, logs):
        run = model.train_function._progress.run
        there = run._objective.evaluate(run.accepted.x)
        rows.append((logs["loss"] - there.fun, logs["mae"] - float(there.logs["mae"]), logs["grad"]))
        assert logs["grad"] == pytest.approx(np.linalg.norm(there.jac), rel=1e-12)

    model.fit(x, y, epochs=6, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)], verbose=0)
    assert len(rows) >= 5
    np.testing.assert_array_equal([row[:2] for row in rows], 0)


@pytest.fixture(scope="module", params=[graph_engine, tfp_engine])
def trained(request):
    """A network after one iteration."""
    model = compiled(network(), request.param(batch_size=7))
    model.fit(*regression(), epochs=1, verbose=0)
    return model


@pytest.mark.slow_cases("tfp_engine")
@pytest.mark.xdist_group("one graph")
def test_an_iteration_is_one_graph_call(trained):
    x, y = regression()
    model = trained
    run = model.train_function._progress.run
    (step,) = run._step.compiled.values()
    calls = []
    key = next(iter(run._step.compiled))
    run._step.compiled[key] = lambda *data: calls.append(1) or step(*data)
    model.fit(x, y, epochs=6, initial_epoch=1, verbose=0)
    run._step.compiled[key] = step
    assert len(calls) == 5
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.slow_cases("tfp_engine")
@pytest.mark.xdist_group("one graph")
def test_no_host_callback_in_the_graph(trained):
    """A TPU has no way to call Python in the middle of an iteration."""
    types = operations_of_an_iteration(trained, *regression())
    assert "PyFunc" not in types and "EagerPyFunc" not in types and "PyFuncStateless" not in types


@pytest.mark.slow_cases("network-*")
@pytest.mark.parametrize(
    ("make", "optimizer"), [(network, tfp_engine), (network, graph_engine), (with_dropout_and_batchnorm, graph_engine)]
)
def test_stop_and_resume_is_never_stopped(make, optimizer):
    whole, cut, history, rows, *_ = whole_and_pieces(make, (1, 2, 5, 8), optimizer)
    np.testing.assert_array_equal(whole, cut)
    assert history == rows


@pytest.mark.slow_cases("*-tfp_engine", "*-with_dropout_and_batchnorm-*", "weights file-*")
@pytest.mark.parametrize(
    ("how", "make", "optimizer"),
    [
        ("keras file", network, tfp_engine),
        ("keras file", network, graph_engine),
        ("keras file", with_dropout_and_batchnorm, kormos_opt.LBFGS),
        ("weights file", with_dropout_and_batchnorm, kormos_opt.LBFGS),
        ("keras file", with_dropout_and_batchnorm, kormos_opt.SSBroyden),
        ("weights file", network, kormos_opt.SSBroyden),
        ("weights file", with_dropout_and_batchnorm, graph_engine),
        ("weights file", network, light),
        ("keras file", with_dropout_and_batchnorm, light),
        ("weights file", with_dropout_and_batchnorm, light),
    ],
)
def test_a_file_carries_the_run(how, make, optimizer, tmp_path, float64):
    x, y = regression(dtype="float64")
    cut = compiled(make(), optimizer())
    cut.fit(x, y, epochs=4, verbose=0)
    if how == "keras file":
        cut.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    else:
        cut.save_weights(tmp_path / "model.weights.h5")
        loaded = compiled(keras.models.clone_model(cut), optimizer())
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(tmp_path / "model.weights.h5")
    assert int(loaded.optimizer.iterations) == 4
    whole, resumed = (each.fit(x, y, epochs=10, initial_epoch=4, verbose=0).history for each in (cut, loaded))
    assert resumed == whole
    assert len(whole["loss"]) == 6
    np.testing.assert_array_equal(flat_weights(cut), flat_weights(loaded))


@pytest.mark.slow_cases("*-float64", "True-*")
@pytest.mark.parametrize("precision", ["model", "float64"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_many_iterations_in_a_call_are_one_in_each(precision, jit_compile):
    """With a metric and BatchNorm, whose statistics advance inside the graph."""
    whole, cut = (
        compiled(with_dropout_and_batchnorm(), graph_engine(precision=precision, **more), jit_compile=jit_compile)
        for more in ({"iterations_per_epoch": 6}, {})
    )
    cut.set_weights(whole.get_weights())
    for one, other in zip(whole.non_trainable_variables, cut.non_trainable_variables, strict=True):
        other.assign(one)
    rows = [each.fit(*regression(), epochs=n, verbose=0).history for each, n in ((whole, 2), (cut, 12))]
    np.testing.assert_array_equal(flat_weights(whole), flat_weights(cut))
    np.testing.assert_array_equal(whole.non_trainable_variables[0], cut.non_trainable_variables[0])
    assert rows[0] == {name: column[5::6] for name, column in rows[1].items()}


def test_limits_end_in_the_middle_of_a_call():
    model = compiled(network(), graph_engine(iterations_per_epoch=20, options={"maxiter": 7}))
    history = model.fit(*regression(), epochs=5, verbose=0).history
    assert len(history["loss"]) == 1
    assert model.optimizer.result.nit == 7
    assert model.optimizer.result.message.startswith("Stopped: options={'maxiter': ...} is reached")


def size_of_memory(path):
    with h5py.File(path) as file:
        names = []
        file.visit(names.append)
        return sum(file[name].nbytes for name in names if isinstance(file[name], h5py.Dataset) and "optimizer" in name)


@pytest.mark.slow_cases("graph")
@pytest.mark.parametrize("engine", ["scipy", "graph"])
def test_memory_is_left_out_of_files_on_request_or_where_it_is_large(engine, tmp_path, monkeypatch, caplog):
    x, y = regression()
    for save_state, limit, is_kept, words in (
        (True, 0, True, 0),
        (False, 1e9, False, 0),
        ("auto", 1e9, True, 0),
        ("auto", 0, False, 1),
    ):
        caplog.clear()
        monkeypatch.setattr("kormos_opt.optimizers.solver_state.SAVED_BY_DEFAULT", limit)
        model = compiled(network(), kormos_opt.LBFGS(engine=engine, save_state=save_state))
        model.fit(x, y, epochs=4, verbose=0)
        for _ in range(2):
            model.save_weights(tmp_path / "model.weights.h5")
        assert (size_of_memory(tmp_path / "model.weights.h5") > 1000) == is_kept
        ours = [record.getMessage() for record in caplog.records if record.name == "kormos_opt"]
        assert len(ours) == words
        assert all("Pass save_state=True to keep it" in message for message in ours)
        loaded = compiled(keras.models.clone_model(model), kormos_opt.LBFGS(engine=engine, save_state=save_state))
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(tmp_path / "model.weights.h5")
        whole, resumed = (each.fit(x, y, epochs=6, initial_epoch=4, verbose=0).history for each in (model, loaded))
        assert (whole == resumed) == is_kept


def test_other_weights_or_data_start_afresh(tmp_path):
    x, y = regression()
    model = compiled(network(), light())
    model.fit(x, y, epochs=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.fit(x, y + 1, epochs=5, initial_epoch=4, verbose=0).history["fg_evals"][0] < 6


KILLED = """
    import os, signal, sys
    import numpy as np, keras
    import kormos_opt
    from tests.support.light_solver import light, register_light_solver
    from tests.support.problems import compiled, network, regression

    register_light_solver()
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    folder, kill_at, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    optimizers = {
        "light": light,
        "chain": lambda: kormos_opt.Chain([keras.optimizers.Adam(), kormos_opt.LBFGS(), "newton-cg"], epochs=[2, 5, 2]),
    }
    model = compiled(network(), optimizers.get(engine, lambda: kormos_opt.LBFGS(engine=engine))())

    def kill(epoch, logs):
        print(epoch, logs["loss"].hex(), flush=True)
        if epoch == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    callbacks = [keras.callbacks.BackupAndRestore(folder)] if folder else []
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=None, on_epoch_end=kill))
    model.fit(*regression(dtype="float64"), epochs=9, shuffle=False, callbacks=callbacks, verbose=0)
"""


@pytest.mark.slow  # shown by test_multi_worker.py, and test_chain.py by errors too
@pytest.mark.parametrize("engine", ["scipy", "graph", "light", "chain"])
def test_backup_and_restore_after_sigkill(engine, tmp_path):
    """Killed at the end of an epoch before its backup is written: that epoch is run again, all others once."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(KILLED))

    def run(folder, kill_at):
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, str(script), folder, str(kill_at), engine]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, [tuple(line.split()) for line in done.stdout.splitlines()]

    _, whole = run("", -1)
    assert len(whole) == 9
    code, before = run(str(tmp_path / "backup"), 5)
    assert code == -signal.SIGKILL
    _, after = run(str(tmp_path / "backup"), -1)
    assert before == whole[:6]
    assert after == whole[9 - len(after) :]
    assert len(after) in (3, 4)


def test_the_memory_of_other_methods_is_not_in_a_file_and_that_is_said(tmp_path, caplog):
    x, y = regression()
    model = compiled(network(), kormos_opt.BFGS())
    model.fit(x, y, epochs=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with caplog.at_level("INFO", logger="kormos_opt"):
        history = loaded.fit(x, y, epochs=6, initial_epoch=4, verbose=0).history
    assert "files carry it of L-BFGS, SSBroyden and SSBFGS alone" in caplog.text
    assert history["fg_evals"][0] <= 4
    assert int(loaded.optimizer.iterations) == 6


@pytest.mark.parametrize("options", [{"gtol": 1e-2}, {"ftol": 1e-2}, {"xtol": 1e-1}])
def test_tolerances_end_the_run(options):
    x, y = regression()
    model = compiled(linear(), light(options=options))
    history = model.fit(x, y, epochs=100, verbose=0).history
    (name,) = options
    assert len(history["loss"]) < 20
    assert model.optimizer.result.success
    assert f"options={{'{name}': ...}} to continue" in model.optimizer.result.message


@pytest.mark.parametrize(("name", "limit"), [("maxiter", 3), ("maxfun", 5)])
def test_limits_end_the_run(name, limit):
    model = compiled(network(), light(options={name: limit}))
    history = model.fit(*regression(), epochs=100, verbose=0).history
    assert len(history["loss"]) <= 3
    assert not model.optimizer.result.success
    assert f"options={{'{name}': ...}} is reached" in model.optimizer.result.message


def test_a_start_at_the_optimum_ends_at_once(float64):
    x, y = regression(dtype="float64")
    model = compiled(linear(), light(tol=1e-9))
    model.fit(x, y, epochs=100, verbose=0)
    assert model.optimizer.result.success
    again = model.fit(x, y, epochs=100, verbose=0)
    assert len(again.history["loss"]) == 1


@pytest.mark.slow_cases("tfp_engine")
@pytest.mark.parametrize("optimizer", [tfp_engine, graph_engine, light])
def test_a_failed_line_search_keeps_the_last_iterate(optimizer):
    """f with a gradient of the wrong sign: no step along it goes down."""

    class Wrong(keras.layers.Layer):
        def call(self, x):
            @tf.custom_gradient
            def identity(x):
                return tf.identity(x), lambda upstream: -upstream

            return identity(x)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones"), Wrong()])
    before = model.get_weights()
    compiled(model, optimizer()).fit(*regression(), epochs=5, verbose=0)
    assert "line search found no better point" in model.optimizer.result.message
    assert not model.optimizer.result.success
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_at_the_start(value):
    x, y = regression()
    x[0, 0] = value
    with pytest.raises(ValueError, match="Expected a finite loss at the starting point"):
        compiled(linear(), tfp_engine()).fit(x, y, verbose=0)


@pytest.mark.slow_cases("tfp_engine")
@pytest.mark.parametrize("optimizer", [tfp_engine, graph_engine, light])
def test_nan_at_a_trial_point_is_backed_off_from(optimizer, float64):
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(0.5))
    model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Lambda(keras.ops.log)])
    compiled(model, optimizer()).fit(np.ones((4, 1)), np.full((4, 1), -4.0), epochs=100, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], np.exp(-4), rtol=1e-3)


def test_an_error_in_a_callback_keeps_the_iterate():
    x, y = regression()
    model = compiled(network(), light())
    seen = []

    def fail(epoch, logs):
        seen.append(flat_weights(model))
        if epoch == 2:
            raise RuntimeError("in a callback")

    with pytest.raises(RuntimeError, match="in a callback"):
        model.fit(x, y, epochs=9, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=fail)], verbose=0)
    np.testing.assert_array_equal(seen[-1], flat_weights(model))
    assert len(model.fit(x, y, epochs=9, initial_epoch=3, verbose=0).history["loss"]) == 6


@pytest.mark.slow_cases("*-model")
@pytest.mark.parametrize(
    ("optimizer", "arguments", "precision"),
    [
        (tfp_engine, {"jit_compile": True}, "model"),
        (tfp_engine, {"run_eagerly": True}, "float64"),
        (light, {"jit_compile": True}, "float64"),
        (light, {"run_eagerly": True}, "model"),
        (light, {}, "model"),
        (light, {}, "float64"),
    ],
)
def test_ways_to_run(optimizer, arguments, precision):
    x, y = regression()
    model = compiled(linear(), optimizer(precision=precision), **arguments)
    model.fit(x, y, epochs=60, verbose=0)
    best = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0].ravel()
    np.testing.assert_allclose(flat_weights(model), best, atol=1e-3)


def test_in_a_chain_with_frozen_layers():
    x, y = regression()
    model = network()

    def freeze(model):
        model.layers[0].trainable = False

    optimizer = light(epochs=[3, 4], pretrain_fn=[None, freeze])
    history = compiled(model, optimizer).fit(x, y, epochs=7, verbose=0).history
    assert history["stage"] == [0] * 3 + [1] * 4
    assert all(np.diff(history["loss"]) < 0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"options": {"maxcor": 3}},
            "Expected `options` that method 'L-BFGS-TFP' takes: ftol, .* Received: options={.maxcor.: 3}",
        ),
        ({"options": {"gtol": "x"}}, "Received: options="),
    ],
)
def test_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        tfp_engine(**arguments)


def test_engines():
    with pytest.raises(ValueError, match="Received: engine='torch'"):
        kormos_opt.LBFGS(engine="torch")
    assert tfp_engine().stages[0].name == "L-BFGS-TFP"
    assert (
        kormos_opt.LBFGS.from_config(tfp_engine(memory=4).get_config()).get_config()
        == tfp_engine(memory=4).get_config()
    )
    assert set(registry.find("L-BFGS-TFP").options) - {"memory"} == {
        "gtol",
        "ftol",
        "xtol",
        "maxls",
        "maxiter",
        "maxfun",
    }


@pytest.mark.parametrize(
    ("arguments", "method"),
    [({}, "L-BFGS-graph"), ({"bounds": {"kernel": (0, None)}}, "L-BFGS-B"), ({"cache": False}, "L-BFGS-B")],
)
def test_auto_takes_what_can_do_the_job_and_says_which(arguments, method):
    optimizer = kormos_opt.LBFGS(engine="auto", memory=4, options={"maxls": 15}, **arguments)
    model = compiled(linear(), optimizer)
    history = model.fit(*regression(), epochs=9, verbose=0).history
    assert optimizer.result.method == method
    assert history["loss"][-1] < history["loss"][0]


def test_no_bounds_and_no_streams():
    x, y = regression()
    with pytest.raises(ValueError, match=r"Expected no bounds for L-BFGS-TFP.*Use engine='scipy'"):
        compiled(linear(), tfp_engine(bounds={"kernel": (0, None)})).fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="Use engine='scipy'"):
        compiled(linear(), tfp_engine(cache=False)).fit(x, y, verbose=0)


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorflow-probability tf-keras"):
        tfp_engine()


@pytest.mark.slow_cases("False-*")
@pytest.mark.parametrize(("after", "optimizer"), [(False, tfp_engine), (True, light)])
def test_ctrl_c_is_no_error(after, optimizer, monkeypatch, caplog):
    """Before an iteration of the graph, or after it but before anybody has seen it: the fit goes on from there."""
    x, y = regression()
    whole, cut = (compiled(network(), optimizer(precision="float64")) for _ in range(2))
    cut.set_weights(whole.get_weights())
    whole.fit(x, y, epochs=6 + after, verbose=0)
    advance, left = GraphStep.__call__, [4]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0 and not after:
            raise KeyboardInterrupt
        advanced = advance(*arguments)
        if left[0] == 0:
            raise KeyboardInterrupt
        return advanced

    monkeypatch.setattr(GraphStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(x, y, epochs=6, verbose=0)
    monkeypatch.undo()
    assert cut.optimizer.result.message.endswith("fit goes on from here.")
    cut.fit(x, y, epochs=6, initial_epoch=3, verbose=0)
    np.testing.assert_array_equal(flat_weights(cut), flat_weights(whole))
    assert caplog.messages == []
