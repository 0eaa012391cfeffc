"""kormos's API: its models, its functions of the flat vector, and the examples of its documentation."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import kormos_opt
from kormos_opt.models import BatchOptimizedModel, BatchOptimizedSequentialModel
from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.optimizers import BatchOptimizer, ScipyBatchOptimizer
from tests.support.problems import compiled, finite_differences, linear, network, regression

RANK = 50


def regression_of_the_document():
    np.random.seed(1)
    w = np.random.normal(size=RANK)
    x = np.random.normal(size=(1000, RANK))
    y = np.expand_dims(x.dot(w), axis=1)
    x_val = np.random.normal(size=(1000, RANK))
    return w, x, y, x_val, np.expand_dims(x_val.dot(w), axis=1)


def dense_of_the_document():
    return keras.layers.Dense(
        units=1,
        activation=None,
        use_bias=False,
        kernel_regularizer=keras.regularizers.L2(1e-3),
        kernel_initializer="ones",
    )


def test_sequential_example_of_the_document():
    """With its option "maxcors", a slip that scipy ignored with a warning; `input_shape` is left to Keras's warning."""
    model = BatchOptimizedSequentialModel()
    model.add(dense_of_the_document())
    loss = keras.losses.MeanSquaredError()
    model.compile(loss=loss, optimizer="l-bfgs-b", metrics=["mean_absolute_error"])
    w, x, y, x_val, y_val = regression_of_the_document()
    with pytest.warns(UserWarning, match=r"Left out options .* maxcors \(L-BFGS-B knows .*maxcor,"):
        history = model.fit(x=x, y=y, epochs=10, validation_data=(x_val, y_val), options={"maxcors": 3})
    best_fit_weights = np.reshape(model.trainable_weights[0].numpy(), (1, -1))
    assert np.allclose(best_fit_weights, w, 1e-2)
    np.testing.assert_allclose(history.history["loss"][:4], [79.121972, 0.192005, 0.056429, 0.047397], rtol=1e-4)
    assert history.history["fg_evals"][:4] == [2, 3, 4, 5]

    model.compile(loss=model.loss, optimizer="adam", metrics=["mean_absolute_error"])
    model.set_weights([np.random.random(size=(RANK, 1))])
    history = model.fit(x=x, y=y, epochs=2, validation_data=(x_val, y_val))
    assert sorted(history.history) == ["loss", "mean_absolute_error", "val_loss", "val_mean_absolute_error"]


def test_functional_example_of_the_document():
    model_input = keras.Input(shape=(RANK,), name="input")
    model = BatchOptimizedModel(inputs=model_input, outputs=dense_of_the_document()(model_input))
    model.compile(loss=keras.losses.MeanSquaredError(), optimizer="newton-cg", metrics=["mean_absolute_error"])
    w, x, y, x_val, y_val = regression_of_the_document()
    history = model.fit(x=x, y=y, epochs=10, validation_data=(x_val, y_val))
    assert np.allclose(np.reshape(model.trainable_weights[0].numpy(), (1, -1)), w, 1e-2)
    assert history.history["hessp_evals"][-1] > 0


def test_factorization_example_of_the_document():
    """Its dot product is flattened, as Keras 3 needs: see docs/coming_from/kormos.md."""
    layers = keras.layers
    inputs = [keras.Input((1,), name=name, dtype="int32") for name in ("user", "item")]
    embeddings = [
        layers.Embedding(20, 2, mask_zero=True, embeddings_regularizer=keras.regularizers.L2(1e-5))(each)
        for each in inputs
    ]
    output = layers.Flatten()(layers.Dot(axes=2, normalize=False)(embeddings))
    model = BatchOptimizedModel(inputs=inputs, outputs=output)
    model.compile(loss=keras.losses.MeanSquaredError(), optimizer="l-bfgs-b")
    rng = np.random.default_rng(0)
    users, items, ratings = rng.integers(1, 20, 300), rng.integers(1, 20, 300), rng.uniform(size=300)
    train = (users[:250], items[:250]), ratings[:250, None]
    validation = (users[250:], items[250:]), ratings[250:, None]
    history = model.fit(*train, batch_size=2**14, epochs=10, verbose=0, validation_data=validation)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert "val_loss" in history.history


def test_mnist_example_of_the_document():
    """Adam for an epoch, then the solver; its bfgs on 34,826 weights gets the memory error."""
    layers = keras.layers
    model = BatchOptimizedSequentialModel(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(64, 28, 28, 1)).astype("float32")
    y = keras.utils.to_categorical(rng.integers(0, 10, 64), 10)
    loss = keras.losses.CategoricalCrossentropy()
    model.compile(loss=loss, optimizer="adam", metrics=["accuracy"])
    model.fit(x, y, batch_size=2**5, epochs=1, validation_data=(x, y), verbose=0)
    model.compile(loss=loss, optimizer=ScipyBatchOptimizer(), metrics=["accuracy"])
    with pytest.raises(MemoryError, match=r"BFGS for 34,826 weights.*9\.0 GiB each.*Use L-BFGS-B"):
        model.fit(x, y, batch_size=2**14, epochs=3, validation_data=(x, y), method="bfgs", verbose=0)
    history = model.fit(x, y, batch_size=2**14, epochs=3, validation_data=(x, y), method="l-bfgs-b", verbose=0)
    assert all(np.diff(history.history["loss"]) < 0)


