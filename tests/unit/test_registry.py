"""The door: a solver of one's own is a generator and a row. It is found, trains, is seen, resumes and ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import OptimizeResult

import kormos_opt
from kormos_opt.graph_solvers.variables import OPTIONS
from kormos_opt.solvers import ArraySpec, EvaluateWithGradient, GraphMethod, Iterate, NumpyMethod, register, registry
from kormos_opt.solvers.testing import drive
from tests.support.helpers import flat_weights, quadratic
from tests.support.problems import compiled, linear, regression

pytestmark = pytest.mark.quick


def steepest_descent(x0, tol=1e-6, step=0.05):
    """x - step * gradient, until the gradient is small."""
    x = x0
    while True:
        fun, jac = yield EvaluateWithGradient(x)
        if np.linalg.norm(jac) <= tol:
            return OptimizeResult(
                x=x, fun=fun, jac=jac, success=True, status=0, message="Converged: the gradient is smaller than `tol`"
            )
        x = x - step * jac
        yield Iterate(x)


@pytest.fixture(autouse=True)
def row():
    yield register(NumpyMethod("steepest-descent", "gradient", steepest_descent))
    registry.METHODS.pop("steepest-descent")


def test_it_minimizes_without_a_model():
    result = drive(steepest_descent(np.ones(3)), quadratic).result
    np.testing.assert_allclose(result.x, 0, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        "steepest-descent",
        "Steepest-Descent",
        lambda: kormos_opt.ScipyBatchOptimizer(method="steepest-descent"),
        lambda: kormos_opt.optimizers.get("steepest-descent"),
    ],
)
def test_it_is_found_by_name(optimizer):
    model = linear()
    model.compile(optimizer=optimizer if isinstance(optimizer, str) else optimizer(), loss="mse")
    history = model.fit(*regression(), epochs=3, verbose=0).history
    assert set(history) == {"loss", "grad", "fg_evals", "hessp_evals"}
    assert history["fg_evals"] == [2, 3, 4]
    assert history["loss"][2] < history["loss"][1] < history["loss"][0]


def test_its_steps_are_those_of_the_formula(float64):
    x, y = regression(dtype="float64")
    model = compiled(linear(use_bias=False), kormos_opt.ScipyBatchOptimizer(method="steepest-descent"))
    kernel = model.get_weights()[0]
    for _ in range(4):
        kernel = kernel - 0.05 * 2 / len(x) * x.T @ (x @ kernel - y)
    model.fit(x, y, epochs=4, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-12)


def test_stop_and_resume_is_never_stopped():
    weights = []
    for pieces in ((6,), (2, 6)):
        keras.utils.set_random_seed(0)
        model, done = compiled(linear(), kormos_opt.ScipyBatchOptimizer(method="steepest-descent")), 0
        for end in pieces:
            model.fit(*regression(), epochs=end, initial_epoch=done, verbose=0)
            done = end
        weights.append(flat_weights(model))
    np.testing.assert_array_equal(*weights)


def test_it_ends_with_its_message(capsys):
    optimizer = kormos_opt.ScipyBatchOptimizer(method="steepest-descent", tol=0.5, precision="float64")
    model = compiled(linear(), optimizer)
    history = model.fit(*regression(), epochs=300, verbose=2).history
    assert 3 < len(history["loss"]) < 300
    assert optimizer.result.success
    assert optimizer.result.nit == len(history["loss"])
    assert optimizer.result.message == "Converged: the gradient is smaller than `tol`"
    assert "Converged: the gradient is smaller than `tol`" in capsys.readouterr().out


def test_options_are_its_arguments():
    optimizer = kormos_opt.ScipyBatchOptimizer(method="steepest-descent", options={"step": 1e-9})
    model = compiled(linear(), optimizer)
    before = flat_weights(model)
    model.fit(*regression(), epochs=1, verbose=0)
    np.testing.assert_allclose(flat_weights(model), before, atol=1e-7)
    with pytest.raises(ValueError, match="Expected `options` that method 'steepest-descent' takes: step"):
        kormos_opt.ScipyBatchOptimizer(method="steepest-descent", options={"stepp": 1})


def test_bounds_and_constraints_are_refused_unless_the_row_says_so():
    with pytest.raises(ValueError, match="Expected no bounds for steepest-descent"):
        optimizer = kormos_opt.ScipyBatchOptimizer(method="steepest-descent", bounds={"kernel": (0, None)})
        compiled(linear(), optimizer).fit(*regression(), verbose=0)


def test_in_a_chain_and_in_a_file(tmp_path):
    optimizer = kormos_opt.ScipyBatchOptimizer(method=["steepest-descent", "l-bfgs-b"], epochs=[2, 3])
    model = compiled(linear(), optimizer)
    assert model.fit(*regression(), epochs=5, verbose=0).history["stage"] == [0, 0, 1, 1, 1]
    model.save(tmp_path / "model.keras")
    assert [each.name for each in keras.models.load_model(tmp_path / "model.keras").optimizer.stages] == [
        "steepest-descent",
        "L-BFGS-B",
    ]


def test_a_name_is_taken_once():
    assert register(NumpyMethod("steepest-descent", "gradient", steepest_descent)).name == "steepest-descent"
    with pytest.raises(ValueError, match="Expected a name that no other solver has"):
        register(NumpyMethod("l-bfgs-b", "gradient", steepest_descent))
    with pytest.raises(TypeError, match="start"):
        NumpyMethod("nothing", "gradient")
    with pytest.raises(TypeError, match="options"):
        GraphMethod("nothing", variables=lambda size, options: {}, step=graph_descent)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"Expected one of .*steepest-descent.* Received: method='steep'"):
        kormos_opt.ScipyBatchOptimizer(method="steep")


def test_a_solver_without_tol_takes_none():
    register(NumpyMethod("steepest-descent", "gradient", steepest_descent))
    register(NumpyMethod("stubborn", "gradient", lambda x0: iter(())))
    try:
        with pytest.raises(ValueError, match="Expected no tol for stubborn"):
            kormos_opt.ScipyBatchOptimizer(method="stubborn", tol=1e-3)
    finally:
        registry.METHODS.pop("stubborn")


def graph_descent(value_and_gradient, state, nit, options):
    """One step of steepest descent in the graph."""
    x = state["position"] - options["step"] * state["objective_gradient"]
    fun, jac = value_and_gradient(x)
    failed = ~(fun <= state["objective_value"])
    return {"position": x, "objective_value": fun, "objective_gradient": jac}, failed


def test_a_solver_in_the_graph_is_one_row_too(tmp_path, float64):
    names = {"position": "x", "objective_value": "f", "objective_gradient": "x"}

    def variables(size, options):
        return {name: ArraySpec((size,) if kind == "x" else ()) for name, kind in names.items()}

    register(GraphMethod("graph-descent", variables=variables, step=graph_descent, options={**OPTIONS, "step": 0.05}))
    try:
        x, y = regression(dtype="float64")
        models = [compiled(linear(), kormos_opt.ScipyBatchOptimizer(method=name)) for name in NAMES]
        models[1].set_weights(models[0].get_weights())
        histories = [model.fit(x, y, epochs=5, verbose=0).history for model in models]
        np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-12)
        assert histories[0]["fg_evals"] == histories[1]["fg_evals"]
        models[1].save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        whole, resumed = (each.fit(x, y, epochs=3, verbose=0).history for each in (models[1], loaded))
        assert whole == resumed
        assert resumed["fg_evals"] == [7, 8, 9]
        assert tf.is_tensor(models[1].train_function._progress.run.accepted.logs["loss"])
    finally:
        registry.METHODS.pop("graph-descent")


NAMES = "steepest-descent", "graph-descent"
