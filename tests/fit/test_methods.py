"""Every method on plain Keras models: the optimum, an epoch, resuming, the columns, the names."""

import gc
import threading

import keras
import numpy as np
import pytest
import scipy.optimize

import kormos_opt
from kormos_opt.optimizers import LBFGS, METHODS, NAMES, ScipyBatchOptimizer
from kormos_opt.solvers import registry, scipy_methods
from tests.support.helpers import whole_and_pieces
from tests.support.problems import compiled, linear, network, prepared, regression

METHOD_NAMES = [optimizer.method for optimizer in METHODS]
OF_SCIPY = [name for name in METHOD_NAMES if name.lower() in scipy_methods.METHODS]
WITHOUT_DERIVATIVES = ["Nelder-Mead", "Powell", "COBYLA", "COBYQA"]


def test_there_is_a_class_for_every_method_of_scipy():
    assert [method.name for method in scipy_methods.METHODS.values()] == OF_SCIPY
    assert [name.lower() for name in OF_SCIPY] == [
        name for name in scipy.optimize._minimize.MINIMIZE_METHODS if name != "_custom"
    ]
    for optimizer in METHODS:
        assert getattr(kormos_opt, optimizer.__name__) is optimizer


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_least_squares_closed_form_and_columns(name, float64):
    """The optimum of a linear regression, by the normal equations; and what its history holds."""
    x, y = regression(dtype="float64")
    tol = None if name in WITHOUT_DERIVATIVES else 1e-9
    optimizer = ScipyBatchOptimizer(method=name.upper(), tol=tol, iterations_per_epoch=20)
    model = compiled(linear(), optimizer, metrics=["mae"])
    history = model.fit(x, y, epochs=100, verbose=0).history
    ones = np.c_[x, np.ones(len(x))]
    best = np.linalg.lstsq(ones, y, rcond=None)[0].ravel()
    found = np.concatenate([weight.ravel() for weight in model.get_weights()])
    assert model.optimizer.result.success, model.optimizer.result.message
    np.testing.assert_allclose(found, best, atol=1e-3 if name in WITHOUT_DERIVATIVES else 1e-5)
    gradient = [] if name in WITHOUT_DERIVATIVES else ["grad"]
    assert sorted(history) == sorted(["fg_evals", "hessp_evals", "loss", "mae", *gradient])
    assert all(np.diff(history["fg_evals"]) >= 0) and history["fg_evals"][0] >= 1
    second_order = registry.find(name).derivatives in ("hvp", "hessian", "jacobian")
    assert (history["hessp_evals"][-1] > 0) == second_order


@pytest.mark.slow_cases("*-CG", "*-exact", "*-krylov", "*-ncg", "BFGS", "COBYQA", "Powell", "SLSQP")
@pytest.mark.parametrize("name", OF_SCIPY)
def test_an_epoch_is_an_iteration_as_scipy_counts_them(name, float64):
    """The same objective by hand in scipy.optimize.minimize gives the iterates of the epochs."""
    x, y = regression(dtype="float64")
    convex = name == "dogleg"  # which the indefinite Hessian of a network ends
    model = compiled(linear() if convex else network(units=2), ScipyBatchOptimizer(method=name))
    objective = prepared(model, x, y)
    start = objective.parameters.ravel()
    functions = {"fun": lambda x: objective.evaluate(x, gradient=False).fun}
    kind = registry.find(name).derivatives
    if kind != "none":
        functions = {"fun": lambda x: objective.evaluate(x)[1:3], "jac": True}
    if kind == "hvp":
        functions["hessp"] = lambda x, p: objective.hvps(x, np.array(p, "float64"))
    if kind == "hessian":
        functions["hess"] = lambda x: objective.hvps(x, np.eye(x.size))
    expected = []
    limit = {"maxfun": 60} if name == "TNC" else {"maxiter": 200 if name == "COBYLA" else 12}
    scipy.optimize.minimize(
        x0=start, method=name, options=limit, callback=lambda x, *_: expected.append(np.array(x)), **functions
    )
    objective.parameters.assign(start)
    iterates = []
    epochs = min(len(expected), 10)
    assert epochs >= 3
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: iterates.append(objective.parameters.ravel())
    )
    history = model.fit(x, y, epochs=epochs, callbacks=[keep], verbose=0).history
    np.testing.assert_allclose(iterates[:epochs], expected[:epochs], rtol=1e-9, atol=1e-12)
    assert len(history["loss"]) == epochs


@pytest.mark.slow_cases(
    "*-exact", "*-krylov", "*-ncg", "BFGS", "CG", "COBYQA", "Levenberg-*", "Powell", "SLSQP", "SS-*", "TNC", "dogleg"
)
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_stop_and_resume_is_never_stopped(name):
    whole, cut, history, rows, *_ = whole_and_pieces(linear, (1, 2, 8), lambda: ScipyBatchOptimizer(method=name))
    np.testing.assert_array_equal(whole, cut)
    assert history == rows


