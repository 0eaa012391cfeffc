"""Batches without rows, leaves without rows, and the workers of a PyDataset after an error."""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.objective.full_pass import FullPass
from kormos_opt.optimizers import LBFGS
from tests.support.problems import compiled, linear, network, regression

X, Y = regression(dtype="float64")
SIGNATURE = (tf.TensorSpec((None, 4), "float64"), tf.TensorSpec((None, 1), "float64"))


def with_empty_batches():
    """60 rows in batches of 0, 25, 0, 35 and 0."""

    def batches():
        for start, end in ((0, 0), (0, 25), (25, 25), (25, 60), (60, 60)):
            yield X[start:end], Y[start:end]

    return tf.data.Dataset.from_generator(batches, output_signature=SIGNATURE)


@pytest.mark.slow_cases("sum-False", "sum_over_batch_size-*")
@pytest.mark.parametrize("cache", ["auto", False])
@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_batches_without_rows(reduction, cache, float64):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    whole, cut = compiled(linear(), loss=loss), compiled(linear(), LBFGS(cache=cache), loss)
    cut.set_weights(whole.get_weights())
    expected = whole.fit(X, Y, epochs=4, verbose=0).history["loss"]
    np.testing.assert_allclose(cut.fit(with_empty_batches(), epochs=4, verbose=0).history["loss"], expected, rtol=1e-9)


class Scaled(keras.Model):
    """Takes rows and one number for all of them."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs["rows"]) * inputs["scale"]


@pytest.mark.slow_cases("False-1", "auto-3")
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("cache", ["auto", False])
def test_a_number_beside_the_rows(batches, cache, float64):
    """With more batches they cannot be joined: each has its own number."""
    size = 60 // batches

    def parts():
        for start in range(0, 60, size):
            yield {"rows": X[start : start + size], "scale": np.float64(2.0)}, Y[start : start + size]

    signature = ({"rows": SIGNATURE[0], "scale": tf.TensorSpec((), "float64")}, SIGNATURE[1])
    data = tf.data.Dataset.from_generator(parts, output_signature=signature)
    model = compiled(Scaled(), LBFGS(cache=cache, tol=1e-12, batch_size=16))
    model.fit(data, epochs=60, verbose=0)
    exact = np.linalg.lstsq(np.hstack([X, np.ones((60, 1))]), Y, rcond=None)[0]
    np.testing.assert_allclose(2 * model.dense.kernel.numpy(), exact[:4], rtol=1e-5)


class Threaded(keras.utils.PyDataset):
    """Notes which batches were asked for; fails when told to."""

    def __init__(self, fail_at=None, **kwargs):
        super().__init__(**kwargs)
        self.asked = []
        self.fail_at = fail_at
        self.passes = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.asked.append(index)
        time.sleep(0.01)
        return X[10 * index : 10 * index + 10], Y[10 * index : 10 * index + 10]


def left_of(before):
    """Python's threads that are there beside those before, once they had time to end. TensorFlow's are called Dummy."""
    deadline = time.monotonic() + 5
    while True:
        names = [thread.name for thread in set(threading.enumerate()) - before]
        left = [name for name in names if not name.startswith(("Dummy", "kormos_opt-scipy"))]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


class BoomError(Exception):
    pass


@pytest.mark.parametrize("cache", [False, "auto"])
def test_no_worker_is_left_after_an_error_in_the_middle_of_a_pass(cache, monkeypatch, float64):
    before = set(threading.enumerate())
    data = Threaded(workers=3, max_queue_size=4)
    model = compiled(linear(), LBFGS(cache=cache))

    def boom(*_, **__):
        raise BoomError

    if cache is False:
        monkeypatch.setattr("kormos_opt.objective.full_pass.FullPass.add", boom)
    else:
        monkeypatch.setattr("kormos_opt.data.collect._to_tensor", boom)
    with pytest.raises(BoomError) as raised:
        model.fit(data, verbose=0)
    assert left_of(before) == []
    assert raised.value.__traceback__ is not None  # it holds the frames, and what they hold


def test_passes_over_a_pydataset_with_workers_stay_in_order(float64, caplog):
    """No batch is drawn for its shapes alone: every pass begins with the first batch."""
    whole, streamed = compiled(network()), compiled(network(), LBFGS(cache=False))
    streamed.set_weights(whole.get_weights())
    expected = whole.fit(X, Y, epochs=5, verbose=0).history["loss"]
    data = Threaded(workers=3, max_queue_size=4)
    np.testing.assert_allclose(streamed.fit(data, epochs=5, verbose=0).history["loss"], expected, rtol=1e-9)
    assert "another order" not in caplog.text


def test_interrupted_between_two_batches_leaves_no_worker(float64, monkeypatch):
    before = set(threading.enumerate())
    model, stock = compiled(linear(), LBFGS(cache=False)), FullPass.add

    def third_batch_fails(*arguments):
        model.batches += 1
        if model.batches == 3:
            raise BoomError
        return stock(*arguments)

    model.batches = 0
    model.fit(Threaded(workers=3), epochs=1, verbose=0)
    monkeypatch.setattr(FullPass, "add", third_batch_fails)
    with pytest.raises(BoomError) as raised:
        model.fit(Threaded(workers=3), epochs=3, verbose=0)
    assert left_of(before) == []
    assert raised.value.__traceback__ is not None


class Concatenating(keras.Model):
    """A physics-informed loss of a network that joins its inputs: derivatives of derivatives of a concatenation."""

    def __init__(self):
        super().__init__()
        self.join = keras.layers.Concatenate()
        self.hidden = keras.layers.Dense(8, "tanh")
        self.out = keras.layers.Dense(1)

    def call(self, inputs):
        return self.out(self.hidden(self.join([inputs[:, :1], inputs[:, 1:]])))

    def train_step(self, data):
        x, y = data
        t, s = x[:, :1], x[:, 1:]
        with tf.GradientTape() as tape:
            with tf.GradientTape() as second:
                second.watch(s)
                with tf.GradientTape(persistent=True) as first:
                    first.watch([t, s])
                    u = self(tf.concat([t, s], axis=1))
                u_t, u_s = first.gradient(u, t), first.gradient(u, s)
            u_ss = second.gradient(u_s, s)
            loss = self.optimizer.scale_loss(tf.reduce_mean((u_t - u_ss) ** 2) + tf.reduce_mean((u - y) ** 2))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@pytest.mark.slow_cases("*-cg-*")
@pytest.mark.parametrize(("method", "precision"), [("l-bfgs-b", "model"), ("newton-cg", "float64")])
def test_xla_where_a_concatenation_is_differentiated_again(method, precision):
    """The same rows as without XLA."""
    x, y = (array.astype("float32") for array in (X[:, :2], Y))
    rows = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        optimizer = kormos_opt.ScipyBatchOptimizer(method=method, precision=precision)
        model = compiled(Concatenating(), optimizer, jit_compile=jit_compile)
        rows.append(model.fit(x, y, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*rows, rtol=1e-4 if precision == "model" else 1e-9)
