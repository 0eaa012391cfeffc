"""Levenberg-Marquardt: published minima, scipy itself, and what counts as a sum of squares."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from keras import layers

import kormos_opt
from kormos_opt.objective.build import residuals_of
from kormos_opt.solvers.least_squares import minimize
from kormos_opt.solvers.testing import drive_residuals
from tests.support.helpers import flat_weights
from tests.support.problems import Curve, compiled, linear, network, prepared, regression

exp = tf.exp
_BARD = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]
_KOWALIK = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
_KOWALIK_U = [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]
_MEYER = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
_OSBORNE_1 = (
    "844 908 932 936 925 908 881 850 818 784 751 718 685 658 628 603 580 558 538 522 506 490 478 467 457 448 438 431 "
    "424 420 414 411 406"
)
_OSBORNE_2 = (
    "1366 1191 1112 1013 991 885 831 847 786 725 746 679 608 655 616 606 602 626 651 724 649 649 694 644 624 661 612 "
    "558 533 495 500 423 395 375 372 391 396 405 428 429 523 562 607 653 672 708 633 668 645 632 591 559 597 625 739 "
    "710 729 720 636 581 428 292 162 98 54"
)
_GAUSSIAN = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989, 0.3521, 0.2420, 0.1295, 0.0540, 0.0175]
_GAUSSIAN += [0.0044, 0.0009]


def _thousandths(text):
    return np.array(text.split(), "float64") / 1000


def _biggs(t):
    return np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)


# More, Garbow and Hillstrom, Testing unconstrained optimization software, ACM TOMS 7 (1981): those that fit a curve.
# The curve of t and the weights, t, y, the starting point, the sum of squares at a minimum.
MGH = {
    "Bard": (
        lambda t, b: b[0] + t / ((16 - t) * b[1] + tf.minimum(t, 16 - t) * b[2]),
        np.arange(1, 16),
        _BARD,
        [1, 1, 1],
        8.21487e-3,
    ),
    "Kowalik and Osborne": (
        lambda t, b: b[0] * (t**2 + t * b[1]) / (t**2 + t * b[2] + b[3]),
        _KOWALIK_U,
        _KOWALIK,
        [0.25, 0.39, 0.415, 0.39],
        3.07505e-4,
    ),
    "Meyer": (
        lambda t, b: b[0] * exp(b[1] / (t + b[2])),
        45 + 5 * np.arange(1, 17),
        _MEYER,
        [0.02, 4000, 250],
        87.9458,
    ),
    "Osborne 1": (
        lambda t, b: b[0] + b[1] * exp(-t * b[3]) + b[2] * exp(-t * b[4]),
        10 * np.arange(33),
        _thousandths(_OSBORNE_1),
        [0.5, 1.5, -1, 0.01, 0.02],
        5.46489e-5,
    ),
    "Osborne 2": (
        lambda t, b: (
            b[0] * exp(-t * b[4])
            + b[1] * exp(-((t - b[8]) ** 2) * b[5])
            + b[2] * exp(-((t - b[9]) ** 2) * b[6])
            + b[3] * exp(-((t - b[10]) ** 2) * b[7])
        ),
        np.arange(65) / 10,
        _thousandths(_OSBORNE_2),
        [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5],
        4.01377e-2,
    ),
    "Jennrich and Sampson": (
        lambda t, b: exp(t * b[0]) + exp(t * b[1]),
        np.arange(1, 11),
        2 + 2 * np.arange(1, 11),
        [0.3, 0.4],
        124.362,
    ),
    "Gaussian": (
        lambda t, b: b[0] * exp(-b[1] * (t - b[2]) ** 2 / 2),
        (8 - np.arange(1, 16)) / 2,
        _GAUSSIAN,
        [0.4, 1, 0],
        1.12793e-8,
    ),
    "Biggs": (
        lambda t, b: b[2] * exp(-t * b[0]) - b[3] * exp(-t * b[1]) + b[5] * exp(-t * b[4]),
        np.arange(1, 14) / 10,
        _biggs(np.arange(1, 14) / 10),
        [1, 2, 1, 1, 1, 1],
        5.65565e-3,
    ),
}


@pytest.mark.slow_cases("Bard", "Biggs", "Gaussian", "Jennrich and Sampson", "Kowalik and Osborne", "Osborne 2")
@pytest.mark.parametrize("name", MGH)
def test_published_minima(name, float64):
    curve, t, y, start, squares = MGH[name]
    model = compiled(Curve(curve, start), kormos_opt.LevenbergMarquardt())
    t, y = (np.array(each, "float64")[:, None] for each in (t, y))
    history = model.fit(t, y, epochs=1000, verbose=0).history
    result = model.optimizer.result
    assert result.success, result.message
    found = len(y) * history["loss"][-1]
    if name == "Biggs" and found < squares / 2:
        squares = 0.0  # the other published minimum
    np.testing.assert_allclose(found, squares, rtol=1e-5, atol=1e-20)


def rosenbrock_residuals(x):
    values = np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
    return values, np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])


@pytest.mark.quick
@pytest.mark.parametrize("bounds", [None, scipy.optimize.Bounds([-2, -2], [0.5, 2])])
@pytest.mark.parametrize("method", ["trf", "dogbox", "lm"])
def test_is_scipy(method, bounds):
    if method == "lm" and bounds is not None:
        return
    start, settings = np.array([-1.2, 1.0]), {"method": method, "x_scale": "jac", "ftol": 1e-15, "xtol": 1e-12}
    expected = scipy.optimize.least_squares(
        lambda x: rosenbrock_residuals(x)[0],
        start,
        lambda x: rosenbrock_residuals(x)[1],
        gtol=1e-15 if method == "lm" else None,
        **settings | ({} if bounds is None else {"bounds": bounds}),
    )
    driven = drive_residuals(minimize(start, bounds=bounds, method=method), rosenbrock_residuals)
    np.testing.assert_allclose(driven.result.x, expected.x, rtol=1e-8)
    assert driven.result.success, driven.result.message
    costs = [np.sum(rosenbrock_residuals(x)[0] ** 2) for x in driven.iterates]
    assert driven.result.nit == len(driven.iterates) > 2
    if method != "dogbox":
        assert all(np.diff(costs) <= 0)


@pytest.mark.quick
def test_products_go_where_the_matrix_goes():
    driven = [
        drive_residuals(minimize(np.array([-1.2, 1.0]), jacobian=jacobian), rosenbrock_residuals).result
        for jacobian in ("matrix", "products")
    ]
    for result in driven:
        np.testing.assert_allclose(result.x, [1, 1], rtol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["trf", "dogbox", "lm"])
def test_nan_at_a_trial_point_is_backed_off_from(method):
    def residuals(x):
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.array([np.log(x[0]) - np.log(2.0), 0.1 * (x[0] - 2), x[1] - 20])
            return values, np.array([[1 / x[0], 0], [0.1, 0], [0, 1]])

    driven = drive_residuals(minimize(np.array([20.0, 20.0]), method=method, x_scale=1.0), residuals)
    assert not all((point > 0).all() for point in driven.points)
    np.testing.assert_allclose(driven.result.x, [2, 20], rtol=1e-8)


@pytest.mark.quick
def test_a_walk_that_only_became_slow_is_no_convergence():
    driven = drive_residuals(minimize(np.array([-1.2, 1.0]), xtol=0.5), rosenbrock_residuals)
    assert not driven.result.success
    assert driven.result.message.startswith("Stopped: the steps have become shorter")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"bounds": scipy.optimize.Bounds(0, 1)}, "bounds"),
        ({"loss": "huber"}, "loss='huber'"),
        ({"jacobian": "products"}, "a Jacobian that is only multiplied"),
    ],
)
def test_what_lm_does_not_take(settings, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        drive_residuals(minimize(np.ones(2), method="lm", **settings), rosenbrock_residuals)


def test_too_few_residuals_for_lm():
    with pytest.raises(ValueError, match="2 residuals and 3 weights"):
        drive_residuals(minimize(np.ones(3), method="lm"), lambda x: (x[:2], np.eye(3)[:2]))


X, Y = regression(rows=61, dtype="float64")


def _activity_loss(rows):
    layer = layers.Dense(1, kernel_initializer="ones", activity_regularizer="l2")
    layer(np.ones((rows, 1), "float32"))
    return float(layer.losses[0])


# Keras before 3.14 does not divide it by the rows of a batch, so that the loss depends on the cut
ACTIVITY = keras.regularizers.L2(0.02) if np.isclose(_activity_loss(1), _activity_loss(2)) else None


def fitted(model, optimizer, x=X, y=Y, epochs=8, **arguments):
    model = compiled(model, optimizer)
    keras.utils.set_random_seed(1)
    history = model.fit(x, y, epochs=epochs, verbose=0, **arguments).history
    return model, history


@pytest.fixture(scope="module")
def start():
    """The weights that all networks below start from, and what eight iterations make of them."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    model = network()
    weights = model.get_weights()
    model, history = fitted(model, kormos_opt.LevenbergMarquardt())
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    return weights, history, flat_weights(model)


