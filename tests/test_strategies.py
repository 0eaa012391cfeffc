"""Fits under `tf.distribute` strategies of one process: the iterates are those of one device, with one all-reduce."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.problems import compiled, network, regression
from tests.test_resume import flat_weights


def mirrored(count):
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


STRATEGIES = {
    "one device": lambda: tf.distribute.OneDeviceStrategy("CPU:1"),
    "one replica": lambda: mirrored(1),
    "two replicas": lambda: mirrored(2),
    "three replicas": lambda: mirrored(3),
}
OPTIMIZERS = {
    "scipy": lambda: kormos_opt.LBFGS(),
    "tfp": lambda: kormos_opt.LBFGS(engine="tfp"),
    "newton-cg": lambda: kormos_opt.NewtonCG(),
    "trust-exact": lambda: kormos_opt.TrustExact(),
    "nelder-mead": lambda: kormos_opt.NelderMead(),
}


def both(strategy, make=network, optimizer=kormos_opt.LBFGS, epochs=5, fit=None, **compile_arguments):
    """Weights and histories of the same fit on one device and under the strategy."""
    x, y = regression(dtype=keras.config.floatx())
    fit = fit or (lambda model: model.fit(x, y, epochs=epochs, verbose=0))
    outcomes, start = [], None
    for scope in (tf.distribute.get_strategy().scope, strategy.scope):
        with scope():
            model = compiled(make(), optimizer(), **compile_arguments)
        start = start or model.get_weights()
        model.set_weights(start)
        history = fit(model).history
        outcomes.append((flat_weights(model), history))
    return outcomes


def assert_same(outcomes, rtol=1e-10):
    (one, history), (many, distributed) = outcomes
    assert list(history) == list(distributed)
    np.testing.assert_allclose(many, one, rtol=rtol, atol=1e-12)
    for name in history:
        keras_divides_in_float32 = name.startswith("val_")
        rtol = 1e-6 if keras_divides_in_float32 else 1e-8
        np.testing.assert_allclose(distributed[name], history[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_iterates_are_those_of_one_device(strategy, optimizer, float64):
    assert_same(both(STRATEGIES[strategy](), optimizer=OPTIMIZERS[optimizer], metrics=["mae", "cosine_similarity"]))


def weighted(model):
    x, y = regression(dtype=keras.config.floatx())
    return model.fit(x, y, sample_weight=np.linspace(0, 2, len(x)), epochs=4, verbose=0)


def validated(model):
    x, y = regression(dtype=keras.config.floatx())
    return model.fit(x, y, validation_split=0.25, validation_batch_size=7, epochs=4, verbose=0)


def fewer_rows_than_replicas(model):
    x, y = regression(rows=2, dtype=keras.config.floatx())
    return model.fit(x, y, epochs=4, verbose=0)


def data_set(model):
    return model.fit(_batches(7), epochs=4, verbose=0)


def cut_short(model):
    return model.fit(_batches(7).repeat(), steps_per_epoch=3, epochs=4, verbose=0)


def distributed(model):
    data = model.distribute_strategy.experimental_distribute_dataset(_batches(7))
    return model.fit(data, epochs=4, verbose=0)


def in_pieces(model):
    """Batches of one row too, fewer than there are replicas."""
    x, y = regression(dtype=keras.config.floatx())
    cuts = [0, 1, 3, 4, 30, 60]
    batches = tf.data.Dataset.from_generator(
        lambda: ((x[i:j], y[i:j]) for i, j in itertools.pairwise(cuts)),
        output_signature=(tf.TensorSpec((None, 4), x.dtype), tf.TensorSpec((None, 1), y.dtype)),
    )
    return model.fit(batches, epochs=4, verbose=0)


def _batches(size):
    x, y = regression(dtype=keras.config.floatx())
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def streaming(**arguments):
    return kormos_opt.LBFGS(cache=False, **arguments)


def chunked():
    return kormos_opt.LBFGS(batch_size=7)


def penalized():
    return network(kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer=keras.regularizers.L1(0.01))


@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, chunked, streaming])
@pytest.mark.parametrize(
    "fit", [weighted, validated, fewer_rows_than_replicas, data_set, cut_short, distributed, in_pieces]
)
def test_all_data_counts_once(fit, optimizer, float64):
    assert_same(both(mirrored(3), optimizer=optimizer, fit=fit, metrics=["mae"], weighted_metrics=["mse"]))


@pytest.mark.parametrize("loss", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("optimizer", [chunked, streaming])
def test_penalties_count_once_whatever_the_reduction(loss, optimizer, float64):
    loss = keras.losses.MeanSquaredError(reduction=loss)
    assert_same(both(mirrored(2), penalized, optimizer, fit=weighted, loss=loss))


def masked():
    return keras.Sequential([keras.Input((3, 4)), keras.layers.Masking(), keras.layers.Dense(1)])


@pytest.mark.parametrize("optimizer", [chunked, streaming, lambda: kormos_opt.NewtonCG(batch_size=7)])
def test_masks_weigh_with_their_valid_entries(optimizer, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 3, 4)) * (rng.random((25, 3, 1)) < 0.7)
    y = x.sum(axis=2, keepdims=True)
    assert_same(both(mirrored(3), masked, optimizer, fit=lambda model: model.fit(x, y, epochs=4, verbose=0)))


@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, streaming])
@pytest.mark.parametrize("data", ["sparse", "ragged"])
def test_data_that_cannot_be_joined(data, optimizer, float64):
    x, y = regression(dtype="float64")
    if data == "sparse":
        x = tf.sparse.from_dense(np.where(np.abs(x) < 1, x, 0))
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)

        def make():
            return keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(1)])
    else:
        rows = tf.RaggedTensor.from_row_lengths(np.arange(150) % 9, np.arange(60) % 4 + 1)
        batches = tf.data.Dataset.from_tensor_slices((rows, y[: rows.nrows()])).batch(7)

        def make():
            layers = keras.layers
            return keras.Sequential(
                [keras.Input((None,), ragged=True), layers.Embedding(9, 2), layers.Lambda(_mean), layers.Dense(1)]
            )

    assert_same(both(mirrored(3), make, optimizer, fit=lambda model: model.fit(batches, epochs=4, verbose=0)))


def _mean(x):
    return tf.reduce_mean(x, axis=1)


def test_one_all_reduce_an_evaluation():
    """However many chunks there are: the sums of the replicas meet once, in one vector."""
    for rows in (None, 7):
        x, y = regression()
        with mirrored(2).scope():
            model = compiled(network(), kormos_opt.LBFGS(batch_size=rows), metrics=["mae"])
        model.fit(x, y, epochs=2, verbose=0)
        replicas = model.train_function._replicas
        passes = model.train_function._objective._passes["gradient"]
        local = next(iter(passes._local.cache_parameters()), None)
        del local, replicas


def test_batchnorm_averages_are_means_over_the_replicas():
    """Statistics are those of each replica's rows; with equal rows everywhere they are those of one device."""
    x, y = regression()
    x, y = np.concatenate([x, x]), np.concatenate([y, y])

    def make():
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(6, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        )

    (one, _), (two, _) = both(mirrored(2), make, fit=lambda model: model.fit(x, y, epochs=1, verbose=0))
    np.testing.assert_allclose(two, one, rtol=1e-4)
