"""Every kind of training data that Keras takes: each gives the fit that plain arrays give."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from kormos_opt.keras_internals import data as keras_data
from kormos_opt.optimizers import LBFGS
from tests.support.problems import compiled, linear, network, regression

ROWS, BATCH = 60, 7
X, Y = regression(ROWS)
WEIGHTS = np.linspace(0.5, 2, ROWS).astype("float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def generator():
    for start in range(0, ROWS, BATCH):
        yield X[start : start + BATCH], Y[start : start + BATCH]


def unknown_length():
    return dataset().filter(lambda x, y: True)


STEPS = -(-ROWS // BATCH)

INPUTS = {
    "tensors": lambda: {"x": tf.constant(X), "y": tf.constant(Y)},
    "float64 arrays": lambda: {"x": X.astype("float64"), "y": Y.astype("float64")},
    "batch_size": lambda: {"x": X, "y": Y, "batch_size": 11},
    "not shuffled": lambda: {"x": X, "y": Y, "shuffle": False},
    "dataset": lambda: {"x": dataset()},
    "dataset of one batch": lambda: {"x": tf.data.Dataset.from_tensors((X, Y))},
    "unknown length": lambda: {"x": unknown_length()},
    "infinite": lambda: {"x": dataset().repeat(), "steps_per_epoch": STEPS},
    "generator": lambda: {"x": generator(), "steps_per_epoch": STEPS},
    "generator of unknown length": lambda: {"x": generator()},
    "PyDataset": lambda: {"x": Batches()},
    "arrays with steps_per_epoch": lambda: {"x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": STEPS},
    "sparse dataset": lambda: {"x": dataset().map(lambda x, y: (tf.sparse.from_dense(x), y))},
}


@pytest.fixture(scope="module")
def expected():
    keras.utils.set_random_seed(0)
    return compiled(network(), metrics=["mae"]).fit(X, Y, epochs=3, verbose=0).history


@pytest.mark.parametrize("kind", INPUTS)
def test_same_fit_as_with_arrays(kind, expected):
    model = compiled(network(), metrics=["mae"])
    history = model.fit(**INPUTS[kind](), epochs=3, verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)


def test_tensors_are_not_copied():
    x, y = tf.constant(X), tf.constant(Y.astype("float64"))
    kept, cast = keras_data.whole_arrays(x, y, None, None)
    assert np.shares_memory(np.asarray(memoryview(kept)), np.asarray(memoryview(x)))
    assert cast.dtype == "float32"  # as Keras has it


@pytest.mark.slow_cases("batch_size", "dataset", "unknown length")
@pytest.mark.parametrize("kind", ["batch_size", "dataset", "unknown length", "infinite", "PyDataset", "sparse dataset"])
def test_streamed_every_time(kind, expected):
    model = compiled(network(), LBFGS(cache=False), metrics=["mae"])
    history = model.fit(**INPUTS[kind](), epochs=3, verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)


def test_taken_part_of_an_infinite_data_set():
    part = compiled(network()).fit(dataset().repeat(), steps_per_epoch=2, epochs=2, verbose=0).history
    keras.utils.set_random_seed(0)
    assert part["loss"] == compiled(network()).fit(X[: 2 * BATCH], Y[: 2 * BATCH], epochs=2, verbose=0).history["loss"]


def test_sample_weight_in_every_form():
    histories = []
    for data in (
        {"x": X, "y": Y, "sample_weight": WEIGHTS},
        {"x": tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(BATCH)},
    ):
        keras.utils.set_random_seed(0)
        histories.append(compiled(linear(), weighted_metrics=["mae"]).fit(**data, epochs=3, verbose=0).history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)
    keras.utils.set_random_seed(0)
    model = compiled(linear(), weighted_metrics=["mae"])
    loss, mae = histories[0]["loss"][-1], histories[0]["mae"][-1]
    model.fit(X, Y, sample_weight=WEIGHTS, epochs=3, verbose=0)
    np.testing.assert_allclose(model.evaluate(X, Y, sample_weight=WEIGHTS, verbose=0), [loss, mae], rtol=1e-5)


def test_class_weight_is_that_sample_weight():
    labels = (Y[:, 0] > 0).astype("int32")
    histories = []
    for weights in ({"class_weight": {0: 1.0, 1: 3.0}}, {"sample_weight": np.where(labels, 3.0, 1.0)}):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        histories.append(compiled(model, loss="binary_crossentropy").fit(X, labels, **weights, epochs=3, verbose=0))
    assert histories[0].history == histories[1].history


def test_dicts_several_inputs_outputs_and_loss_weights():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    merged = keras.layers.Add()([keras.layers.Dense(3)(left), keras.layers.Dense(3)(right)])
    outputs = {"a": keras.layers.Dense(1, name="a")(merged), "b": keras.layers.Dense(1, name="b")(merged)}
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(
        "lbfgs", {"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 0.5}, metrics={"a": ["mae"], "b": ["mse"]}
    )
    history = model.fit({"left": X, "right": X[::-1]}, {"a": Y, "b": -Y}, epochs=3, verbose=0).history
    assert {"loss", "a_loss", "b_loss", "a_mae", "b_mse"} <= history.keys()
    np.testing.assert_allclose(
        history["loss"], 2 * np.array(history["a_loss"]) + 0.5 * np.array(history["b_loss"]), rtol=1e-5
    )
    data = {"left": X, "right": X[::-1]}, {"a": Y, "b": -Y}
    result = model.evaluate(*data, batch_size=ROWS, verbose=0, return_dict=True)
    for name, value in result.items():
        np.testing.assert_allclose(history[name][-1], value, rtol=1e-4)


def test_batches_of_changing_width():
    rows = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [2, 2]] * 5)
    y = np.tile([6.0, 4.0, 11.0, 4.0], 5)[:, None]
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(7, 3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(embedded)))
    data = tf.data.Dataset.from_tensor_slices((rows, y)).batch(6).map(lambda x, y: (x.to_tensor(), y))
    history = compiled(model).fit(data, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


class RowLengths(keras.Model):
    """Takes ragged rows as they are."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(tf.stack([tf.reduce_sum(x, axis=1), tf.cast(x.row_lengths(), x.dtype)], axis=1))


