"""Export, saving, pickling and copying of compiled and trained models, with both engines and in the middle of a fit."""

import copy
import inspect
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.support.helpers import flat_weights, from_file
from tests.support.light_solver import light
from tests.support.problems import compiled, linear, network, regression

OPTIMIZERS = {"scipy": kormos_opt.LBFGS, "light": light}
READ = """
import sys, numpy as np, tensorflow as tf
x, folder, out = np.load(sys.argv[1]), sys.argv[2], sys.argv[3]
loaded = tf.saved_model.load(folder)
call = loaded.serve if hasattr(loaded, "serve") else lambda x: loaded.signatures["serving_default"](x)
found = call(tf.constant(x))
np.save(out, found if not isinstance(found, dict) else next(iter(found.values())))
assert not [name for name in sys.modules if name.startswith("kormos_opt")]
"""


def trained(engine, epochs=3):
    x, y = regression()
    model = compiled(network(), OPTIMIZERS[engine](), metrics=["mae"])
    model.fit(x, y, epochs=epochs, verbose=0)
    return model, x, y


@pytest.mark.slow_cases("*-scipy")
@pytest.mark.parametrize(("how", "engine"), [("export", "light"), ("saved_model", "scipy")])
def test_saved_model_without_kormos_opt(engine, how, tmp_path):
    model, x, _ = trained(engine)
    if how == "export":
        model.export(tmp_path / "model", verbose=False)
    else:
        signature = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 4), "float32"))
        tf.saved_model.save(model, str(tmp_path / "model"), signatures=signature)
    np.save(tmp_path / "x.npy", x)
    arguments = [str(tmp_path / name) for name in ("x.npy", "model", "out.npy")]
    subprocess.run([sys.executable, "-c", READ, *arguments], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.predict(x, batch_size=len(x), verbose=0))


@pytest.mark.slow_cases("light")
@pytest.mark.parametrize("engine", ["scipy", "light"])
def test_load_model_gives_back_the_optimizer_with_its_settings(engine, tmp_path):
    model, x, _ = trained(engine)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert int(loaded.optimizer.iterations) == 3
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.slow_cases("light")
@pytest.mark.parametrize("engine", ["scipy", "light"])
def test_saving_in_the_middle_of_a_fit(engine, tmp_path):
    """From callbacks: whole models, weights, and a SavedModel; the fit goes on as if nothing had happened."""
    x, y = regression()
    alone = compiled(network(), OPTIMIZERS[engine]())
    saved = compiled(keras.models.clone_model(alone), OPTIMIZERS[engine]())
    saved.set_weights(alone.get_weights())
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: epoch == 1 and saved.export(tmp_path / "export", verbose=False)
        ),
    ]
    expected = alone.fit(x, y, epochs=4, verbose=0).history
    assert saved.fit(x, y, epochs=4, callbacks=callbacks, verbose=0).history == expected
    loaded = keras.models.load_model(tmp_path / "4.keras")
    np.testing.assert_array_equal(flat_weights(loaded), flat_weights(alone))


@pytest.mark.slow_cases("*-0-*", "pickle-3-scipy")
@pytest.mark.parametrize(
    ("how", "epochs", "engine"),
    [(how, epochs, "scipy") for how in ("pickle", "deepcopy", "clone_model") for epochs in (0, 3)]
    + [("pickle", 3, "light"), ("deepcopy", 0, "light")],
)
def test_copies(engine, epochs, how):
    model, x, y = trained(engine, epochs)
    if how == "clone_model":
        copied = keras.models.clone_model(model)
        copied.set_weights(model.get_weights())
        copied.compile(optimizer=type(model.optimizer).from_config(model.optimizer.get_config()), loss="mse")
    else:
        copied = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
    assert copied.optimizer.get_config() == model.optimizer.get_config()
    np.testing.assert_array_equal(flat_weights(copied), flat_weights(model))
    before = flat_weights(model)
    copied.fit(x, y, epochs=2, verbose=0)
    assert np.abs(flat_weights(copied) - before).max() > 0
    np.testing.assert_array_equal(flat_weights(model), before)
    assert type(model.optimizer).from_config(model.optimizer.get_config()).result is None