@pytest.mark.slow_cases("settings0")
@pytest.mark.parametrize("settings", [{"batch_size": 7}, {"cache": False}])
def test_cuts_and_streams_change_nothing(settings, start, float64):
    weights, history, end = start
    model = network()
    model.set_weights(weights)
    data = (tf.data.Dataset.from_tensor_slices((X, Y)).batch(10), None) if "cache" in settings else (X, Y)
    model, cut = fitted(model, kormos_opt.LevenbergMarquardt(**settings), *data)
    np.testing.assert_allclose(cut["loss"], history["loss"], rtol=1e-9)
    np.testing.assert_allclose(flat_weights(model), end, rtol=1e-6)


def test_stop_and_resume_is_never_stopped(start, float64):
    weights, history, end = start
    model = network()
    model.set_weights(weights)
    model, first = fitted(model, kormos_opt.LevenbergMarquardt(), epochs=3)
    second = model.fit(X, Y, epochs=8, initial_epoch=3, verbose=0).history
    assert first["loss"] + second["loss"] == history["loss"]
    np.testing.assert_array_equal(flat_weights(model), end)


def test_columns(start):
    _, history, _ = start
    assert set(history) == {"loss", "grad", "fg_evals", "hessp_evals"}
    assert all(np.diff(history["loss"]) < 0)
    assert history["hessp_evals"][-1] % network().count_params() == 0


