"""Custom train steps, losses and metrics: f is the loss of all rows, however they are cut, or there is an error."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kormos_opt.optimizers import LBFGS
from tests.support.problems import compiled, prepared, regression

X, Y = regression(dtype="float64")


class WithComputeLoss(keras.Model):
    """Keras's guide "Customizing what happens in fit", first version."""

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {metric.name: metric.result() for metric in self.metrics}


class WithOwnLoss(keras.Model):
    """The same guide, "Going lower-level"."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae_metric = keras.metrics.MeanAbsoluteError(name="mae")
        self.loss_fn = keras.losses.MeanSquaredError()

    def train_step(self, data):
        x, y, *_ = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.loss_fn(y, y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {"loss": self.loss_tracker.result(), "mae": self.mae_metric.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


class WithOwnSum(WithOwnLoss):
    """A sum over rows as the loss of the step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_fn = keras.losses.MeanSquaredError(reduction="sum")


class WithPlainLogs(keras.Model):
    """Returns the loss itself, and hands over changed gradients."""

    def train_step(self, data):
        x, y, *_ = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = [tf.identity(each) for each in tape.gradient(loss, self.trainable_variables)]
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


STEPS = [WithComputeLoss, WithOwnLoss, WithOwnSum, WithPlainLogs]


def made(kind, optimizer=None, **arguments):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(keras.layers.Dense(3, "tanh")(inputs))
    return compiled(kind(inputs, outputs), optimizer, **arguments)


@pytest.mark.slow_cases("*-(60, 16)", "WithOwnSum-*", "WithPlainLogs-*")
@pytest.mark.parametrize("sizes", [(60, 16), (60, 7)], ids=str)
@pytest.mark.parametrize("kind", STEPS)
def test_custom_step_has_the_loss_of_one_chunk(kind, sizes, float64):
    model, evaluations = made(kind), []
    for size in sizes:
        model.compile(LBFGS(batch_size=size), loss="mse", metrics=["mae"])
        objective = prepared(model, X, Y)
        evaluations.append(objective.evaluate(objective.parameters.ravel()))
    one, many = evaluations
    residual = model.predict(X, verbose=0) - Y
    expected = np.sum(residual**2) if kind is WithOwnSum else np.mean(residual**2)
    for evaluation in evaluations:
        np.testing.assert_allclose(evaluation.fun, expected, rtol=1e-12)
    np.testing.assert_allclose(many.jac, one.jac, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [WithComputeLoss, WithOwnLoss])
def test_fit_with_default_settings_reports_what_evaluate_says(kind):
    """So many rows that they are cut by default."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100_000, 4)).astype("float32")
    y = (np.sort(rng.normal(size=(100_000, 1)), axis=0) * 3).astype("float32")
    model = made(kind, LBFGS(batch_size=8192), metrics=["mae"])
    history = model.fit(x, y, epochs=2, verbose=0).history
    predicted = model.predict(x, batch_size=20_000, verbose=0)
    np.testing.assert_allclose(history["loss"][-1], np.mean((predicted - y) ** 2), rtol=1e-5)
    if "mae" in history:
        np.testing.assert_allclose(history["mae"][-1], np.mean(np.abs(predicted - y)), rtol=1e-4)


class OnlyAMetric(keras.Model):
    """Nothing but a running mean says what the loss is: the gradients are not those that a tape has returned."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        x, y, *_ = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = [2.0 * each for each in tape.gradient(loss, self.trainable_variables)]
        self.optimizer.apply(gradients, self.trainable_variables)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


@pytest.mark.parametrize("eager", [False, True])
def test_loss_that_cannot_be_known_is_an_error_before_any_work(eager):
    model = made(OnlyAMetric, run_eagerly=eager)
    weights = model.get_weights()
    with pytest.raises(RuntimeError, match=r"compute_loss\(\.\.\.\).*scale_loss\(loss\).*no loss of this batch"):
        model.fit(X, Y, verbose=0)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def summed(y, y_pred):
    """One number for the chunk, which grows with its rows."""
    return keras.ops.sum((y - y_pred) ** 2)