def test_fit_without_solver_arguments_resumes():
    x, y = regression()
    whole, cut = (BatchOptimizedSequentialModel([keras.Input((4,)), keras.layers.Dense(1)]) for _ in range(2))
    cut.set_weights(whole.get_weights())
    compiled(whole).fit(x, y, epochs=5, verbose=0)
    compiled(cut).fit(x, y, epochs=2, verbose=0)
    cut.fit(x, y, epochs=5, initial_epoch=2, verbose=0)
    np.testing.assert_array_equal(whole.get_weights()[0], cut.get_weights()[0])


def test_the_evaluation_batch_is_kormos_default_or_the_argument():
    seen = []
    model = compiled(BatchOptimizedSequentialModel([keras.Input((4,)), keras.layers.Dense(1)]), "scipy")
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.optimizer.batch_size))
    model.fit(*regression(), epochs=1, callbacks=[look], verbose=0)
    model.fit_batch(*regression(), batch_size=7, epochs=1, callbacks=[look], verbose=0)
    assert seen == [1024, 7]
    assert model.optimizer.batch_size is None


def test_batch_size_of_a_later_fit_counts():
    """BatchNorm sees the cut of the rows."""

    def losses(*batch_sizes):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4,)), keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization()]
        model = compiled(BatchOptimizedSequentialModel([*layers, keras.layers.Dense(1)]), "scipy")
        start = model.get_weights()
        for batch_size in batch_sizes:
            model.set_weights(start)
            history = model.fit(*regression(), batch_size=batch_size, epochs=2, verbose=0).history
        return history["loss"]

    assert losses(60, 10) == losses(10) != losses(60)


def test_unknown_options_are_left_out_stage_by_stage():
    model = compiled(BatchOptimizedSequentialModel([keras.Input((4,)), keras.layers.Dense(1)]), "scipy")
    with pytest.warns(UserWarning, match=r"maxcor \(CG knows"):
        model.fit(*regression(), epochs=[2, 2], method=["l-bfgs-b", "cg"], options={"maxcor": 3}, verbose=0)
    with pytest.warns(UserWarning, match=r"maxcor \(CG knows"):
        options = [{"maxcor": 3}, {"maxcor": 3}]
        model.fit(*regression(), epochs=[2, 2], method=[None, "cg"], options=options, verbose=0)


@pytest.mark.parametrize(
    ("method", "options"), [("powell", {"xtol": 1.0, "ftol": 10.0}), ("trust-krylov", {"gtol": 1e9})]
)
def test_valid_options_that_scipy_documents_elsewhere_are_kept(method, options):
    """A warning is an error here, and so coarse a tolerance ends the fit at once."""
    model = compiled(BatchOptimizedSequentialModel([keras.Input((4,)), keras.layers.Dense(1)]), "scipy")
    history = model.fit(*regression(), epochs=50, method=method, options=options, verbose=0)
    assert len(history.epoch) <= 3


def test_solver_arguments_need_one_of_our_optimizers():
    model = compiled(BatchOptimizedSequentialModel([keras.Input((4,)), keras.layers.Dense(1)]), "sgd")
    with pytest.raises(ValueError, match=r"Received: method, and optimizer=.*SGD"):
        model.fit(*regression(), method="bfgs", verbose=0)
    with pytest.raises(RuntimeError, match="Expected a model compiled with"):
        model.fit_batch(*regression())
    with pytest.raises(ValueError, match=r"PyDataset. Received: max_queue_size=10, workers=4"):
        compiled(model, "scipy").fit_batch(*regression(), workers=4)


@pytest.mark.parametrize("made", [BatchOptimizedModel, BatchOptimizedSequentialModel])
def test_keras_file_round_trip(made, tmp_path):
    if made is BatchOptimizedModel:
        inputs = keras.Input((4,))
        model = made(inputs, keras.layers.Dense(1)(inputs))
    else:
        model = made([keras.Input((4,)), keras.layers.Dense(1)])
    x, y = regression()
    compiled(model, "newton-cg").fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is made
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    loaded.fit(x, y, epochs=2, verbose=0)


def built(precision="float64"):
    x, y = regression()
    model = compiled(network(), ScipyBatchOptimizer(precision=precision))
    model.optimizer.build(model, (x, y))
    return model, model.optimizer


