"""Gauss-Newton curvature: positive semidefinite, and the Hessian wherever the outputs are linear in the weights."""

import keras
import numpy as np
import pytest
from keras import layers

import kormos_opt
from kormos_opt.objective.build import residuals_of
from tests.support.problems import prepared, regression

X, Y = regression(rows=40, dtype="float64")
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, 40)
TARGETS = {
    "mse": Y,
    "binary_crossentropy": (Y > 0).astype("float64"),
    "categorical_crossentropy": np.eye(3)[CLASSES],
    "sparse_categorical_crossentropy": CLASSES,
    "poisson": RNG.poisson(2, (40, 1)).astype("float64"),
}
OUTPUTS = {
    "mse": (1, None),
    "binary_crossentropy": (1, "sigmoid"),
    "categorical_crossentropy": (3, "softmax"),
    "sparse_categorical_crossentropy": (3, "softmax"),
    "poisson": (1, "exponential"),
}


def matrix(loss, curvature, hidden, **settings):
    keras.utils.set_random_seed(0)
    units, activation = OUTPUTS[loss]
    inner = [layers.Dense(3, "tanh")] if hidden else []
    last = layers.Dense(units, activation, kernel_regularizer=keras.regularizers.L2(0.01))
    model = keras.Sequential([keras.Input((4,)), *inner, last])
    model.compile(optimizer=kormos_opt.NewtonCG(curvature=curvature, **settings), loss=loss)
    model.optimizer.build(model, (X, TARGETS[loss]))
    return model.optimizer.hessian()


@pytest.mark.slow_cases("binary_crossentropy", "mse")
@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "sparse_categorical_crossentropy"])
def test_is_the_hessian_of_a_model_that_is_linear_in_its_weights(loss, float64):
    np.testing.assert_allclose(matrix(loss, "gauss-newton", False), matrix(loss, "exact", False), atol=1e-14)


@pytest.mark.slow_cases("mse", "poisson")
@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy", "poisson"])
def test_is_positive_semidefinite_where_the_hessian_is_not(loss, float64):
    exact, found = matrix(loss, "exact", True), matrix(loss, "gauss-newton", True)
    assert np.linalg.eigvalsh(exact).min() < -1e-3
    assert np.linalg.eigvalsh(found).min() > -1e-12
    assert np.abs(exact - found).max() > 1e-3


def test_is_that_of_the_residuals(float64):
    """2 J'J of least squares, from the Jacobian that Levenberg-Marquardt takes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])
    model.compile(optimizer=kormos_opt.NewtonCG(curvature="gauss-newton", batch_size=7), loss="mse")
    model.optimizer.build(model, (X, Y))
    jacobian = residuals_of(prepared(model, X, Y)).jacobian(model.optimizer.get_weights())
    np.testing.assert_allclose(model.optimizer.hessian(), 2 * jacobian.T @ jacobian, atol=1e-13)


def test_float32_weights_in_float64():
    exact, found = (matrix("mse", curvature, False, precision="float64") for curvature in ("exact", "gauss-newton"))
    np.testing.assert_allclose(found, exact, atol=1e-14)


@pytest.mark.slow_cases("*-krylov", "*-ncg")
@pytest.mark.parametrize("method", ["newton-cg", "trust-ncg", "trust-krylov", "trust-exact"])
def test_methods_take_it(method, float64):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(3, "softmax")])
    optimizer = kormos_opt.ScipyBatchOptimizer(method=method, curvature="gauss-newton")
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    history = model.fit(X, CLASSES, epochs=5, verbose=0).history
    assert all(np.diff(history["loss"]) <= 0)
    assert history["loss"][-1] < 0.97 * history["loss"][0]


def test_a_loss_of_unknown_outputs_is_refused():
    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(y_pred))

    model = Own([keras.Input((4,)), layers.Dense(1)])
    model.compile(optimizer=kormos_opt.NewtonCG(curvature="gauss-newton"))
    with pytest.raises(ValueError, match="Expected losses whose outputs are known"):
        model.fit(X.astype("float32"), verbose=0)


@pytest.mark.quick
def test_settings():
    with pytest.raises(ValueError, match="Received: curvature='x'"):
        kormos_opt.NewtonCG(curvature="x")
    with pytest.raises(ValueError, match=r"Expected a method with second derivatives.*Received.*L-BFGS-B"):
        kormos_opt.ScipyBatchOptimizer(curvature="gauss-newton")
    assert kormos_opt.NewtonCG(curvature="gauss-newton").get_config()["curvature"] == "gauss-newton"
