"""One test for each fact of Keras and TensorFlow that `keras_internals` relies on."""

import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.base
import tensorflow as tf
from keras.src.backend import AutocastScope, get_autocast_scope, get_keras_mask
from keras.src.backend.tensorflow import trainer as tensorflow_trainer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.losses import loss as loss_module
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter
from keras.src.trainers.trainer import Trainer
from keras.src.wrappers.sklearn_wrapper import SKLBase
from tensorflow.python.distribute.input_ops import auto_shard_dataset

import kormos_opt
from kormos_opt.integration.fit_callbacks import _show_rows
from kormos_opt.keras_internals.model import compiled_with, has_mask
from kormos_opt.keras_internals.recorded import added_to_valid_entries, twice_differentiable, undivided_losses
from kormos_opt.keras_internals.version import TESTED, check_version
from tests.support.problems import linear, regression

pytestmark = pytest.mark.quick

X, Y = regression()


def test_functions_can_be_left_out_of_the_warning_of_retracing():
    assert tf.function(lambda x: x)._omit_frequent_tracing_warning is False


def stock(name):
    return getattr(TensorFlowTrainer, name)._kormos_opt_stock


def test_every_model_inherits_the_patched_methods():
    assert keras.Model.fit is TensorFlowTrainer.fit
    assert keras.Sequential.make_train_function is TensorFlowTrainer.make_train_function


def test_fit_has_the_arguments_that_are_taken_from_it():
    names = inspect.signature(stock("fit")).parameters
    assert {
        "x", "y", "sample_weight", "class_weight", "batch_size", "steps_per_epoch", "shuffle",
        "callbacks", "validation_split", "validation_data", "validation_batch_size", "verbose",
    } <= names.keys()  # fmt: skip


def test_compile_forgets_the_train_function():
    model = linear()
    model.compile("sgd", "mse")
    model.train_function = object()
    model.compile("sgd", "mse")
    assert model.train_function is None


def test_fit_calls_a_train_function_that_is_there_once_per_step_and_shows_its_last_logs():
    model = linear()
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    calls = []
    model.train_function = lambda iterator: calls.append(iterator) or {"loss": 1.0, "grad": float(len(calls))}
    data = tf.data.Dataset.from_tensors(0).repeat()
    history = model.fit(data, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0)
    assert len(calls) == 6
    assert history.history == {"loss": [1.0, 1.0], "grad": [3.0, 6.0]}


def test_fit_begins_at_the_epoch_that_a_callback_has_set():
    model, epochs = linear(), []
    model.compile(optimizer="sgd", loss="mse")
    callback = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: setattr(model, "_initial_epoch", 2),
        on_epoch_begin=lambda epoch, logs: epochs.append(epoch),
    )
    model.fit(X, Y, epochs=4, callbacks=[callback], verbose=0)
    assert epochs == [2, 3]
    assert linear()._initial_epoch is None


def test_wrappers_of_scikit_learn_fit_by_one_method_and_clones_forget_its_arguments(monkeypatch):
    assert all(
        wrapper.fit is SKLBase.fit for wrapper in (keras.wrappers.SKLearnRegressor, keras.wrappers.SKLearnClassifier)
    )
    estimator = keras.wrappers.SKLearnRegressor(linear, fit_kwargs={"epochs": 3})
    assert sklearn.base.clone(estimator).fit_kwargs is None


def test_a_scheduler_asks_for_several_optimizers_by_their_name():
    """A chain must not have an attribute `optimizers`: the rate of every stage would be set."""
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.optimizers = []
    model = linear()
    model.compile(optimizer=optimizer, loss="mse")
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5)
    model.fit(X, Y, callbacks=[scheduler], verbose=0)
    asks = "optimizer.optimizers" in inspect.getsource(keras.callbacks.LearningRateScheduler)
    assert float(optimizer.learning_rate) == (1.0 if asks else 0.5)
    assert not hasattr(kormos_opt.Chain(["adam"]), "optimizers")


def test_stop_training_ends_the_epoch_at_that_step():
    model = linear()
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)

    def train_function(iterator):
        model.stop_training = True
        return {"loss": 1.0, "grad": 1.0}

    model.train_function = train_function
    data = tf.data.Dataset.from_tensors(0).repeat()
    assert model.fit(data, steps_per_epoch=5, epochs=9, shuffle=False, verbose=0).epoch == [0]


def test_a_model_remembers_the_strategy_it_was_made_under():
    assert linear()._distribute_strategy is None
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert linear()._distribute_strategy is tf.distribute.get_strategy()