@pytest.mark.slow_cases("scipy")
@pytest.mark.parametrize("engine", ["scipy", "light", "graph"])
def test_h5_files_load_again(engine, tmp_path):
    """Keras hands the optimizer's variables back as a list, and needs names that differ."""
    x, y = regression()
    optimizer = kormos_opt.LBFGS(engine="graph") if engine == "graph" else OPTIMIZERS[engine]()
    model = compiled(network(), optimizer, keras.losses.MeanSquaredError())
    model.fit(x, y, epochs=3, verbose=0)
    loss = model.evaluate(x, y, verbose=0)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert int(loaded.optimizer.iterations) == 3
    history = loaded.fit(x, y, epochs=2, verbose=0).history
    assert history["loss"][-1] < loss
    if engine == "light":
        assert history == model.fit(x, y, epochs=2, verbose=0).history


def test_steps_of_an_earlier_shape_are_left_out_of_a_list_too():
    model = compiled(linear(), kormos_opt.LBFGS(engine="graph"))
    model.fit(*regression(), epochs=3, verbose=0)
    values = [np.asarray(variable) for variable in model.optimizer.variables]
    place = [variable.name for variable in model.optimizer.variables].index("steps")
    kept = values[place]
    assert kept.any()
    values[place] = np.zeros(3)
    model.optimizer.set_weights(values)
    np.testing.assert_array_equal(model.optimizer.variables[place], kept)


UNPICKLE = """
import pickle, sys
model = pickle.load(open(sys.argv[1], "rb"))
print(type(model.optimizer).__name__, model.optimizer.iterations.numpy())
"""


def test_a_pickled_model_carries_the_import(tmp_path):
    """Into a process that has not imported the package."""
    model, *_ = trained("scipy")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    arguments = [sys.executable, "-c", UNPICKLE, str(tmp_path / "model.pickle")]
    run = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.split() == ["LBFGS", "3"]


def test_models_of_other_optimizers_are_pickled_as_ever():
    model = compiled(network(), keras.optimizers.SGD())
    assert b"kormos_opt" not in pickle.dumps(model)


@pytest.mark.slow_cases("2-weights", "64-*")
@pytest.mark.parametrize(("room", "how"), [(64, "keras"), (2, "keras"), (2, "weights")])
def test_any_number_of_seeds_goes_on_from_a_file(room, how, tmp_path, monkeypatch):
    """Dropout in the graph engine: the masks of a file are those of the fit that wrote it, epoch after epoch."""
    monkeypatch.setattr("kormos_opt.graph_solvers.variables.SEEDS", room)

    def make():
        dropouts = [keras.layers.Dropout(0.01) for _ in range(3)]
        inner = [keras.Input((4,)), keras.layers.Dense(4, "tanh"), *dropouts, keras.layers.Dense(1)]
        return compiled(keras.Sequential(inner), light(precision="float64"))

    x, y = regression()
    model = make()
    model.fit(x, y, epochs=2, verbose=0)
    loaded = from_file(model, tmp_path / ("model.keras" if how == "keras" else "model.weights.h5"), make)
    expected = model.fit(x, y, epochs=3, verbose=0).history
    assert loaded.fit(x, y, epochs=3, verbose=0).history == expected


FILES = Path(__file__).parents[1] / "files"


@pytest.mark.slow_cases("*-stages3", "chain-*", "slsqp-*")
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("lbfgs", ["L-BFGS-B"]),
        ("slsqp", ["SLSQP"]),
        ("chain", ["L-BFGS-B", "Newton-CG"]),
        ("lbfgs_tfp", ["L-BFGS-TFP"]),
        ("lbfgs_graph", ["L-BFGS-graph"]),
    ],
)
def test_files_of_earlier_versions_load(name, stages):
    """Most were written when every module stood at the root of the package. The memory in variables goes on."""
    path = FILES / f"{name}_0.1.keras"
    with zipfile.ZipFile(path) as file:
        knows_layers = "quantization_config" in inspect.signature(keras.layers.Dense).parameters
        if "quantization_config" in file.read("config.json").decode() and not knows_layers:
            pytest.skip("A later Keras has written the file: this one does not know an argument of its layers.")
    model = keras.models.load_model(path)
    assert [stage.name for stage in model.optimizer.stages] == stages
    x = np.linspace(-1, 1, 20).reshape(-1, 1)
    y = 3 * x + np.sin(3 * x)
    history = model.fit(x, y, epochs=6, initial_epoch=4, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert int(model.optimizer.iterations) == 6
    if name == "lbfgs_tfp":
        assert history["fg_evals"][0] > 10  # counted from the first fit on
    if name == "lbfgs":
        assert model.optimizer.get_config()["bounds"] == {"out/kernel": [None, 4]}
        assert model.optimizer.memory == 5