@pytest.mark.slow_cases(
    "*-Mead",
    "*-constr",
    "*-krylov",
    "*-ncg",
    "BFGS",
    "CG",
    "COBYLA",
    "Levenberg-*",
    "Powell",
    "SLSQP",
    "SS-*",
    "TNC",
    "dogleg",
)
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_an_error_keeps_the_last_iterate_and_leaves_no_thread(name):
    x, y = regression()
    model = compiled(linear(), name)
    seen = []

    def fail(epoch, logs):
        seen.append(model.get_weights())
        if epoch == 1:
            raise RuntimeError("in a callback")

    gc.collect()
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="in a callback"):
        model.fit(x, y, epochs=5, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=fail)], verbose=0)
    for kept, now in zip(seen[-1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    model.compile("sgd", "mse")  # lets the suspended solver go
    gc.collect()
    assert threading.active_count() == before


def test_display_options_are_no_error_and_say_nothing_at_construction(capsys):
    ScipyBatchOptimizer(method="bfgs", options={"disp": True, "maxiter": 1})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_case(name):
    for spelling in (name, name.upper(), name.title()):
        model = compiled(linear(), spelling)
        assert type(model.optimizer) is NAMES[name]
        assert type(kormos_opt.optimizers.get(spelling)) is NAMES[name]


def test_get():
    optimizer = LBFGS()
    assert kormos_opt.optimizers.get(optimizer) is optimizer
    with pytest.raises(ValueError, match="Received: identifier='adam'"):
        kormos_opt.optimizers.get("adam")


@pytest.mark.parametrize("optimizer", METHODS)
def test_config_round_trip(optimizer):
    made = optimizer(tol=1e-3, iterations_per_epoch=2)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert type(again) is optimizer
    assert again.get_config() == made.get_config()
    assert again.stages == made.stages


@pytest.mark.parametrize(
    "name", ["BFGS", "trust-ncg", "Newton-CG", "CG", "trust-krylov", "trust-exact", "SLSQP", "SS-Broyden"]
)
def test_a_float32_model_ends_as_converged(name):
    """Without an end at the resolution of float32 these burn evaluations in searches that cannot succeed."""
    x, y = regression(rows=1000, columns=20)
    model = compiled(linear(20), ScipyBatchOptimizer(method=name, options={}))
    model.fit(x, y, epochs=200, verbose=0)
    result = model.optimizer.result
    assert result.success, result.message
    assert result.nfev < 60


def test_nan_is_backed_off_from_without_derivatives():
    """sqrt of a negative number: a direct search is told a value above all others."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0))
    model = keras.Sequential([keras.Input((1,)), layer, keras.layers.Lambda(keras.ops.sqrt)])
    compiled(model, "nelder-mead").fit(np.ones((4, 1)), np.full((4, 1), 0.1), epochs=100, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 0.01, atol=1e-4)


def test_a_method_that_walks_into_nan_keeps_the_last_finite_iterate():
    """SLSQP takes the tenth point of its line search, whatever it is; here log(1 - p) with p > 1."""
    ops = keras.ops
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.1))]
    )
    compiled(model, "slsqp", loss=lambda _, p: ops.mean(-ops.log(1 - p) - 1000 * ops.log(p + 1e-3), axis=-1))
    ones = np.ones((8, 1))
    history = model.fit(ones, ones, epochs=40, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.evaluate(ones, ones, verbose=0))
    assert "accepts a point where the loss is NaN" in model.optimizer.result.message
    assert not model.optimizer.result.success


def test_discarded_cobyqa_runs_stand_in_nobodys_way():
    """Suspended runs that are collected while another run holds scipy's lock end without it."""
    x, y = regression()
    kept = compiled(linear(), "cobyqa")
    kept.fit(x, y, epochs=3, verbose=0)

    def collect(weights):
        nonlocal kept
        kept = None
        gc.collect()
        return weights["kernel"].sum()

    constraint = kormos_opt.VariableConstraint(collect, -10, 10)
    compiled(linear(), kormos_opt.COBYQA(constraints=constraint)).fit(x, y, epochs=3, verbose=0)


def test_infinite_second_derivatives_are_an_error():
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            keras.layers.Lambda(lambda x: x + x**1.5),
        ]
    )
    compiled(model, "newton-cg")
    with pytest.raises(ValueError, match=r"Expected finite second derivatives.*1 entries of 1"):
        model.fit(np.ones((4, 1)), np.full((4, 1), -0.1), verbose=0)


def test_newton_is_a_thousand_times_more_accurate(float64):
    """The ancestor's functional linear regression: gradient norms of Newton-CG and L-BFGS-B."""
    np.random.seed(1)
    w = np.random.normal(size=50)
    x = np.random.normal(size=(1000, 50))
    norms = {}
    for name in ("l-bfgs-b", "newton-cg"):
        inputs = keras.Input((50,))
        dense = keras.layers.Dense(
            1, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-3), kernel_initializer="ones"
        )
        model = compiled(keras.Model(inputs, dense(inputs)), name)
        norms[name] = model.fit(x, x @ w[:, None], epochs=10, verbose=0).history["grad"][-1]
        np.testing.assert_allclose(model.get_weights()[0].ravel(), w, atol=1e-2)
    assert norms["newton-cg"] < 1e-3 * norms["l-bfgs-b"]