class TwoOutputs(keras.Model):
    """Two losses with weights of their own, penalties, an activity penalty."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(3, "tanh", activity_regularizer=ACTIVITY)
        self.first = layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))
        self.second = layers.Dense(2, bias_regularizer=keras.regularizers.L1L2(0.0, 0.3))

    def call(self, x):
        hidden = self.hidden(x)
        return {"first": self.first(hidden), "second": self.second(hidden)}


@pytest.mark.slow_cases("*-model", "sum-*", "sum_over_batch_size-*")
@pytest.mark.parametrize("precision", ["float64", "model"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_what_the_squares_add_up_to(reduction, precision):
    """Weights of losses and rows, penalties, every reduction: the fit goes on only if the squares are the loss."""
    rng = np.random.default_rng(0)
    model = TwoOutputs()
    losses = {name: keras.losses.MeanSquaredError(reduction=reduction) for name in ("first", "second")}
    model.compile(
        optimizer=kormos_opt.LevenbergMarquardt(precision=precision, batch_size=20),
        loss=losses,
        loss_weights={"first": 2.0, "second": 0.5},
    )
    y = {"first": Y[:60], "second": rng.normal(size=(60, 2))}
    sample_weight = {name: rng.uniform(0, 2, 60) for name in y}
    history = model.fit(X[:60], y, sample_weight=sample_weight, epochs=4, verbose=0).history
    assert all(np.diff(history["loss"]) < 0)


def test_masks(float64):
    x = np.repeat(X[:, None], 3, axis=1)
    x[::2, 1:] = 0
    y = np.repeat(Y[:, None], 3, axis=1)
    model = keras.Sequential([keras.Input((3, X.shape[1])), layers.Masking(), layers.Dense(2, "tanh"), layers.Dense(1)])
    _, history = fitted(model, kormos_opt.LevenbergMarquardt(batch_size=10), x, y, epochs=3)
    assert all(np.diff(history["loss"]) < 0)


@pytest.mark.parametrize(
    ("loss", "regularizer", "words"),
    [
        ("mae", None, "the loss 'mae'"),
        ("mse", keras.regularizers.L1(0.1), "a regularizer with l1=0.1"),
        ("mse", keras.regularizers.OrthogonalRegularizer(0.1), "add_loss, a custom loss"),
    ],
)
def test_what_is_no_square_is_named(loss, regularizer, words):
    model = keras.Sequential([keras.Input((X.shape[1],)), layers.Dense(2, kernel_regularizer=regularizer)])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(), loss=loss)
    before = flat_weights(model)
    with pytest.raises(ValueError, match=rf"Expected a loss that is a sum of squares.*{words}"):
        model.fit(X, Y, epochs=2, verbose=0)
    np.testing.assert_array_equal(flat_weights(model), before)


def _sequence_to_one():
    return [layers.Reshape((X.shape[1], 1)), layers.LSTM(3), layers.Dense(1)]


class OwnLoss(keras.Model):
    """A network for a loss of its own."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def call(self, x):
        return self.inner(x)


