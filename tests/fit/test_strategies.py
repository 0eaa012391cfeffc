"""Fits under `tf.distribute` strategies of one process: the iterates are those of one device, with one all-reduce."""

import gc
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from tests.support.helpers import collectives, flat_weights, operations_of_an_iteration, with_dropout_and_batchnorm
from tests.support.light_solver import light
from tests.support.problems import compiled, network, prepared, regression


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
    "light": light,
    "graph": lambda: kormos_opt.LBFGS(engine="graph"),
    "ss-broyden": lambda: kormos_opt.SSBroyden(),
    "newton-cg": lambda: kormos_opt.NewtonCG(),
    "trust-exact": lambda: kormos_opt.TrustExact(),
    "gauss-newton": lambda: kormos_opt.NewtonCG(curvature="gauss-newton"),
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


def assert_same(alone, distributed, rtol=1e-10):
    (one, history), (many, columns) = alone, distributed
    assert list(history) == list(columns)
    np.testing.assert_allclose(many, one, rtol=rtol, atol=1e-12)
    for name in history:
        keras_divides_in_float32 = name.startswith("val_")
        tolerance = 1e-6 if keras_divides_in_float32 else 1e-8
        np.testing.assert_allclose(columns[name], history[name], rtol=tolerance, err_msg=name)


@pytest.mark.slow_cases(
    "*-cg", "*-exact", "*-light", "*-mead", "*-newton", "*-ss-*", "one device-*", "one replica-*", "two replicas-*"
)
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [("three replicas", optimizer) for optimizer in OPTIMIZERS]
    + [("two replicas", "scipy"), ("one replica", "scipy"), ("one device", "scipy")],
)
def test_iterates_are_those_of_one_device(strategy, optimizer, float64):
    assert_same(*both(STRATEGIES[strategy](), optimizer=OPTIMIZERS[optimizer], metrics=["mae", "cosine_similarity"]))


def weighted(model):
    x, y = regression(dtype=keras.config.floatx())
    return model.fit(x, y, sample_weight=np.linspace(0, 2, len(x)), epochs=4, verbose=0)


def validated(model):
    x, y = regression(dtype=keras.config.floatx())
    return model.fit(x, y, validation_split=0.25, validation_batch_size=7, epochs=4, verbose=0)


def fewer_rows_than_replicas(model):
    x, y = regression(rows=1, dtype=keras.config.floatx())
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
    return network(kernel_regularizer=keras.regularizers.L2(0.1), bias_regularizer=keras.regularizers.L2(0.01))


@pytest.mark.slow_cases(
    "cut_short-*",
    "data_set-*",
    "distributed-*",
    "fewer_rows_than_replicas-streaming",
    "in_pieces-chunked",
    "validated-*",
    "weighted-*",
)
@pytest.mark.parametrize(
    ("fit", "optimizer"),
    [
        (weighted, chunked),
        (weighted, streaming),
        (validated, chunked),
        (fewer_rows_than_replicas, chunked),
        (fewer_rows_than_replicas, streaming),
        (data_set, chunked),
        (cut_short, streaming),
        (distributed, chunked),
        (in_pieces, chunked),
        (in_pieces, streaming),
    ],
)
def test_all_data_counts_once(fit, optimizer, float64):
    metrics = {"metrics": ["mae"], "weighted_metrics": ["mse"]}
    assert_same(*both(mirrored(2), optimizer=optimizer, fit=fit, **metrics))


@pytest.mark.slow_cases("*-chunked", "mean_with_sample_weight-*", "sum_over_batch_size-*")
@pytest.mark.parametrize("optimizer", [chunked, streaming])
@pytest.mark.parametrize("loss", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_penalties_count_once_whatever_the_reduction(loss, optimizer, float64):
    loss = keras.losses.MeanSquaredError(reduction=loss)
    assert_same(*both(mirrored(2), penalized, optimizer, fit=weighted, loss=loss))


def masked():
    return keras.Sequential([keras.Input((3, 4)), keras.layers.Masking(), keras.layers.Dense(1)])


@pytest.mark.slow_cases("<lambda>", "streaming")
@pytest.mark.parametrize("optimizer", [chunked, streaming, lambda: kormos_opt.NewtonCG(batch_size=7)])
def test_masks_weigh_with_their_valid_entries(optimizer, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 3, 4)) * (rng.random((25, 3, 1)) < 0.7)
    y = x.sum(axis=2, keepdims=True)
    masks_are_float64 = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 11)
    outcomes = both(mirrored(2), masked, optimizer, fit=lambda model: model.fit(x, y, epochs=4, verbose=0))
    assert_same(*outcomes, rtol=1e-10 if masks_are_float64 else 1e-6)


@pytest.mark.slow_cases("*-LBFGS", "ragged-*")
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

    assert_same(*both(mirrored(2), make, optimizer, fit=lambda model: model.fit(batches, epochs=4, verbose=0)))


def _mean(x):
    return tf.reduce_mean(x, axis=1)


@pytest.mark.slow_cases("value")
@pytest.mark.parametrize("name", ["gradient", "value", "hvp"])
def test_one_sum_over_replicas_an_evaluation(name):
    """However many chunks, metrics and averages there are, the graph adds up one vector. On CPUs that is an AddN."""
    x, y = regression()
    with mirrored(2).scope():
        model = compiled(with_dropout_and_batchnorm(), kormos_opt.NewtonCG(batch_size=7), metrics=["mae"])
    objective = prepared(model, x, y)
    counts = collectives(objective, name)
    assert counts["AddN"] == 1
    assert not any("Collective" in operation for operation in counts)


