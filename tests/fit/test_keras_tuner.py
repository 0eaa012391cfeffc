"""KerasTuner searches over our optimizers by name and over the options of a solver, on plain models."""

import keras_tuner
import numpy as np
import pytest

import kormos_opt
from tests.support.problems import linear, regression


def search(build, tmp_path, trials):
    x, y = regression(rows=200)
    tuner = keras_tuner.GridSearch(build, objective="val_loss", max_trials=trials, directory=tmp_path, overwrite=True)
    tuner.search(x[:150], y[:150], epochs=15, validation_data=(x[150:], y[150:]), verbose=0)
    return tuner


@pytest.mark.slow  # shown by test_keras_tuner.py, over the options of a chain too
def test_search_over_names(tmp_path):
    def build(hp):
        model = linear()
        model.compile(optimizer=hp.Choice("optimizer", ["l-bfgs-b", "newton-cg", "adam"]), loss="mse")
        return model

    tuner = search(build, tmp_path, trials=3)
    scores = {trial.hyperparameters["optimizer"]: trial.score for trial in tuner.oracle.trials.values()}
    assert sorted(scores) == ["adam", "l-bfgs-b", "newton-cg"]
    assert max(scores["l-bfgs-b"], scores["newton-cg"]) < 0.1 * scores["adam"]
    assert tuner.get_best_hyperparameters()[0]["optimizer"] != "adam"
    best = tuner.get_best_models()[0]
    np.testing.assert_allclose(best.get_weights()[0].ravel(), [1, 2, 3, 4], atol=0.1)


def test_search_over_the_options_of_a_chain(tmp_path):
    def build(hp):
        model = linear()
        solver = kormos_opt.LBFGS(memory=hp.Int("memory", 1, 2), options={"maxls": hp.Fixed("maxls", 5)})
        model.compile(optimizer=kormos_opt.Chain(["adam", solver], epochs=[2, None]), loss="mse")
        return model

    tuner = search(build, tmp_path, trials=2)
    assert len(tuner.oracle.trials) == 2
    assert all(trial.score < 0.1 for trial in tuner.oracle.trials.values())