class Neighbours(OwnLoss):
    """A loss that looks at the row beside: it must not be cut."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return kormos_opt.mean_square(y_pred - keras.ops.roll(y_pred, 1, axis=0) + y)


JACOBIANS = {  # a model, and the way that its Jacobian goes
    "columns": (lambda: Curve(lambda x, b: b[0] * tf.exp(b[1] * x[:, :1]), [1.0, 0.3]), "_by_columns"),
    "rows": (lambda: network(kernel_regularizer="l2", activity_regularizer=ACTIVITY), "_row_by_row"),
    "two outputs": (lambda: keras.Sequential([layers.Dense(5, "tanh"), layers.Dense(2)]), "_row_by_row"),
    "recurrent": (lambda: keras.Sequential(_sequence_to_one()), "_by_rows"),
    "convolution": (
        lambda: keras.Sequential([layers.Reshape((2, 2, 1)), layers.Conv2D(5, 2, activation="tanh"), layers.Flatten()]),
        "_row_by_row",
    ),
    "statistics of the chunk": (
        lambda: keras.Sequential([layers.Dense(130), layers.BatchNormalization(), layers.Dense(1)]),
        "_by_rows",
    ),
    "neighbours": (Neighbours, "_by_columns"),
}


@pytest.mark.slow_cases("columns", "convolution", "neighbours", "recurrent", "statistics of the chunk")
@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobian_is_that_of_finite_differences(name, float64, monkeypatch):
    make, way = JACOBIANS[name]
    keras.utils.set_random_seed(0)
    bound = prepared(compiled(make(), kormos_opt.LevenbergMarquardt()), X[:20], Y[:20])
    residuals, gone = residuals_of(bound), []
    x = residuals.parameters.ravel() + 0.1
    stock = getattr(residuals, way)
    monkeypatch.setattr(residuals, way, lambda *arguments: gone.append(way) or stock(*arguments))
    monkeypatch.setattr("kormos_opt.objective.residuals._ENTRIES_AT_ONCE", 7 * 2 * x.size)
    jacobian = residuals.jacobian(x)
    assert gone == [way]
    direction = np.random.default_rng(0).normal(size=x.size)
    h = 1e-6
    expected = (residuals.values(x + h * direction) - residuals.values(x - h * direction)) / (2 * h)
    np.testing.assert_allclose(jacobian @ direction, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(residuals.product(x, direction), expected, rtol=1e-6, atol=1e-8)
    rows = np.random.default_rng(1).normal(size=len(jacobian))
    np.testing.assert_allclose(residuals.transposed_product(x, rows), rows @ jacobian, rtol=1e-10, atol=1e-12)


def test_a_loss_of_your_own_is_heard(float64):
    class Physics(OwnLoss):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return kormos_opt.mean_square(y_pred - y) + 0.1 * kormos_opt.mean_square(y_pred[:, 0], weight=x[:, 0] ** 2)

    model = Physics()
    model.compile(optimizer=kormos_opt.LevenbergMarquardt())
    history = model.fit(X, Y, epochs=4, verbose=0).history
    assert all(np.diff(history["loss"]) < 0)


def test_bounds_by_name_are_those_of_lsq_linear(float64):
    model = keras.Sequential([keras.Input((X.shape[1],)), layers.Dense(1, use_bias=False)])
    model, _ = fitted(model, kormos_opt.LevenbergMarquardt(bounds={"*/kernel": (0, 0.5)}), epochs=100)
    expected = scipy.optimize.lsq_linear(X, Y[:, 0], bounds=(0, 0.5), tol=1e-14)
    assert expected.active_mask.any()
    np.testing.assert_allclose(flat_weights(model), expected.x, atol=1e-7)


def test_outliers_are_weighed_down_as_by_scipy(float64):
    y = Y.copy()
    y[:5] += 50
    model, _ = fitted(linear(), kormos_opt.LevenbergMarquardt(loss="soft_l1", f_scale=0.2), X, y, epochs=100)
    columns = np.hstack([X, np.ones((len(X), 1))])
    expected = scipy.optimize.least_squares(
        lambda b: columns @ b - y[:, 0], np.zeros(5), loss="soft_l1", f_scale=0.2, xtol=1e-12
    )
    np.testing.assert_allclose(flat_weights(model), expected.x, rtol=1e-5)
    np.testing.assert_allclose(model.optimizer.result.cost, expected.cost / len(y), rtol=1e-8)


@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_a_start_with_all_weights_at_a_bound_is_not_called_converged(loss):
    """scipy's first step from there is tiny, which is no optimum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype("float32")
    y = (x @ [[1.0], [2.0], [3.0], [4.0]] + 0.1 * rng.normal(size=(200, 1))).astype("float32")
    model = linear(kernel_initializer=keras.initializers.Constant(-0.3))
    optimizer = kormos_opt.LevenbergMarquardt(bounds={"*/kernel": (0, 2)}, loss=loss, f_scale=0.1)
    compiled(model, optimizer).fit(x, y, epochs=100, verbose=0)
    expected = scipy.optimize.lsq_linear(np.c_[x, np.ones(200)], y[:, 0], ([0] * 4 + [-np.inf], [2] * 4 + [np.inf]))
    is_best = model.evaluate(x, y, verbose=0) <= 1.1 * 2 * expected.cost / 200
    assert model.optimizer.result.success == is_best
    if not is_best:
        assert "inside of all bounds" in model.optimizer.result.message


