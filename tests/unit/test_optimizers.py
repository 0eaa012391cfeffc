"""The optimizers' settings: config, serialization, names."""

from typing import Annotated

import keras
import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint

import kormos_opt
from kormos_opt.optimizers import BFGS, LBFGS, METHODS, NAMES, ScipyBatchOptimizer
from kormos_opt.optimizers.batch_optimizer import BatchOptimizer
from kormos_opt.optimizers.settings import Setting, Settings, all_settings, arguments_docstring
from kormos_opt.stages.options import is_positive_integer
from tests.support.problems import compiled, network, regression

pytestmark = pytest.mark.quick

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
NOT_SET = {
    "dtype": "float64",
    "max_cache_entries": 10,
    "engine": "scipy",
    "save_state": "auto",
    "curvature": "exact",
    "x_scale": "auto",
    "polish": False,
}
NOT_SET |= dict.fromkeys(("epochs", "pretrain_fn", "bounds", "constraints"))


def test_config_round_trip():
    config = LBFGS(**SETTINGS).get_config()
    assert config == {**NOT_SET, **SETTINGS}
    assert LBFGS.from_config(config).get_config() == config


def test_a_new_setting_is_one_line(monkeypatch):
    """It is an argument of every optimizer, checked, an attribute, saved, explained, and found where it is misspelt."""
    patience = Setting(3, "a positive integer", is_positive_integer, "How long to wait.")
    monkeypatch.setitem(Settings.__annotations__, "patience", Annotated[int, patience])
    for optimizer in METHODS:
        assert optimizer().patience == 3
        assert optimizer.from_config(optimizer(patience=5).get_config()).patience == 5
        with pytest.raises(ValueError, match=r"Expected a positive integer. Received: patience=0\."):
            optimizer(patience=0)
    assert "    patience: How long to wait. Defaults to `3`." in arguments_docstring()
    with pytest.raises(ValueError, match="Did you mean patience="):
        LBFGS(patiense=4)


def test_every_setting_is_in_the_docstring():
    for name in all_settings():
        assert f"\n    {name}: " in BatchOptimizer.__doc__


def test_earlier_names_are_taken():
    """By programs with a warning, from files without."""
    with pytest.warns(DeprecationWarning, match="save_memory= is called save_state= now"):
        assert LBFGS(save_memory=False).save_state is False
    config = LBFGS(save_state=True).get_config()
    config["save_memory"] = config.pop("save_state")
    del config["dtype"]
    assert LBFGS.from_config(config).save_state is True


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
    model = compiled(network(), BFGS(tol=1e-3, options={"norm": 2}))
    monkeypatch.setattr(scipy.optimize, "minimize", recording)
    model.fit(x, y, epochs=1, verbose=0)
    assert seen["method"] == "BFGS"
    assert seen["options"]["gtol"] == 1e-3
    assert seen["options"]["norm"] == 2
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
    assert stage.stops_at_precision is expected


def test_result_is_none_before_a_fit():
    assert LBFGS().result is None


def squared_sum(x):
    return np.sum(x**2)


def gradient(x):
    return 2 * x


def by_name(weights):
    return weights["kernel"].sum()


CONFIGURED = {
    "arrays": ("Powell", {"options": {"direc": np.eye(3)}}),
    "array": ("BFGS", {"options": {"hess_inv0": 2 * np.eye(3), "norm": np.inf}}),
    "simplex": ("Nelder-Mead", {"options": {"initial_simplex": np.ones((4, 3))}}),
    "Bounds": ("TNC", {"bounds": Bounds([0, -np.inf, 0], [1, np.inf, 0], keep_feasible=True)}),
    "pairs": ("L-BFGS-B", {"bounds": [(0, None), (None, 1), (0.5, 0.5)]}),
    "by name": ("COBYQA", {"bounds": {"*/bias": (0, None), "kernel": (np.zeros((2, 1)), None)}}),
    "linear": ("SLSQP", {"constraints": LinearConstraint(np.ones((1, 3)), 0, 1)}),
    "nonlinear": ("trust-constr", {"constraints": [NonlinearConstraint(squared_sum, 0, 1, jac=gradient)]}),
    "dict": ("COBYLA", {"constraints": {"type": "ineq", "fun": squared_sum}}),
    "variables": ("SLSQP", {"constraints": kormos_opt.VariableConstraint(by_name, 0, 1)}),
    "pretrain_fn": ("CG", {"pretrain_fn": squared_sum, "epochs": 3}),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_from_config_takes_what_get_config_returns(case):
    name, settings = CONFIGURED[case]
    made = NAMES[name.lower()](**settings)
    again = type(made).from_config(made.get_config())
    assert type(again) is type(made)
    assert repr(again.get_config()) == repr(made.get_config())


@pytest.mark.parametrize("optimizer", METHODS)
def test_from_config_of_every_class(optimizer):
    settings = {"tol": 1e-3, "iterations_per_epoch": 2, "batch_size": "auto", "cache": False, "precision": "float64"}
    settings |= {"epochs": 4, "pretrain_fn": squared_sum, "max_cache_entries": 3, "name": "mine"}
    made = optimizer(**settings)
    again = optimizer.from_config(made.get_config())
    assert again.get_config() == made.get_config()
    for name, value in settings.items():
        assert again.get_config()[name] == value


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("gtol", r"Write options=\{'gtol': ...\}"),
        ("ftol", r"Write options=\{'ftol': ...\}"),
        ("maxiter", r"fit\(epochs=...\).*options=\{'maxiter'"),
        ("history_size", "the number of pairs is memory="),
        ("maxcor", "the number of pairs is memory="),
        ("iteration_per_epoch", "Did you mean iterations_per_epoch="),
        ("tolerance_grad", r"options=\{'gtol'"),
        ("lr", "a line search chooses every step length"),
        ("nothing_like_it", "Leave it out"),
    ],
)
def test_unknown_arguments_say_where_the_setting_is(argument, hint):
    with pytest.raises(ValueError, match=f"`{argument}`.*{hint}|{hint}.*Received: {argument}=1"):
        LBFGS(**{argument: 1})


def test_a_class_is_no_optimizer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"Received: optimizer=LBFGS, which is its class. Write optimizer=LBFGS\(\)"):
        model.compile(optimizer=LBFGS, loss="mse")