def test_train_on_batch_hands_over_an_iterator_of_one_batch():
    model = linear()
    model.compile("sgd", "mse")
    seen = []
    model.train_function = lambda iterator: seen.extend(iterator) or {"loss": 0.0}
    model.train_on_batch(X, Y)
    ((x, y, sample_weight),) = seen
    assert sample_weight is None
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_loss_scaling_wraps_the_optimizer():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = linear()
        model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.SGD)


def test_train_step_scales_the_loss_and_applies_gradients():
    model = linear()
    model.compile("sgd", "mse")
    heard = []

    class Listening(keras.optimizers.SGD):
        def scale_loss(self, loss):
            heard.append(tuple(loss.shape))
            return loss

        def apply(self, grads, trainable_variables=None):
            heard.append(len(grads))

    model.compile(Listening(), "mse")
    model.fit(X, Y, epochs=1, batch_size=60, verbose=0)
    assert heard == [(), 2]


def test_arrays_come_as_one_batch():
    assert array_data_adapter.can_convert_arrays((X, Y, None))
    adapter = get_data_adapter(X.astype("float64"), Y, None, batch_size=len(X), class_weight=None)
    sliceables = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="numpy")
    ((x, y),) = adapter._get_iterator(lambda sliceable, indices: sliceable[indices], sliceables)
    assert x.dtype == "float32"
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_validation_split_takes_the_last_rows():
    (x, y, _), (x_val, _, _) = array_slicing.train_validation_split((X, Y, None), validation_split=0.25)
    np.testing.assert_array_equal(x, X[:45])
    np.testing.assert_array_equal(x_val, X[45:])
    assert len(y) == 45


def test_epoch_iterator_starts_over_after_reset():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7).repeat()
    epoch = TFEpochIterator(x=data, steps_per_epoch=3, distribute_strategy=tf.distribute.get_strategy())
    for _ in range(2):
        epoch.reset()
        batches = [next(iterator) for *_, iterator in epoch]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), X[:21])


def test_every_loss_is_called_through_the_base_class():
    calls = []
    call = keras.losses.Loss.__call__

    def recording(self, *arguments, **keywords):
        calls.append(type(self).__name__)
        return call(self, *arguments, **keywords)

    keras.losses.Loss.__call__ = recording
    try:
        model = linear()
        model.compile("sgd", "mse")
        model.evaluate(X, Y, verbose=0)
    finally:
        keras.losses.Loss.__call__ = call
    assert calls
    assert "CompileLoss" not in calls


def test_losses_cast_to_their_dtype():
    loss = keras.losses.MeanSquaredError()
    loss._dtype = "float64"
    assert loss(np.ones(3), np.zeros(3)).dtype == "float64"
    model = linear()
    model.compile("sgd", "mse")
    assert model._compile_loss._dtype == "float32"


def test_masks_ride_on_tensors():
    masked = keras.layers.Masking()(np.zeros((1, 2, 3), "float32"))
    np.testing.assert_array_equal(get_keras_mask(masked), [[False, False]])


def test_autocast_scope_decides_what_a_variable_reads_as():
    variable = keras.Variable(np.ones(2), dtype="float32")
    seen = []

    class Recording(AutocastScope):
        def maybe_cast(self, value):
            seen.append(value)
            return super().maybe_cast(value)

    assert get_autocast_scope() is None
    with Recording("float64"):
        assert keras.ops.sum(variable).dtype == "float64"
    assert seen[0] is variable.value


def test_regularization_losses_have_a_method_of_their_own():
    layer = keras.layers.Dense(1, kernel_regularizer="l2")
    layer.build((None, 3))
    np.testing.assert_allclose(layer._get_regularization_losses(), layer.losses)


def test_flatten_layers_reaches_every_depth():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([keras.layers.Dense(3), inner])])
    flat = list(model._flatten_layers())
    assert inner in flat
    assert model in flat


def test_concrete_functions_can_be_called_flat():
    @tf.function
    def both(x, y):
        return {"sum": x + y}, [x]

    arguments = tf.constant(1.0), tf.constant(2.0)
    concrete = both.get_concrete_function(*arguments)
    outputs = concrete._call_flat(list(arguments), concrete.captured_inputs)
    assert float(outputs[0]["sum"]) == 3.0
    assert float(outputs[1][0]) == 1.0


def test_compile_is_patched_where_load_model_looks_for_it(tmp_path):
    """`load_model` warns and compiles nothing if `Model.compile` is not `Trainer.compile`."""
    assert keras.Model.compile is Trainer.compile
    model = linear()
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").compiled