def test_a_float32_model_ends(caplog):
    model, history = fitted(linear(), kormos_opt.LevenbergMarquardt(), X.astype("float32"), Y.astype("float32"), 100)
    columns = np.hstack([X, np.ones((len(X), 1))])
    np.testing.assert_allclose(flat_weights(model), np.linalg.lstsq(columns, Y[:, 0], rcond=None)[0], rtol=1e-4)
    assert len(history["loss"]) < 100
    assert model.optimizer.result.success


def test_a_large_jacobian_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("kormos_opt.objective.residuals.memory_limits.of_process", lambda: 1000.0)
    with pytest.raises(MemoryError, match=r'61 residuals and 5 weights.*Take jacobian="products"'):
        fitted(linear(), kormos_opt.LevenbergMarquardt(), X.astype("float32"), Y.astype("float32"))


def test_products_within_a_fit(start, float64):
    weights, history, _ = start
    model = network()
    model.set_weights(weights)
    _, found = fitted(model, kormos_opt.LevenbergMarquardt(jacobian="products"), epochs=10)
    assert found["loss"][-1] < history["loss"][2]


def test_a_strategy_is_refused():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(linear(), kormos_opt.LevenbergMarquardt())
    with pytest.raises(ValueError, match="without a distribution strategy"):
        model.fit(X.astype("float32"), Y.astype("float32"), verbose=0)


@pytest.mark.quick
@pytest.mark.parametrize("argument", ["method", "loss", "jacobian"])
def test_settings_are_checked_and_saved(argument):
    with pytest.raises(ValueError, match=f"Expected one of .* Received: {argument}='x'"):
        kormos_opt.LevenbergMarquardt(**{argument: "x"})
    optimizer = kormos_opt.LevenbergMarquardt(method="dogbox", loss="huber", f_scale=2.0, jacobian="products")
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.get_config()[argument] == {"method": "dogbox", "loss": "huber", "jacobian": "products"}[argument]


class Scaled(keras.Model):
    """A square with a trained factor, whose optimum is not that of the square."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)
        self.log_scale = self.add_weight(shape=(), initializer="zeros", name="log_scale")

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.exp(-self.log_scale) * kormos_opt.mean_square(y - y_pred) + self.log_scale**2


class TrainedWeight(Scaled):
    """A square whose weight is trained, beside another square."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        square = kormos_opt.mean_square(y - y_pred, weight=keras.ops.square(self.log_scale))
        return square + kormos_opt.mean_square(self.log_scale - 3.0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (Scaled, r"No squares are|whose factors stay as they are"),
        (TrainedWeight, r"whose factors stay as they are"),
    ],
)
def test_a_trained_factor_is_no_square(make, match, float64):
    model = make()
    model(X[:1])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt())
    with pytest.raises(ValueError, match=match):
        model.fit(X, Y, epochs=5, verbose=0)


class Absolute(keras.regularizers.Regularizer):
    """L1, which computes in float32 in the oldest Keras."""

    def __call__(self, x):
        return 0.5 * keras.ops.sum(keras.ops.abs(x))


def test_a_part_that_is_zero_at_the_start_is_found(float64):
    """L1 of weights that begin at zero: the sums of squares agree there, and nowhere else."""
    model = linear(kernel_initializer="zeros", kernel_regularizer=Absolute())
    compiled(model, kormos_opt.LevenbergMarquardt())
    before = flat_weights(model)
    with pytest.raises(ValueError, match=r"Expected a loss that is a sum of squares.*Take LBFGS\(\)"):
        model.fit(X, Y, epochs=5, verbose=0)
    np.testing.assert_array_equal(flat_weights(model), before)


def test_a_weight_that_would_enlarge_the_residual():
    with pytest.raises(ValueError, match=r"Received: weight of shape \(30,\), which makes it \(30, 30\)"):
        kormos_opt.mean_square(np.ones((30, 1)), weight=np.ones(30))
