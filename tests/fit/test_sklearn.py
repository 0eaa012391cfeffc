"""`keras.wrappers.SKLearnRegressor` and `SKLearnClassifier`: fits to convergence, in searches and processes too."""

import keras
import numpy as np
import pytest
import sklearn.base
import sklearn.datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kormos_opt
from tests.support.problems import regression

X, Y = regression(rows=90, dtype="float64")


def ridge(X, y, penalty=1.0, optimizer="l-bfgs-b"):  # noqa: N803  scikit-learn's name
    """scikit-learn's ridge regression: |y - Xw - b|^2 + penalty |w|^2."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((X.shape[1],)), keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(penalty / len(X)))]
    )
    model.compile(optimizer=optimizer, loss="mse")
    return model


@pytest.mark.slow_cases("<lambda>1", "<lambda>2")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: "newton-cg",
        lambda: kormos_opt.LBFGS(engine="graph"),
        lambda: kormos_opt.LevenbergMarquardt(),
        lambda: kormos_opt.Chain(["adam", kormos_opt.LBFGS()], epochs=[3, None]),
    ],
)
def test_a_fit_goes_on_to_convergence(optimizer, float64, capsys):
    estimator = keras.wrappers.SKLearnRegressor(ridge, model_kwargs={"optimizer": optimizer()})
    estimator = sklearn.base.clone(estimator)
    estimator.fit(X, Y.ravel())
    assert capsys.readouterr().out == ""
    expected = Ridge(1.0).fit(X, Y.ravel())
    np.testing.assert_allclose(estimator.model_.get_weights()[0].ravel(), expected.coef_, rtol=1e-4)
    assert estimator.model_.optimizer.result.success
    assert estimator.score(X, Y.ravel()) > 0.99


def test_what_is_asked_for_goes(float64):
    estimator = keras.wrappers.SKLearnRegressor(ridge, fit_kwargs={"epochs": 2, "verbose": 0})
    assert len(estimator.fit(X, Y.ravel()).history_.epoch) == 2
    stock = keras.wrappers.SKLearnRegressor(ridge, model_kwargs={"optimizer": "adam"})
    assert len(stock.fit(X, Y.ravel(), verbose=0).history_.epoch) == 1
    assert len(ridge(X, Y).fit(X, Y, verbose=0).epoch) == 1


def test_a_compiled_model_is_cloned():
    estimator = keras.wrappers.SKLearnRegressor(ridge(X, Y), fit_kwargs={"verbose": 0})
    copy = sklearn.base.clone(estimator).fit(X.astype("float32"), Y.ravel().astype("float32"))
    np.testing.assert_allclose(copy.model_.get_weights()[0].ravel(), Ridge(1.0).fit(X, Y.ravel()).coef_, rtol=1e-2)


@pytest.mark.slow  # shown by test_saving.py, test_a_pickled_model_carries_the_import too
def test_grid_search_in_two_processes():
    search = GridSearchCV(
        keras.wrappers.SKLearnRegressor(ridge, model_kwargs={"penalty": 1.0}),
        {"model_kwargs": [{"penalty": 1.0}, {"penalty": 1000.0}]},
        cv=2,
        n_jobs=2,
    )
    search.fit(X.astype("float32"), Y.ravel().astype("float32"))
    assert search.best_params_["model_kwargs"]["penalty"] == 1.0
    expected = GridSearchCV(Ridge(), {"alpha": [1.0, 1000.0]}, cv=2).fit(X, Y.ravel())
    found = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, expected.cv_results_["mean_test_score"], rtol=1e-3)


def logit(X, y):  # noqa: N803
    model = keras.Sequential(
        [
            keras.Input((X.shape[1],)),
            keras.layers.Dense(y.shape[1], "softmax", kernel_regularizer=keras.regularizers.L2(0.5 / len(X))),
        ]
    )
    model.compile(optimizer="l-bfgs-b", loss="categorical_crossentropy")
    return model


def test_a_classifier_in_a_pipeline_is_logistic_regression():
    x, y = sklearn.datasets.load_iris(return_X_y=True)
    found = make_pipeline(StandardScaler(), keras.wrappers.SKLearnClassifier(logit)).fit(x, y)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=1.0)).fit(x, y)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))
    if hasattr(keras.wrappers.SKLearnClassifier, "decision_function"):
        np.testing.assert_allclose(found.decision_function(x), expected.predict_proba(x), atol=2e-3)