def test_names_in_lower_case_are_found_among_the_custom_objects():
    assert type(keras.optimizers.get("newton-cg")).__name__ == "NewtonCG"


def test_moments_stop_a_gradient_that_matters_twice():
    """The second derivative of the variance of x along v is 2 var(v); Keras's own computation misses var(mean)."""
    x, v = tf.constant([[1.0], [2.0], [4.0]]), tf.constant([[1.0], [0.0], [0.0]])

    def second_derivative():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                variance = keras.ops.moments(x, axes=[0])[1]
            gradient = inner.gradient(variance, x)
        return float(tf.reduce_sum(v * outer.gradient(gradient, x, output_gradients=v)))

    exact = 2 * np.var([1, 0, 0])
    assert abs(second_derivative() - exact) > 0.1
    with twice_differentiable():
        np.testing.assert_allclose(second_derivative(), exact, rtol=1e-6)


def test_the_train_step_reads_the_optimizer_from_the_model():
    model = linear()
    model.compile("sgd", "mse")
    usual, other = model.optimizer, keras.optimizers.Adam()
    with compiled_with(model, other):
        assert model.optimizer is other
    assert model.optimizer is usual


def mirrored():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = linear()
        model.compile("sgd", "mse", metrics=["mae"])
    return strategy, model


def test_under_a_strategy_keras_builds_from_the_mean_of_parts():
    """It fails where the parts differ in rows; an optimizer of ours builds from the first part."""
    _, model = mirrored()
    with pytest.raises(Exception, match=r"shape|rank|dim"):
        model.fit(X[:3], Y[:3], batch_size=3, verbose=0)
    model.compile("l-bfgs-b", "mse", metrics=["mae"])
    model.evaluate(X[:3], Y[:3], batch_size=3, verbose=0)
    assert model._compile_metrics.built
    assert model._compile_loss.built


def test_symbolic_build_makes_everything():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
        model._symbolic_build(data_batch=(X, Y))
    assert model.built
    assert len(model.metrics_variables) == 4


def test_metrics_are_summed_on_read_and_other_state_is_the_replicas_own():
    _, model = mirrored()
    model.evaluate(X, Y, verbose=0)
    on_read = tf.VariableSynchronization.ON_READ
    for variable in model.metrics_variables:
        assert variable.value.synchronization == on_read
        assert variable.value.aggregation == tf.VariableAggregation.SUM
    assert all(each.value.aggregation == tf.VariableAggregation.NONE for each in model.variables)


def test_metrics_have_results_of_values_in_a_stateless_scope():
    model = linear()
    model.compile("sgd", "mse", metrics=["mae"])
    model.evaluate(X, Y, verbose=0)
    values = [tf.constant(6.0), tf.constant(3.0)] * 2
    with keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, values, strict=True))):
        results = model.get_metrics_result()
    assert {name: float(value) for name, value in results.items()} == {"loss": 2.0, "mae": 2.0}


def test_a_replica_divides_its_loss_by_their_number():
    strategy, _ = mirrored()
    loss = keras.losses.MeanSquaredError()

    def value():
        ones = tf.ones((4, 1))
        return float(strategy.experimental_local_results(strategy.run(lambda: loss(ones, 3 * ones)))[0])

    assert value() == 2.0
    assert float(loss_module.unscale_loss_for_distribution(1.0)) == 1.0
    strategy.run(_in_replica)


def _in_replica():
    ones = tf.ones((4, 1))
    with undivided_losses():
        assert float(keras.losses.MeanSquaredError()(ones, 3 * ones)) == 4.0
        assert float(loss_module.unscale_loss_for_distribution(ones[0, 0])) == 1.0


def test_the_test_function_reduces_through_a_name_of_its_module():
    """Several workers need another `reduce_per_replica`: the stock one takes a mean along an axis of a scalar."""
    assert "reduce_per_replica" in TensorFlowTrainer._make_function.__code__.co_names or any(
        "reduce_per_replica" in getattr(const, "co_names", ())
        for const in TensorFlowTrainer._make_function.__code__.co_consts
    )
    assert list(inspect.signature(tensorflow_trainer.reduce_per_replica).parameters) == [
        "values",
        "strategy",
        "reduction",
    ]


def test_the_epoch_iterator_asks_a_strategy_only_to_distribute_its_data_set():
    asked = []

    class Strategy:
        def experimental_distribute_dataset(self, data):
            asked.append(data)
            return data.take(1)

    iterator = TFEpochIterator(x=X, y=Y, batch_size=7, distribute_strategy=Strategy())
    assert len(list(next(iter(iterator))[-1])) == 1
    assert isinstance(asked[0], tf.data.Dataset)


