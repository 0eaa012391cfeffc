"""Whole fits against answers from outside: closed forms, scipy on a numpy objective, scikit-learn."""

import keras
import numpy as np
import pytest
import scipy.optimize
from sklearn import datasets, linear_model, preprocessing

import kormos_opt
from tests.support.problems import compiled, network, regression

EXACT = {"gtol": 1e-12, "ftol": 0}


def fitted(model, x, y, loss, epochs=400, optimizer=None, **fit):
    compiled(model, optimizer or kormos_opt.LBFGS(iterations_per_epoch=10, options=EXACT), loss)
    model.fit(x, y, epochs=epochs, verbose=0, **fit)
    return [weight.ravel() for weight in model.get_weights()]


def test_least_squares_closed_form(float64):
    x, y = regression(dtype="float64")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    kernel, bias = fitted(model, x, y, "mse")
    exact = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0].ravel()
    np.testing.assert_allclose(np.r_[kernel, bias], exact, atol=1e-8)


def test_ridge_of_scikit_learn(float64):
    x, y = datasets.load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    penalty = 0.1
    model = keras.Sequential(
        [keras.Input((x.shape[1],)), keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(penalty / len(x)))]
    )
    # Newton's step is exact here. A line search sees the optimum up to the root of what f can show.
    kernel, bias = fitted(model, x, y[:, None], "mse", optimizer=kormos_opt.TrustExact(tol=1e-10))
    ridge = linear_model.Ridge(alpha=penalty, tol=1e-12).fit(x, y)
    np.testing.assert_allclose(kernel, ridge.coef_, atol=1e-6)
    np.testing.assert_allclose(bias, ridge.intercept_, atol=1e-6)


def test_logistic_regression_of_scikit_learn(float64):
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = preprocessing.scale(x)
    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5 / len(x))),
        ]
    )
    kernel, bias = fitted(model, x, y[:, None], keras.losses.BinaryCrossentropy(from_logits=True))
    oracle = linear_model.LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(x, y)
    np.testing.assert_allclose(kernel, oracle.coef_.ravel(), atol=1e-6)
    np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-6)


def test_poisson_regression_of_scikit_learn(float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = rng.poisson(np.exp(x @ [0.3, -0.2, 0.5] + 0.1)).astype("float64")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "exponential")])
    kernel, bias = fitted(model, x, y[:, None], keras.losses.Poisson())
    oracle = linear_model.PoissonRegressor(alpha=0, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(np.r_[kernel, bias], np.r_[oracle.coef_, oracle.intercept_], atol=1e-5)


def tanh_network_in_numpy(x, y, units):
    """Loss and gradient of a network with one tanh layer, by hand: the iterates must be scipy's on this function."""
    rows, columns = x.shape

    def fun(flat):
        kernel = flat[: columns * units].reshape(columns, units)
        bias = flat[columns * units : (columns + 1) * units]
        out, offset = flat[(columns + 1) * units : -1, None], flat[-1]
        hidden = np.tanh(x @ kernel + bias)
        error = hidden @ out + offset - y
        slope = 2 * error / rows
        back = slope @ out.T * (1 - hidden**2)
        gradient = [x.T @ back, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
        return np.mean(error**2), np.concatenate([np.ravel(piece) for piece in gradient])

    return fun


@pytest.mark.parametrize("batch_size", [None, 13])
def test_iterates_are_scipys_on_a_numpy_objective(float64, batch_size):
    x, y = regression(dtype="float64")
    model = compiled(network(), kormos_opt.LBFGS(batch_size=batch_size))
    x0 = np.concatenate([weight.ravel() for weight in model.get_weights()])
    expected = []
    scipy.optimize.minimize(
        tanh_network_in_numpy(x, y, 5),
        x0,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20},
        callback=lambda intermediate_result: expected.append((intermediate_result.fun, intermediate_result.x.copy())),
    )
    iterates = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: iterates.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    )
    history = model.fit(x, y, epochs=20, callbacks=[keep], verbose=0).history
    np.testing.assert_allclose(history["loss"], [fun for fun, _ in expected], rtol=1e-9)
    np.testing.assert_allclose(iterates, [x for _, x in expected], rtol=1e-6, atol=1e-9)
