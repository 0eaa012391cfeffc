"""Bad input: a clear error before any work, with what was expected, what was received, and what to do."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.optimizers import LBFGS, ScipyBatchOptimizer
from tests.support.problems import compiled, linear, network, regression

X, Y = regression()


def fails(match, error=ValueError):
    return pytest.raises(error, match=match)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"memory": 0}, "Received: memory=0"),
        ({"memory": 2.5}, "Received: memory=2.5"),
        ({"iterations_per_epoch": 0}, "Received: iterations_per_epoch=0"),
        ({"batch_size": -1}, "Received: batch_size=-1"),
        ({"memory": True}, "Received: memory=True"),
        ({"cache": "never"}, "Received: cache='never'"),
        ({"cache": 0}, "Received: cache=0"),
        ({"options": {"maxcor": 0}}, "Received: options={.*'maxcor': 0.*is no positive integer"),
        ({"options": {"ftol": "x"}}, "Received: options={.*'ftol': 'x'"),
        ({"options": {"jac": 1}}, "Received: options="),
        ({"precision": "float16"}, "Received: precision='float16'"),
        ({"options": {"maxcors": 3}}, "maxcor, .*Received: options={'maxcor.*Unknown solver options: maxcors"),
        ({"clipnorm": 1.0}, "`clipnorm`: a solver needs the gradient as it is. Received: clipnorm=1.0"),
        ({"weight_decay": 0.1}, "kernel_regularizer"),
        ({"use_ema": True}, "Received: use_ema=True"),
        ({"gradient_accumulation_steps": 4}, "Received: gradient_accumulation_steps=4"),
        ({"learning_rate": 0.1}, "a line search chooses every step length"),
        ({"momentum": 0.1}, "Received: momentum=0.1"),
    ],
)
def test_arguments(arguments, match):
    with fails(match):
        LBFGS(**arguments)


def test_unknown_method():
    with fails("Expected one of .*L-BFGS-B.*Received: method='adam'"):
        ScipyBatchOptimizer(method="adam")


def test_setting_of_a_stochastic_optimizer_after_construction():
    model = compiled(linear())
    model.optimizer.clipnorm = 1.0
    with fails("Received: optimizer.clipnorm=1.0"):
        model.fit(X, Y, verbose=0)


def test_no_trainable_weights():
    model = linear()
    model.trainable = False
    with fails("trainable_variables=\\[\\].*Unfreeze a layer"):
        compiled(model).fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "data",
    [
        {"x": X[:0], "y": Y[:0]},
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).take(0)},
    ],
    ids=["arrays", "dataset"],
)
def test_no_data(data):
    with fails("at least one row"):
        compiled(linear()).fit(**data, verbose=0)


def test_infinite_data_set():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    with fails("infinite data set and steps_per_epoch=None.*Pass steps_per_epoch="):
        compiled(linear()).fit(data, verbose=0)


def test_endless_generator_stops_at_the_memory_budget(monkeypatch):
    def endless():
        while True:
            yield X, Y

    monkeypatch.setattr("kormos_opt.data.memory_limits.half_of_all", lambda: 1e6)
    with fails("If it never ends, pass steps_per_epoch=", MemoryError):
        compiled(linear()).fit(endless(), verbose=0)


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_weights_that_are_not_real(dtype):
    class Odd(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.odd = keras.Variable(np.zeros(2), dtype=dtype, trainable=True, name="odd")

        def call(self, x):
            return self.dense(x)

    with fails(f"Received: .*odd of dtype {dtype}"):
        compiled(Odd()).fit(X, Y, verbose=0)


def test_constraint_of_keras_that_is_no_bound():
    with fails("Received: .*kernel with constraint=.*MaxNorm"):
        compiled(linear(kernel_constraint="max_norm")).fit(X, Y, verbose=0)


def test_targets_that_would_be_broadcast():
    inputs = keras.Input((4, 1))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    with fails(r"Received: y of shape \(None,\), output of shape \(None, 4, 1\)"):
        compiled(model).fit(X[..., None], Y[:, 0], verbose=0)


def test_loss_without_reduction():
    with fails("Expected a scalar loss", RuntimeError):
        compiled(linear(), loss=keras.losses.MeanSquaredError(reduction=None)).fit(X, Y, verbose=0)


def test_mixed_float16_with_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(linear())
        with fails("LossScaleOptimizer.*mixed_bfloat16"):
            model.fit(X, Y, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")


def test_distribution_strategy():
    """One whose replicas do not wait for each other."""
    with tf.distribute.experimental.CentralStorageStrategy(["CPU:0"]).scope():
        model = compiled(linear())
    with fails("Received: a model made in the scope of a CentralStorageStrategy"):
        model.fit(*regression(), verbose=0)


@pytest.mark.parametrize(
    "callback",
    [keras.callbacks.ReduceLROnPlateau(), keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
    ids=["ReduceLROnPlateau", "LearningRateScheduler"],
)
def test_callbacks_that_set_a_learning_rate(callback):
    model = compiled(linear())
    weights = model.get_weights()
    with fails(f"Received: callbacks with a {type(callback).__name__}. Remove it"):
        model.fit(X, Y, callbacks=[callback], verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])


def test_setting_a_learning_rate():
    with fails("Received: learning_rate=0.1"):
        LBFGS().learning_rate = 0.1
    assert float(LBFGS().learning_rate) == 1.0


@pytest.mark.parametrize("method", ["apply_gradients", "apply"])
def test_custom_training_loop(method):
    model = compiled(linear())
    with tf.GradientTape() as tape:
        loss = keras.ops.mean((model(X) - Y) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    arguments = [zip(gradients, model.trainable_variables, strict=True)]
    with fails("Call model.fit", RuntimeError):
        getattr(model.optimizer, method)(*(arguments if method == "apply_gradients" else [gradients]))


class AppliesTwice(keras.Model):
    def train_step(self, data):
        x, y = data
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((self(x) - y) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class AppliesNever(keras.Model):
    def train_step(self, data):
        x, y = data
        return {"loss": keras.ops.mean((self(x) - y) ** 2)}


class SaysNoLoss(AppliesTwice):
    def train_step(self, data):
        self.optimizer.apply([tf.zeros(v.shape) for v in self.trainable_variables], self.trainable_variables)
        return {"other": self(data[0])[0, 0]}


@pytest.mark.parametrize(
    ("kind", "match"),
    [(AppliesTwice, "applies gradients once"), (AppliesNever, "no gradients"), (SaysNoLoss, "no loss")],
)
def test_train_steps_without_one_objective(kind, match):
    inputs = keras.Input((4,))
    with fails(match, RuntimeError):
        compiled(kind(inputs, keras.layers.Dense(1)(inputs))).fit(X, Y, verbose=0)


def test_errors_of_keras_stay(monkeypatch):
    with fails("same number of samples|cardinality"):
        compiled(linear()).fit(X, Y[:5], verbose=0)
    with fails("compile"):
        linear().fit(X, Y)


def test_failed_preparation_leaves_new_weights_alone():
    """An error in a later fit must not bring back the weights of an earlier one."""
    model = compiled(network())
    model.fit(X, Y, epochs=2, verbose=0)
    weights = [weight + 1 for weight in model.get_weights()]
    model.set_weights(weights)
    with pytest.raises(Exception, match=r"(?i)shape|dimension|incompatible"):
        model.fit(X[:, :2], Y, verbose=0)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    assert len(model.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def test_another_backend(monkeypatch):
    """Importing under another backend says which variable to set."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"Received: keras\.backend\.backend\(\)='jax'\. Set os\.environ"):
        importlib.reload(kormos_opt)


def test_a_generator_cannot_be_streamed():
    def batches():
        yield X, Y

    with fails("read again for cache=False.*Received: x of type generator"):
        compiled(linear(), LBFGS(cache=False)).fit(batches(), verbose=0)


def test_passes_of_different_length():
    left = [3]

    def batches():
        left[0] -= 1
        for _ in range(2 + (left[0] < 1)):
            yield X, Y

    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    with fails("Expected 120 rows in every pass.*Received: 180 rows", RuntimeError):
        compiled(linear(), LBFGS(cache=False)).fit(data, epochs=5, verbose=0)


def test_layer_that_assigns_its_weights():
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(1))
    with fails(r"leaves the trainable weights alone.*kernel.*SpectralNormalization"):
        compiled(keras.Sequential([keras.Input((4,)), dense])).fit(X, Y, verbose=0)