@pytest.mark.parametrize("cache", ["auto", False])
def test_ragged_rows_reach_the_model(cache):
    rows = tf.ragged.constant([[1.0, 2.0, 3.0], [4.0], [5.0, 6.0], [2.0, 2.0]] * 5)
    y = tf.constant([[9.0], [5.0], [13.0], [6.0]] * 5)
    data = tf.data.Dataset.from_tensor_slices((rows, y)).batch(6)
    model = compiled(RowLengths(), LBFGS(cache=cache, precision="float64"))
    model.fit(data, epochs=30, verbose=0)
    np.testing.assert_allclose(np.ravel(model.dense.kernel), [1, 1], atol=1e-3)


def test_sparse_dataset_reaches_sparse_matmul():
    """Wide sparse rows stay sparse: they are batches in memory, not one dense tensor."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 30)) * (rng.random((40, 30)) < 0.1)
    y = x @ rng.normal(size=(30, 1))
    data = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y.astype("float32"))).batch(8)
    sparse = data.map(lambda x, y: (tf.sparse.from_dense(x), y))
    histories = []
    for inputs, batches in ((keras.Input((30,), sparse=True), sparse), (keras.Input((30,)), data)):
        keras.utils.set_random_seed(0)
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        histories.append(compiled(model).fit(batches, epochs=4, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)


@pytest.mark.parametrize(
    "compile_arguments",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_compile_arguments(compile_arguments, expected):
    model = compiled(network(), metrics=["mae"], **compile_arguments)
    history = model.fit(X, Y, epochs=3, validation_data=(X, Y), verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)


class WithAddLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def test_add_loss_and_regularizers_count():
    inputs = keras.Input((4,))
    hidden = WithAddLoss()(keras.layers.Dense(3, kernel_regularizer="l2")(inputs))
    model = compiled(keras.Model(inputs, keras.layers.Dense(1)(hidden)))
    history = model.fit(X, Y, epochs=3, verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], model.evaluate(X, Y, verbose=0), rtol=1e-5)


class OwnComputeLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.abs(y - y_pred) ** 1.5)


class OwnTrainStep(keras.Model):
    """The gradient step as the guides of Keras write it, and a second metric of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss, "root": keras.ops.sqrt(loss)}


@pytest.mark.parametrize(("kind", "power"), [(OwnComputeLoss, 1.5), (OwnTrainStep, 2)])
def test_custom_loss_and_train_step(kind, power):
    inputs = keras.Input((4,))
    model = compiled(kind(inputs, keras.layers.Dense(1)(inputs)), LBFGS(batch_size=13))
    history = model.fit(X, Y, epochs=3, verbose=0).history
    loss = np.mean(np.abs(model.predict(X, verbose=0) - Y) ** power)
    np.testing.assert_allclose(history["loss"][-1], loss, rtol=1e-4)
    assert ("root" in history) == (kind is OwnTrainStep)


def test_frozen_layers_stay():
    model = network()
    model.layers[0].trainable = False
    frozen = model.layers[0].get_weights()
    history = compiled(model).fit(X, Y, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for before, after in zip(frozen, model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_scalar_parameters_of_the_model_are_trained():
    """Unknown coefficients of an inverse problem are weights of the model itself."""

    class Inverse(keras.Model):
        def __init__(self):
            super().__init__()
            self.slope = self.add_weight(shape=(), initializer="zeros", name="slope")

        def call(self, x):
            return self.slope * x

    x = np.linspace(0, 1, 20)[:, None]
    model = compiled(Inverse())
    model.fit(x, 2.5 * x, epochs=10, verbose=0)
    np.testing.assert_allclose(float(model.slope), 2.5, atol=1e-3)


@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="oneDNN aborts, in stock Keras too")
def test_mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(linear())
    finally:
        keras.config.set_dtype_policy("float32")
    history = model.fit(X, Y, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert model.trainable_variables[0].dtype == "float32"


def test_iterations_per_epoch_with_steps_per_execution():
    model = compiled(network(), LBFGS(iterations_per_epoch=5), steps_per_execution=4)
    model.fit(X, Y, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 10


def test_an_epoch_is_one_step_of_the_progress_bar(capsys):
    compiled(network(), LBFGS(iterations_per_epoch=4)).fit(X, Y, epochs=2, verbose=1)
    assert capsys.readouterr().out.count("1/1") >= 2