def averaged(y, y_pred):
    """One number for the chunk, which does not."""
    return keras.ops.mean((y - y_pred) ** 2)


class AddsASum(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.sum(x**2))
        return x


class SumStep(keras.Model):
    def train_step(self, data):
        x, y, *_ = data
        with tf.GradientTape() as tape:
            loss = keras.ops.sum((self(x, training=True) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


class SumLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.sum((y_pred - y) ** 2)


def with_added_sum(inputs, outputs):
    return keras.Model(inputs, AddsASum()(outputs))


DOUBTFUL = {
    "function": (keras.Model, summed),
    "add_loss": (with_added_sum, "mse"),
    "train_step": (SumStep, "mse"),
    "compute_loss": (SumLoss, "mse"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_loss_that_depends_on_the_cut_is_refused_where_rows_are_cut(case):
    kind, loss = DOUBTFUL[case]
    model = made(kind, LBFGS(batch_size=16), loss=loss)
    weights = model.get_weights()
    with pytest.raises(ValueError, match=r"adds up over chunks.*first 16 rows .* in one chunk and .* in several"):
        model.fit(X, Y, verbose=0)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    model.compile(LBFGS(batch_size=60), loss=loss)
    assert len(model.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def test_the_self_check_under_a_strategy_and_with_recurrent_layers():
    """Replicas cut the rows always. A recurrent layer has a generator of random numbers, which it does not use."""
    sequences = np.repeat(X[:, None], 3, axis=1)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = keras.Sequential([keras.Input((3, 4)), keras.layers.SimpleRNN(2), keras.layers.Dense(1)])
        compiled(model, loss=summed)
    with pytest.raises(ValueError, match="adds up over chunks"):
        model.fit(sequences, Y, verbose=0)
    with model.distribute_strategy.scope():
        compiled(model, loss=averaged)
    model.fit(sequences, Y, epochs=2, verbose=0)
    expected = np.mean((model.predict(sequences, verbose=0) - Y) ** 2)
    np.testing.assert_allclose(model.optimizer.result.fun, expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [60, 7])
def test_function_that_returns_the_mean_is_taken(batch_size, float64):
    model = made(keras.Model, LBFGS(batch_size=batch_size), loss=averaged)
    objective = prepared(model, X, Y)
    expected = np.mean((model.predict(X, verbose=0) - Y) ** 2)
    np.testing.assert_allclose(objective.evaluate(objective.parameters.ravel()).fun, expected, rtol=1e-12)


def test_a_fit_that_starts_at_the_optimum_is_no_doubtful_one():
    """Where f is rounding and nothing else, one chunk and two differ; elsewhere they do not."""
    model = made(keras.Model, LBFGS(batch_size=16), loss=averaged)
    y = model.predict(X, verbose=0)
    model.fit(X, y, epochs=1, verbose=0)
    assert model.optimizer.result.fun < 1e-12


class Nested(keras.losses.Loss):
    """A loss that calls a loss."""

    def __init__(self, reduction):
        super().__init__()
        self.inner = keras.losses.MeanSquaredError(reduction=reduction)

    def call(self, y_true, y_pred):
        rows = keras.ops.cast(keras.ops.shape(y_pred)[0], y_pred.dtype)
        inner = self.inner(y_true, y_pred)
        return inner / rows if self.inner.reduction == "sum" else inner


class SumOfSquares(keras.metrics.Mean):
    """A metric that calls a loss with reduction="sum"."""

    def __init__(self, name="sum_of_squares", **kwargs):
        super().__init__(name=name, **kwargs)
        self.loss = keras.losses.MeanSquaredError(reduction="sum")

    def update_state(self, y_true, y_pred, sample_weight=None):
        total = self.loss(y_true, y_pred)
        rows = keras.ops.cast(keras.ops.shape(y_pred)[0], total.dtype)
        return super().update_state(total / rows, sample_weight=rows)


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size"])
def test_losses_inside_losses_and_metrics_keep_their_own_value(reduction, float64):
    model = made(keras.Model)
    residual = model.predict(X, verbose=0) - Y
    for size in (60, 7):
        loss = Nested(reduction)
        model.compile(LBFGS(batch_size=size), loss=loss, metrics=[SumOfSquares(), keras.losses.MeanSquaredError()])
        objective = prepared(model, X, Y)
        evaluation = objective.evaluate(objective.parameters.ravel())
        np.testing.assert_allclose(evaluation.fun, np.mean(residual**2), rtol=1e-12)
        np.testing.assert_allclose(float(evaluation.logs["sum_of_squares"]), np.mean(residual**2), rtol=1e-6)


class ScalarSum(keras.losses.Loss):
    """Whose `call` returns a mean already, whatever its reduction."""

    def call(self, y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2)


def test_loss_whose_call_returns_a_scalar_keeps_its_value(float64):
    model = made(keras.Model, LBFGS(batch_size=7), loss=ScalarSum(reduction="sum"))
    objective = prepared(model, X, Y)
    expected = np.mean((model.predict(X, verbose=0) - Y) ** 2)
    np.testing.assert_allclose(objective.evaluate(objective.parameters.ravel()).fun, expected, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_ignore_class(weighted, float64):
    """Keras divides by the mask that the loss values carry."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    weights = rng.uniform(0.5, 2, 60) if weighted else None
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    logits = model.predict(X, verbose=0)
    entropy = -np.log(np.exp(logits)[np.arange(60), labels] / np.exp(logits).sum(axis=1))
    counts = labels != 1
    expected = np.sum((entropy * (1 if weights is None else weights))[counts]) / counts.sum()
    for size in (60, 7):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
        objective = prepared(compiled(model, LBFGS(batch_size=size), loss), X, labels, weights)
        evaluation = objective.evaluate(objective.parameters.ravel())
        np.testing.assert_allclose(evaluation.fun, expected, rtol=1e-7)


class WithConstant(keras.Model):
    """A physical constant as a bare variable, as in TensorFlow 1."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.viscosity = tf.Variable(0.5, name="viscosity")

    def train_step(self, data):
        x, y, *_ = data
        variables = [*self.trainable_variables, self.viscosity]
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((tf.cast(self.viscosity, x.dtype) * self(x) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


@pytest.mark.parametrize("eager", [False, True])
def test_variable_outside_of_the_model_is_an_error(eager):
    with pytest.raises(ValueError, match=r"a gradient for viscosity.*add_weight"):
        made(WithConstant, run_eagerly=eager).fit(X, Y, verbose=0)


class MixesFloats(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = tf.Variable(2.0)

    def train_step(self, data):
        x, y, *_ = data
        with tf.GradientTape() as tape:
            loss = self.factor * keras.ops.mean((self(x) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("eager", [False, True])
def test_float32_beside_float64_names_the_cause_and_the_remedies(eager):
    model = made(MixesFloats, LBFGS(precision="float64"), run_eagerly=eager)
    with pytest.raises(ValueError, match=r'float32 tf.Variable or constant.*tf\.cast\(.*precision="model"'):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("loss", ["mean_with_sample_weight", "sum"])
def test_data_of_another_structure_is_counted_anew(loss, float64):
    """First without sample weights, then with, then without: the divisor is another number, or none."""
    model = made(keras.Model, loss=keras.losses.MeanSquaredError(reduction=loss))
    weights = np.linspace(0, 2, 60)
    for sample_weight in (None, weights, None, weights):
        history = model.fit(X, Y, sample_weight=sample_weight, epochs=2, verbose=0).history
        squares = np.mean((model.predict(X, verbose=0) - Y) ** 2, axis=1)
        used = np.ones(60) if sample_weight is None else weights
        expected = used @ squares / (1 if loss == "sum" else used.sum())
        np.testing.assert_allclose(history["loss"][-1], expected, rtol=1e-10)