@pytest.mark.slow_cases("streaming")
@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, streaming])
def test_stop_and_resume_is_never_stopped(optimizer):
    x, y = regression()
    strategy, weights = mirrored(2), []
    for pieces in ((6,), (1, 3, 6)):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = compiled(with_dropout_and_batchnorm(), optimizer())
        for start, end in itertools.pairwise((0, *pieces)):
            model.fit(x, y, epochs=end, initial_epoch=start, verbose=0)
        weights.append(flat_weights(model))
    np.testing.assert_array_equal(weights[0], weights[1])


@pytest.mark.slow_cases("how0")
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eager_and_compiled_models(how, float64):
    assert_same(*both(mirrored(2), optimizer=chunked, epochs=3, **how))


@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, streaming])
def test_eager_models_with_fewer_rows_than_replicas(optimizer, float64):
    x, y = regression(rows=3, dtype="float64")
    data = tf.data.Dataset.from_tensor_slices((x[:1], y[:1])).batch(1)

    def fit(model):
        return model.fit(data, epochs=2, verbose=0)

    assert_same(*both(mirrored(2), optimizer=optimizer, fit=fit, run_eagerly=True, metrics=["mae"]))


def test_a_metric_says_how_its_variables_meet(float64):
    class Scaled(keras.metrics.Metric):
        def __init__(self, name="scaled"):
            super().__init__(name=name)
            self.total = self.add_variable((), "zeros")
            self.scale = self.add_variable((), "ones", aggregation="only_first_replica")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(keras.ops.sum(y_true - y_pred))

        def reset_state(self):
            self.total.assign(0.0)

        def result(self):
            return self.total * self.scale

    assert_same(*both(mirrored(3), optimizer=chunked, metrics=[Scaled()], epochs=2), rtol=1e-10)


def test_float64_of_a_float32_model():
    """Layers read x itself on every replica."""
    outcomes = both(mirrored(2), optimizer=lambda: kormos_opt.LBFGS(precision="float64"))
    np.testing.assert_allclose(outcomes[1][0], outcomes[0][0], rtol=1e-6)
    np.testing.assert_allclose(outcomes[1][1]["loss"], outcomes[0][1]["loss"], rtol=1e-12)


def test_logs_of_a_custom_step_are_means_over_rows(float64):
    class Custom(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            logs = super().train_step(data)
            x, _ = data
            return {**logs, "mean of x": tf.reduce_mean(x)}

    x, y = regression(dtype="float64")
    with mirrored(3).scope():
        model = compiled(Custom())
    history = model.fit(x[:50], y[:50], epochs=2, verbose=0).history
    np.testing.assert_allclose(history["mean of x"], np.mean(x[:50]), rtol=1e-12)


def test_an_unbuilt_model_and_evaluate(float64):
    x, y = regression(dtype="float64")
    with mirrored(2).scope():
        model = compiled(keras.Sequential([keras.layers.Dense(1)]), metrics=["mae"])
    model.evaluate(x[:4], y[:4], verbose=0)
    loss = model.fit(x, y, epochs=30, verbose=0).history["loss"][-1]
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=7, verbose=0)[0], loss, rtol=1e-6)


def test_inside_the_scope_or_outside(float64):
    x, y = regression(dtype="float64")
    strategy, weights = mirrored(2), []
    for inside in (True, False):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = compiled(network())
            if inside:
                model.fit(x, y, epochs=3, verbose=0)
        if not inside:
            model.fit(x, y, epochs=3, verbose=0)
        weights.append(flat_weights(model))
    np.testing.assert_array_equal(weights[0], weights[1])


def test_train_on_batch_and_functions_of_the_weights(float64):
    x, y = regression(dtype="float64")
    values = []
    for scope in (tf.distribute.get_strategy().scope, mirrored(2).scope):
        keras.utils.set_random_seed(0)
        with scope():
            model = compiled(network())
        optimizer = kormos_opt.LBFGS()
        optimizer.build(model, (x, y))
        point = np.linspace(-1, 1, len(optimizer.get_weights()))
        values.append([optimizer.func(point), *optimizer.grad(point), *optimizer.hessp(point, point)])
        values[-1] += np.ravel(model.train_on_batch(x, y)).tolist()
    np.testing.assert_allclose(values[1], values[0], rtol=1e-10)


def test_no_host_callback_under_a_strategy():
    """An iteration of the in-graph engine, as a TPU would run it."""
    x, y = regression()
    with mirrored(2).scope():
        model = compiled(network(), light())
    model.fit(x, y, epochs=1, verbose=0)
    operations = operations_of_an_iteration(model, x, y)
    assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & operations


def test_nothing_keeps_the_data():
    x, y = regression(rows=1000)
    with mirrored(2).scope():
        model = compiled(network())
    model.fit(x, y, epochs=2, verbose=0)
    gc.collect()
    rows = {500, 1000}
    kept = [
        each
        for each in gc.get_objects()
        if isinstance(each, tf.Tensor) and tuple(each.shape[:1])[:1] and each.shape[0] in rows
    ]
    assert not [each for each in kept if hasattr(each, "numpy")]


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gpus(optimizer, float64):
    strategy = tf.distribute.MirroredStrategy()
    assert_same(*both(strategy, optimizer=OPTIMIZERS[optimizer]), rtol=1e-8)


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