def test_functions_of_the_flat_vector():
    model, optimizer = built()
    x0 = optimizer.get_weights()
    np.testing.assert_array_equal(x0, np.concatenate([weight.ravel() for weight in model.get_weights()]))
    np.testing.assert_allclose(optimizer.func(x0), model.evaluate(*regression(), verbose=0), rtol=1e-5)
    direction = np.random.default_rng(0).normal(size=x0.size)
    slope = finite_differences(optimizer.func, x0, direction)
    np.testing.assert_allclose(optimizer.grad(x0) @ direction, slope, rtol=1e-7)
    quotient = finite_differences(optimizer.grad, x0, direction)
    np.testing.assert_allclose(optimizer.hessp(x0, direction), quotient, rtol=1e-6, atol=1e-9)
    fun, jac = optimizer.func_and_grad(x0)
    assert fun == optimizer.func(x0)
    np.testing.assert_array_equal(jac, optimizer.grad(x0))
    optimizer.set_weights(x0 + 1)
    np.testing.assert_allclose(optimizer.get_weights(), x0 + 1, rtol=1e-6)


def test_they_are_what_scipy_takes():
    _, optimizer = built()
    result = scipy.optimize.minimize(
        optimizer.func, optimizer.get_weights(), jac=optimizer.grad, hessp=optimizer.hessp, method="trust-ncg"
    )
    assert result.success


def test_values_are_kept(monkeypatch):
    _, optimizer = built()
    x0, evaluations, evaluate = optimizer.get_weights(), [], BoundObjective.evaluate

    def counted(*arguments):
        evaluations.append(1)
        return evaluate(*arguments)

    monkeypatch.setattr(BoundObjective, "evaluate", counted)
    for point in [x0 + shift for shift in range(10)] * 2:
        optimizer.func(point), optimizer.grad(point)
    assert len(evaluations) == 10
    optimizer.func(x0 + 10)
    optimizer.func(x0)
    assert len(evaluations) == 12
    kept = optimizer.grad(x0)
    kept[:] = 0
    assert np.abs(optimizer.grad(x0)).max() > 0


@pytest.mark.parametrize("data", ["tuple", "dataset"])
def test_minimize(data):
    x, y = regression()
    fitted, minimized = linear(), linear()
    minimized.set_weights(fitted.get_weights())
    compiled(fitted, "bfgs").fit(x, y, epochs=5, verbose=0)
    compiled(minimized, "bfgs")
    pairs = (x, y) if data == "tuple" else tf.data.Dataset.from_tensor_slices((x, y)).batch(60)
    minimized.optimizer.build(minimized, pairs)
    seen = []
    result = minimized.optimizer.minimize(epochs=5, callback=seen.append)
    np.testing.assert_array_equal(fitted.get_weights()[0], minimized.get_weights()[0])
    assert result is minimized.optimizer.result
    assert result.nit == len(seen) == 5
    np.testing.assert_allclose(seen[-1], minimized.optimizer.get_weights())


def test_minimize_in_a_chain_takes_precedence():
    _, optimizer = built()
    before = np.linalg.norm(optimizer.grad(optimizer.get_weights()))
    result = optimizer.minimize(epochs=[3, 50], method=["cg", "newton-cg"], options=[{"gtol": 1e-9}, {"xtol": 1e-10}])
    assert result.nhev > 50
    assert optimizer.stages[0].name == "L-BFGS-B"
    assert np.linalg.norm(optimizer.grad(optimizer.get_weights())) < 1e-2 * before


def test_build_with_another_optimizer_in_the_model():
    x, y = regression()
    model = compiled(linear(), "adam")
    adam = model.optimizer
    optimizer = ScipyBatchOptimizer(method="cg")
    optimizer.build(model, (x, y))
    assert optimizer.minimize(epochs=20).success
    assert model.optimizer is adam


@pytest.mark.parametrize("call", ["get_weights", "func", "grad", "func_and_grad", "minimize"])
def test_not_built(call):
    optimizer = ScipyBatchOptimizer()
    with pytest.raises(RuntimeError, match=r"Call optimizer.build\(model, data\) first"):
        getattr(optimizer, call)(*([np.zeros(3)] if "func" in call or call == "grad" else []))


def test_arguments_of_the_base():
    with pytest.raises(ValueError, match="Received: dtype='float32'"):
        BatchOptimizer(dtype="float32")
    with pytest.raises(ValueError, match="Received: max_cache_entries=0"):
        BatchOptimizer(max_cache_entries=0)
    with pytest.raises(ValueError, match=r"Expected shape \(31,\). Received: shape \(3,\)"):
        built()[1].func(np.zeros(3))
    names = BatchOptimizer("mine", 128, 5, "float64").get_config()
    assert (names["name"], names["batch_size"], names["max_cache_entries"]) == ("mine", 128, 5)
    assert kormos_opt.optimizers.BatchOptimizer is BatchOptimizer
