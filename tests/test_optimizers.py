"""The optimizers' settings: config, serialization, names."""

import keras
import numpy as np
import pytest
import scipy.optimize

import kormos_opt
from kormos_opt.optimizers import LBFGS, ScipyBatchOptimizer
from tests.problems import compiled, network, regression

SETTINGS = {
    "memory": 7,
    "tol": 1e-4,
    "options": {"maxls": 11},
    "iterations_per_epoch": 3,
    "batch_size": 128,
    "cache": False,
    "precision": "float64",
    "name": "mine",
}
NOT_SET = {"max_cache_entries": 10, "engine": "scipy"}
NOT_SET |= dict.fromkeys(("epochs", "pretrain_fn", "bounds", "constraints"))


def test_config_round_trip():
    config = LBFGS(**SETTINGS).get_config()
    assert config == {**NOT_SET, **SETTINGS}
    assert LBFGS.from_config(config).get_config() == config


def test_config_of_the_general_class():
    config = ScipyBatchOptimizer(options={"maxcor": 4}, precision="float64").get_config()
    again = keras.optimizers.deserialize(keras.optimizers.serialize(ScipyBatchOptimizer.from_config(config)))
    assert isinstance(again, ScipyBatchOptimizer)
    assert again.get_config() == config


def test_keras_file_round_trip(tmp_path):
    x, y = regression()
    model = compiled(network(), LBFGS(**SETTINGS))
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == {**NOT_SET, **SETTINGS}
    assert int(loaded.optimizer.iterations) == 6
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.fit(x, y, epochs=1, verbose=0).history["loss"][-1] < loaded.evaluate(x, y, verbose=0) * 1.0001


def test_serialized_by_name():
    config = keras.optimizers.serialize(kormos_opt.LBFGS())
    assert config["registered_name"] == "kormos_opt>LBFGS"
    assert isinstance(keras.optimizers.deserialize(config), LBFGS)


def test_options_reach_scipy(monkeypatch):
    seen = {}
    minimize = scipy.optimize.minimize

    def recording(*arguments, **keywords):
        seen.update(keywords)
        return minimize(*arguments, **keywords)

    x, y = regression()
    model = compiled(network(), LBFGS(memory=4, tol=1e-3, options={"maxls": 9}))
    monkeypatch.setattr(scipy.optimize, "minimize", recording)
    model.fit(x, y, epochs=1, verbose=0)
    assert seen["method"] == "L-BFGS-B"
    assert seen["tol"] == 1e-3
    assert seen["options"]["maxcor"] == 4
    assert seen["options"]["maxls"] == 9
    assert seen["options"]["maxiter"] > 1e9


def test_given_limits_end_the_fit():
    x, y = regression()
    model = compiled(network(), LBFGS(options={"maxiter": 3}))
    assert len(model.fit(x, y, epochs=9, verbose=0).history["loss"]) == 3
    assert "options={'maxiter': ...} is reached" in model.optimizer.result.message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({}, True), ({"tol": 1e-3}, False), ({"options": {"ftol": 0}}, False), ({"options": {"maxls": 5}}, True)],
)
def test_given_tolerances_decide_alone(arguments, expected):
    (stage,) = LBFGS(**arguments).stages
    assert stage.ends_at_resolution is expected


def test_result_is_none_before_a_fit():
    assert LBFGS().result is None