def test_data_sets_are_sharded_as_their_policy_says():
    for policy, elements in (("DATA", [1, 4, 7]), ("OFF", list(range(10)))):
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy[policy]
        shard = auto_shard_dataset(tf.data.Dataset.range(10).with_options(options), 3, 1)
        assert [int(each) for each in shard] == elements


def test_callbacks_write_their_files_in_one_method():
    """Of several workers, all but the first have it replaced."""
    for callback in (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore):
        assert callable(callback._save_model)
    assert keras.callbacks.BackupAndRestore("folder").delete_checkpoint


def test_saving_makes_no_optimizer_after_a_fit(tmp_path, monkeypatch):
    """Each one would cost memory that is never given back."""
    model = linear()
    model.compile("l-bfgs-b", "mse")
    model.fit(X, Y, epochs=1, verbose=0)
    made, init = [], keras.optimizers.Optimizer.__init__

    def counting(self, *args, **kwargs):
        made.append(1)
        init(self, *args, **kwargs)

    monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", counting)
    model.save(tmp_path / "model.keras")
    assert not made
    model.optimizer.from_config(model.optimizer.get_config())
    assert made


def test_losses_are_reduced_through_a_name_of_their_module(monkeypatch):
    """With the values, the weights, and the masks of predictions and values together."""
    seen = []

    def reduce(values, sample_weight=None, mask=None, reduction="sum_over_batch_size", dtype=None):
        seen.append((tuple(values.shape), mask is not None, reduction, dtype))
        return tf.reduce_sum(values)

    monkeypatch.setattr(loss_module, "reduce_weighted_values", reduce)
    keras.losses.MeanSquaredError(reduction="sum")(tf.ones((3, 2)), tf.zeros((3, 2)))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=1)
    loss(tf.constant([0, 1, 0]), tf.fill((3, 2), 0.5))
    assert seen == [((3,), False, "sum", "float32"), ((3,), True, "sum_over_batch_size", "float32")]


def test_what_keras_adds_to_the_valid_entries_of_a_mask():
    """A loss of 1 in one valid entry of two: 1 / (1 + added)."""
    value = loss_module.reduce_weighted_values(
        tf.constant([1.0, 5.0], tf.float64), mask=tf.constant([True, False]), dtype="float64"
    )
    np.testing.assert_allclose(float(value), 1 / (1 + added_to_valid_entries()), rtol=1e-15)


def test_layers_keep_the_losses_they_have_added():
    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_mean(x))
            return x

    model = keras.Sequential([keras.Input((2,)), Adds(), keras.layers.Dense(1, kernel_regularizer="l2")])
    model(np.ones((3, 2)))
    assert [len(layer._losses) for layer in model.layers] == [1, 0]


def test_models_are_pickled_by_a_method_that_nobody_else_overrides():
    assert KerasSaveable.__reduce__ is TensorFlowTrainer.__reduce__._kormos_opt_stock
    make, arguments = KerasSaveable.__reduce__(linear())
    assert isinstance(make(*arguments), keras.Sequential)


def test_the_list_of_callbacks_calls_its_own_method_and_shows_its_callbacks():
    model = linear()
    model.compile("sgd", "mse")
    callbacks = keras.callbacks.CallbackList(
        [], add_history=True, add_progbar=True, verbose=1, epochs=1, steps=1, model=model
    )
    ended = []
    callbacks.on_epoch_end = lambda epoch, logs=None: ended.append(epoch)
    model.fit(X, Y, callbacks=callbacks, verbose=0)
    assert ended == [0]
    assert [type(each).__name__ for each in callbacks.callbacks] == ["History", "ProgbarLogger"]


def test_the_progress_bar_shows_a_number_as_it_is(capsys):
    logger = keras.callbacks.ProgbarLogger()
    logger.set_params({"verbose": 1, "epochs": 1, "steps": 4})
    logger.on_epoch_begin(0)
    for rows in (10, 30):
        logger.progbar._last_update = 0
        _show_rows(logger, rows)
    shown = capsys.readouterr().out
    assert "rows: 10.0000" in shown and "rows: 30.0000" in shown
    assert (logger.seen, logger.verbose) == (0, 1)


def test_variables_of_an_optimizer_are_a_list_in_order_of_creation():
    optimizer = keras.optimizers.SGD()
    optimizer.build([keras.Variable(np.ones(2))])
    variable = optimizer.add_variable((3,), name="mine")
    assert optimizer._variables[-1] is variable
    assert optimizer.variables[-1] is variable


def test_graphs_list_the_variables_that_they_read_at_any_depth():
    outer, inner = tf.Variable(1.0), tf.Variable(2.0, trainable=False)
    read = tf.function(lambda: inner * 2.0)

    @tf.function
    def loop():
        return tf.while_loop(lambda i, _: i < 2, lambda i, total: (i + 1, total + outer + read()), (0, 0.0))

    assert {id(each) for each in loop.get_concrete_function().graph.variables} == {id(outer), id(inner)}


def test_xla_makes_an_operation_whose_gradient_is_registered_here():
    @tf.function(jit_compile=True)
    def third_derivative(x):
        with tf.GradientTape() as third:
            third.watch(x)
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    y = tf.reduce_sum(tf.concat([x[:1] ** 4, x[1:] ** 5], axis=0))
                slope = first.gradient(y, x)
            curvature = second.gradient(slope, x)
        return third.gradient(curvature, x)

    np.testing.assert_allclose(third_derivative(tf.constant([1.0, 2.0])), [24.0, 240.0], rtol=1e-6)


def test_a_policy_keeps_the_dtype_of_variables_in_one_attribute():
    policy = keras.DTypePolicy("float64")
    policy._variable_dtype = "float32"
    assert (policy.compute_dtype, policy.variable_dtype) == ("float64", "float32")


def test_the_list_of_what_files_leave_out_has_two_names():
    """Kept under one and looked for under the other: what `_remember_what_files_leave_out` works around."""
    skipset = saving_lib.get_attr_skipset("Optimizer")
    assert skipset == saving_lib.get_attr_skipset("Optimizer")
    source = inspect.getsource(saving_lib.get_attr_skipset)
    assert "saving_attr_skiplist_" in source


def test_the_epoch_iterator_knows_the_shapes_of_its_batches():
    iterator = TFEpochIterator(x=X, y=Y, batch_size=7, distribute_strategy=tf.distribute.get_strategy())
    assert [spec.shape[1:] for spec in iterator._distributed_dataset.element_spec] == [(4,), (1,)]


def test_seed_generators_name_their_state():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)])
    assert [(each.name, tuple(each.shape)) for each in model.non_trainable_variables] == [
        ("seed_generator_state", (2,))
    ]


def test_a_data_set_of_keras_may_never_end():
    class Endless(keras.utils.PyDataset):
        @property
        def num_batches(self):
            return None

        def __getitem__(self, index):
            return X, Y

    model = linear()
    model.compile("sgd", "mse")
    model.fit(Endless(), steps_per_epoch=2, shuffle=False, verbose=0)


def test_an_optimizer_keeps_the_variables_it_was_built_for():
    optimizer, model = keras.optimizers.SGD(), linear()
    optimizer.build(model.trainable_variables)
    assert optimizer._trainable_variables == model.trainable_variables


def test_the_arguments_of_the_patched_methods():
    check_version(keras.__version__)


@pytest.mark.parametrize("version", ["2.15.0", "3.9.2"])
def test_a_version_that_was_not_tested_is_refused(version):
    with pytest.raises(ImportError, match=rf"Expected Keras 3\.10 to 3\.15.*Received: keras {version}"):
        check_version(version)


@pytest.mark.parametrize("version", ["3.16.0", "3.99.1", "4.0.0"])
def test_a_later_version_with_the_methods_that_are_known_is_let_through_with_one_warning(version, monkeypatch):
    with pytest.warns(UserWarning, match=rf"not tested with keras {version}.*later than 3\.15") as warned:
        check_version(version)
    assert len(warned) == 1
    monkeypatch.setattr(TensorFlowTrainer, "make_test_function", lambda self: None)
    with pytest.raises(ImportError, match="whose make_test_function takes other arguments"):
        check_version(version)


def test_a_development_version_is_let_through():
    check_version("3.16.0.dev2026112401")


def test_a_changed_method_is_named(monkeypatch):
    monkeypatch.setattr(TensorFlowTrainer, "make_test_function", lambda self: None)
    with pytest.raises(ImportError, match=r"whose make_test_function takes other arguments.*pip install"):
        check_version("3.15.0")


def test_the_versions_of_the_requirements_are_those_that_were_tested():
    requirements = (Path(__file__).parents[2] / "requirements.txt").read_text()
    (major, first), (_, last) = TESTED
    assert f"keras>={major}.{first},<{major}.{last + 1}\n" in requirements


def test_outputs_carry_their_mask():
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.Masking(), keras.layers.Dense(1)])
    assert has_mask(model(np.zeros((1, 3, 2))))
    assert not has_mask(keras.layers.Dense(1)(np.zeros((1, 2))))
