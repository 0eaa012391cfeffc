"""Standard errors, intervals and bands against statsmodels, scipy and lmfit."""

import warnings

import keras
import lmfit
import numpy as np
import pytest
import scipy.optimize
import statsmodels.api as sm
import tensorflow as tf
from keras import layers

import kormos_opt
from tests.support.problems import Curve, compiled, regression

pytestmark = pytest.mark.usefixtures("float64")


def of_statsmodels(name, rows=None):
    data = getattr(sm.datasets, name).load()
    return data.exog.to_numpy("float64")[:rows], data.endog.to_numpy("float64")[:rows]


def linear_model(x, y, activation, loss, sample_weight=None, units=1):
    model = keras.Sequential([keras.Input((x.shape[1],)), layers.Dense(units, activation)])
    optimizer = kormos_opt.LevenbergMarquardt() if loss == "mse" else kormos_opt.TrustExact(tol=1e-12)
    model.compile(optimizer=optimizer, loss=loss)
    model.fit(x, y, sample_weight=sample_weight, epochs=100, verbose=0, batch_size=len(x))
    return model


def assert_same(found, expected, rtol=1e-6):
    """The intercept is the last weight here, the first one there."""
    for ours, theirs in {
        "estimates": expected.params,
        "standard_errors": expected.bse,
        "statistics": expected.tvalues,
        "p_values": expected.pvalues,
    }.items():
        values = np.roll(getattr(found, ours), 1, axis=0)
        np.testing.assert_allclose(values, theirs, rtol=rtol, atol=1e-300, err_msg=ours)
    ends = np.roll(found.confidence_intervals, 1, axis=0) / np.roll(found.standard_errors, 1)[:, None]
    np.testing.assert_allclose(ends, expected.conf_int() / np.asarray(expected.bse)[:, None], rtol=rtol, atol=rtol)
    np.testing.assert_allclose([found.log_likelihood, found.aic], [expected.llf, expected.aic], rtol=rtol)
    np.testing.assert_allclose(found.bic, expected.bic, rtol=rtol)


@pytest.fixture(scope="module")
def longley():
    """Longley's regression, with weights of rows and without: model, data, weights."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, y = of_statsmodels("longley")
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    fits = {None: linear_model(x, y, None, "mse"), "weights": linear_model(x, y, None, "mse", weights)}
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    return fits, x, y, weights


@pytest.mark.slow_cases("*-HC0", "*-HC1", "*-HC2", "*-nonrobust", "None-*")
@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"])
@pytest.mark.parametrize("weighted", [None, "weights"])
def test_least_squares_are_those_of_statsmodels(weighted, cov_type, longley):
    fits, x, y, weights = longley
    weights, groups = (weights if weighted else None), np.arange(len(y)) // 4
    keywords = {"groups": groups} if cov_type == "cluster" else {}
    found = kormos_opt.summary(fits[weighted], x, y, weights, cov_type=cov_type, **keywords)
    constant = sm.add_constant(x)
    theirs = sm.OLS(y, constant) if weights is None else sm.WLS(y, constant, weights)
    expected = theirs.fit(cov_type=cov_type, cov_kwds=keywords)
    assert_same(found, expected)
    np.testing.assert_allclose(found.r_squared, expected.rsquared, rtol=1e-8)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-8)
    if weights is None:
        np.testing.assert_allclose(found.condition_number, expected.condition_number, rtol=1e-6)


@pytest.mark.slow_cases("HC3", "nonrobust", "observed")
@pytest.mark.parametrize("cov_type", ["nonrobust", "observed", "HC0", "HC3"])
def test_logit_is_that_of_statsmodels(cov_type):
    x, y = of_statsmodels("spector")
    found = kormos_opt.summary(linear_model(x, y, "sigmoid", "binary_crossentropy"), x, y, cov_type=cov_type)
    robust = cov_type if cov_type.startswith("HC") else "nonrobust"
    assert_same(found, sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12, cov_type=robust))


def test_logits_are_taken_too():
    x, y = of_statsmodels("spector")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    found = kormos_opt.summary(linear_model(x, y, None, loss), x, y)
    assert_same(found, sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12))


class Multinomial(keras.Model):
    """Logits of all classes but the first, which is zero, as in statsmodels."""

    def __init__(self, classes, activation="softmax"):
        super().__init__()
        self.linear = layers.Dense(classes - 1)
        self.activation = keras.activations.get(activation)

    def call(self, x):
        logits = self.linear(x)
        return self.activation(tf.concat([tf.zeros_like(logits[:, :1]), logits], axis=1))


@pytest.mark.slow_cases("False")
@pytest.mark.parametrize("from_logits", [False, True])
def test_multinomial_logit_is_that_of_statsmodels(from_logits):
    x, y = of_statsmodels("anes96")
    model = Multinomial(7, None if from_logits else "softmax")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(optimizer=kormos_opt.TrustExact(tol=1e-10), loss=loss)
    model.fit(x, y, epochs=50, verbose=0, batch_size=len(x))
    found = kormos_opt.summary(model, x, y)
    expected = sm.MNLogit(y, sm.add_constant(x)).fit(disp=0, method="newton", tol=1e-12, maxiter=100)
    rows = x.shape[1] + 1  # the kernel comes row by row, then the bias
    np.testing.assert_allclose(np.roll(found.estimates.reshape(rows, 6), 1, 0), expected.params, rtol=1e-6)
    np.testing.assert_allclose(np.roll(found.standard_errors.reshape(rows, 6), 1, 0), expected.bse, rtol=1e-6)
    np.testing.assert_allclose(found.log_likelihood, expected.llf, rtol=1e-9)
    np.testing.assert_allclose([found.aic, found.bic], [expected.aic, expected.bic], rtol=1e-9)
    assert found.df_residual == len(y) - expected.params.size


@pytest.mark.slow_cases("nonrobust", "observed")
@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0", "observed"])
def test_poisson_with_an_offset_is_that_of_statsmodels(cov_type):
    x, y = of_statsmodels("randhie", 2000)
    offset = np.random.default_rng(0).uniform(0, 1, len(y))
    inputs = keras.Input((x.shape[1],)), keras.Input((1,))
    eta = layers.Dense(1)(inputs[0]) + inputs[1]
    model = keras.Model(inputs, keras.ops.exp(eta))
    model.compile(optimizer=kormos_opt.TrustExact(tol=1e-12), loss="poisson")
    data = [x, offset[:, None]]
    model.fit(data, y, epochs=100, verbose=0, batch_size=len(y))
    found = kormos_opt.summary(model, data, y, cov_type=cov_type)
    robust = "HC0" if cov_type == "HC0" else "nonrobust"
    expected = sm.Poisson(y, sm.add_constant(x), offset=offset).fit(disp=0, method="newton", tol=1e-12, cov_type=robust)
    np.testing.assert_allclose(np.roll(found.estimates, 1), expected.params, rtol=1e-6)
    np.testing.assert_allclose(np.roll(found.standard_errors, 1), expected.bse, rtol=1e-6)
    np.testing.assert_allclose(found.log_likelihood, expected.llf, rtol=1e-9)


def decay(t, b):
    return b[0] * tf.exp(-b[1] * t) + b[2]


T = np.linspace(0, 5, 30)[:, None]
DECAY = 2.5 * np.exp(-1.3 * T) + 0.3 + 0.1 * np.random.default_rng(0).normal(size=T.shape)


@pytest.fixture(scope="module")
def curve():
    """A fitted decay, and its summary."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    model = compiled(Curve(decay, [1.0, 1.0, 0.0]), kormos_opt.LevenbergMarquardt())
    model.fit(T, DECAY, epochs=100, verbose=0)
    table = kormos_opt.summary(model, T, DECAY)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    return model, table


def decay_in_numpy(t, a, k, c):
    return a * np.exp(-k * t) + c


def test_a_curve_has_the_covariance_of_curve_fit(curve):
    model, _ = curve
    start = [1.0, 1.0, 0.0]
    _, expected = scipy.optimize.curve_fit(decay_in_numpy, T[:, 0], DECAY[:, 0], start, ftol=1e-15, xtol=1e-15)
    np.testing.assert_allclose(kormos_opt.covariance(model, T, DECAY), expected, rtol=1e-5)


def test_the_observed_information_is_that_of_difference_quotients(curve):
    model, table = curve
    found = kormos_opt.covariance(model, T, DECAY, cov_type="observed")

    def slope(b):
        residual = decay_in_numpy(T[:, 0], *b) - DECAY[:, 0]
        decayed = np.exp(-b[1] * T[:, 0])
        return np.array([residual @ decayed, residual @ (-b[0] * T[:, 0] * decayed), residual.sum()]) / table.scale

    steps = 1e-5 * np.eye(3)
    hessian = [(slope(table.estimates + step) - slope(table.estimates - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(np.linalg.inv(found), hessian, rtol=1e-6)
    assert np.abs(found / kormos_opt.covariance(model, T, DECAY) - 1).max() > 1e-3


def test_profile_is_that_of_lmfit(curve):
    model, _ = curve
    before = model.get_weights()
    found = kormos_opt.confint(model, T, DECAY, method="profile", which=["*b[[]0]", "*b[[]1]"])
    parameters = lmfit.Parameters()
    for name, value in {"a": 1.0, "k": 1.0, "c": 0.0}.items():
        parameters.add(name, value)
    minimizer = lmfit.Minimizer(lambda p: decay_in_numpy(T, p["a"], p["k"], p["c"]).ravel() - DECAY[:, 0], parameters)
    expected = lmfit.conf_interval(minimizer, minimizer.leastsq(), p_names=["a", "k"], sigmas=[0.95])
    ends = [[ends[0][1], ends[2][1]] for ends in expected.values()]
    np.testing.assert_allclose(found, ends, rtol=1e-4)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


def test_profile_of_a_linear_model_is_wald(longley):
    fits, x, y, _ = longley
    wald, profile = (
        kormos_opt.confint(fits[None], x, y, method=method, which="*kernel[[]5, 0]") for method in ("wald", "profile")
    )
    np.testing.assert_allclose(profile, wald, rtol=1e-5)


def test_profile_of_a_logit_has_the_deviance_of_its_level():
    x, y = of_statsmodels("spector")
    model = linear_model(x, y, "sigmoid", "binary_crossentropy")
    ((low, high),) = kormos_opt.confint(model, x, y, method="profile", which=["*kernel[[]0, 0]"])
    best = sm.Logit(y, sm.add_constant(x)).fit(disp=0).llf
    for end in (low, high):
        there = sm.GLM(y, sm.add_constant(x[:, 1:]), sm.families.Binomial(), offset=end * x[:, 0]).fit()
        np.testing.assert_allclose(2 * (best - there.llf), 3.8414588, rtol=1e-5)


def test_band_of_a_line_is_that_of_statsmodels(longley):
    fits, x, y, _ = longley
    table = kormos_opt.summary(fits[None], x, y)
    expected = sm.OLS(y, sm.add_constant(x)).fit().get_prediction(sm.add_constant(x[:4], has_constant="add"))
    for kind, which in (("mean", "mean"), ("observation", "obs")):
        band = kormos_opt.predict_interval(fits[None], x[:4], table, kind=kind)
        frame = expected.summary_frame()
        np.testing.assert_allclose(band.mean[:, 0], frame["mean"], rtol=1e-9)
        np.testing.assert_allclose(band.lower[:, 0], frame[f"{which}_ci_lower"], rtol=1e-7)
        np.testing.assert_allclose(band.upper[:, 0], frame[f"{which}_ci_upper"], rtol=1e-7)


def test_the_table_in_print_in_a_notebook_and_as_a_frame(curve):
    _, table = curve
    text = str(table)
    for name, estimate in zip(table.names, table.estimates, strict=True):
        assert any(name in line and f"{estimate:.5g}" in line for line in text.splitlines())
    assert "R squared" in text
    assert "Note" not in text
    frame = table.to_frame()
    assert list(frame.columns) == ["estimate", "std err", "t", "P>|t|", "95% low", "95% high"]
    assert list(frame.index) == list(table.names)
    assert "P&gt;|t|" in table._repr_html_()


X, Y = regression(rows=40, dtype="float64")
CLASSES = np.random.default_rng(0).integers(0, 3, 40)


@pytest.mark.slow_cases("unfinished")
@pytest.mark.parametrize("case", ["penalty", "bound", "unfinished", "undetermined"])
def test_what_speaks_against_the_figures_is_said(case):
    regularizer = keras.regularizers.L2(1.0) if case == "penalty" else None
    dense = layers.Dense(1, kernel_regularizer=regularizer)
    model = keras.Sequential([keras.Input((5 if case == "undetermined" else 4,)), dense])
    bounds = {"*/kernel": (None, -1.0)} if case == "bound" else None
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(bounds=bounds), loss="mse")
    x = np.hstack([X, X[:, :1]]) if case == "undetermined" else X
    if case != "unfinished":
        model.fit(x, Y, epochs=50, verbose=0)
    table = kormos_opt.summary(model, x, Y)
    words = {
        "penalty": "penalties, which pull",
        "bound": "at a bound",
        "unfinished": "the gradient is not zero",
        "undetermined": "the data do not identify dense",
    }[case]
    assert len(table.notes) == 1
    assert words in table.notes[0]
    if case == "undetermined":
        np.testing.assert_array_equal(np.isinf(table.standard_errors), [True, False, False, False, True, False])


@pytest.mark.slow_cases("mse")
@pytest.mark.parametrize("loss", ["mse", "sparse_categorical_crossentropy"])
def test_selected_weights_have_the_covariance_that_all_have(loss):
    if loss == "mse":
        model, y = keras.Sequential([keras.Input((4,)), layers.Dense(2, "tanh"), layers.Dense(1)]), Y
    else:
        model, y, loss = Multinomial(3, None), CLASSES, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=kormos_opt.TrustExact(), loss=loss)
    model.fit(X, y, epochs=5, verbose=0)
    sample_weight = np.linspace(1, 2, 40)
    all_of_them = kormos_opt.covariance(model, X, y, sample_weight)
    names = kormos_opt.weight_names(model)
    places = [0, 3, len(names) - 1]
    found = kormos_opt.covariance(model, X, y, sample_weight, which=[names[i].replace("[", "[[]") for i in places])
    np.testing.assert_allclose(found, all_of_them[np.ix_(places, places)], rtol=1e-5, atol=1e-8)


def test_what_is_refused():
    model = compiled(keras.Sequential([keras.Input((4,)), layers.Dense(1)]), kormos_opt.LBFGS(), loss="mae")
    with pytest.raises(ValueError, match=r"one loss that is a likelihood.*Received: loss="):
        kormos_opt.summary(model, X, Y)
    model.compile(loss="mse")
    for arguments, words in (
        ({"cov_type": "x"}, "Received: cov_type='x'"),
        ({"cov_type": "cluster"}, "Expected groups="),
        ({"sample_weight": -np.ones(40)}, "none negative"),
    ):
        with pytest.raises(ValueError, match=words):
            kormos_opt.summary(model, X, Y, **arguments)
    with pytest.raises(ValueError, match="Received: 5 targets, and 5 of 5 weights"):
        kormos_opt.summary(model, X[:5], Y[:5])
    with pytest.raises(ValueError, match="which with 'x'"):
        kormos_opt.confint(model, X, Y, which=["x"])
    with pytest.raises(ValueError, match="method='x'"):
        kormos_opt.confint(model, X, Y, method="x")


def test_the_observed_information_of_columns_of_all_scales(float64):
    """It is the expected one for a linear model, however the columns are scaled."""
    data = sm.datasets.longley.load()
    x, y = data.exog.to_numpy(), data.endog.to_numpy()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(), loss="mse")
    model.fit(x, y, batch_size=16, epochs=50, verbose=0)
    observed = kormos_opt.summary(model, x, y, cov_type="observed").standard_errors
    np.testing.assert_allclose(observed, kormos_opt.summary(model, x, y).standard_errors, rtol=1e-5)


def weighted_fit(x, y, weights=None, outputs=1):
    model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(outputs)])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(), loss="mse")
    model.fit(x, y, sample_weight=weights, epochs=20, verbose=0)
    return model


def test_several_outputs_with_weights_are_stacked_rows(float64):
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)), rng.uniform(0.5, 3, 40)
    groups = np.arange(40) // 5
    model = weighted_fit(x, y, weights, outputs=2)
    columns = np.kron(np.c_[x, np.ones(40)], np.eye(2))
    stacked = sm.WLS(y.ravel(), columns, weights=np.repeat(weights, 2))
    expected = stacked.fit()
    ours = kormos_opt.summary(model, x, y, weights)
    np.testing.assert_allclose([ours.log_likelihood, ours.aic, ours.bic], [expected.llf, expected.aic, expected.bic])
    clustered = stacked.fit(cov_type="cluster", cov_kwds={"groups": np.repeat(groups, 2)})
    ours = kormos_opt.summary(model, x, y, weights, cov_type="cluster", groups=groups)
    np.testing.assert_allclose(ours.standard_errors, clustered.bse, rtol=1e-6)
    interval = kormos_opt.confint(model, x, y, weights, cov_type="cluster", groups=groups)
    np.testing.assert_allclose(interval, clustered.conf_int(), rtol=1e-6)


def test_a_direction_that_the_data_do_not_tell_has_no_band(float64):
    column = np.random.default_rng(0).normal(size=(30, 1))
    x, y = np.hstack([column, column]), 2 * column
    model = weighted_fit(x, y + np.random.default_rng(1).normal(size=(30, 1)))
    table = kormos_opt.summary(model, x, y)
    band = kormos_opt.predict_interval(model, np.array([[1.0, 1.0], [1.0, -1.0]]), table)
    assert np.isfinite(band.standard_error).ravel().tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sample_weight": np.zeros(30)}, "one above zero"),
        ({"alpha": 95}, "Received: alpha=95"),
        ({"cov_type": "cluster", "groups": np.zeros(30)}, "Expected two groups or more"),
        ({"y": np.full((30, 1), np.nan)}, "Expected finite targets"),
        ({"x": tf.data.Dataset.range(3)}, "Expected inputs as arrays"),
    ],
)
def test_what_makes_no_sense_is_refused(change, match, float64):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 1))
    with pytest.raises(ValueError, match=match):
        kormos_opt.summary(weighted_fit(x, y), **{"x": x, "y": y} | change)


def test_masks_and_sequences_of_classes_are_refused(float64):
    masked = keras.Sequential([keras.Input((3, 2)), keras.layers.Masking(), keras.layers.Dense(1)])
    masked.compile(loss="mse")
    with pytest.raises(ValueError, match="Expected outputs without a mask"):
        kormos_opt.summary(masked, np.ones((40, 3, 2)), np.ones((40, 3, 1)))
    steps = keras.Sequential([keras.Input((3, 2)), keras.layers.Dense(2, "softmax")])
    steps.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"Expected outputs of shape \(rows, classes\)"):
        kormos_opt.summary(steps, np.ones((40, 3, 2)), np.zeros((40, 3)))


def test_a_profile_takes_no_bounds(float64):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 1))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(bounds={"bias": (0, None)}), loss="mse")
    model.fit(x, y, epochs=20, verbose=0)
    with pytest.raises(ValueError, match="Expected a model without bounds"):
        kormos_opt.confint(model, x, y, method="profile")


def test_classes_that_can_be_told_apart_are_said(float64):
    x = np.linspace(-1, 1, 20)[:, None]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(loss="binary_crossentropy")
    model.set_weights([np.array([[1e4]]), np.zeros(1)])
    with pytest.raises(ValueError, match="If the classes can be told apart without an error"):
        kormos_opt.summary(model, x, (x > 0) * 1.0)


def test_names_are_told_apart(float64):
    inputs = keras.Input((1,))
    parts = [keras.Sequential([keras.layers.Dense(1, name="line")], name=name) for name in ("encoder", "decoder")]
    model = keras.Model(inputs, parts[1](parts[0](inputs)))
    names = kormos_opt.weight_names(model)
    assert len(set(names)) == len(names) == 4


def test_chosen_weights_need_more_targets_too(float64):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, name="line")])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="Expected more targets than weights"):
        kormos_opt.covariance(model, np.eye(3)[:2], np.ones((2, 1)), which=["line/kernel[0, 0]"])


def test_a_robust_fit_is_said(float64):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 1))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(loss="soft_l1", f_scale=0.1), loss="mse")
    model.fit(x, y, epochs=50, verbose=0)
    (note,) = kormos_opt.summary(model, x, y).notes
    assert note.startswith("the fit had the robust loss 'soft_l1'")


DEFICIENT = {
    "a column twice": lambda rng: np.repeat(rng.normal(size=(20, 1)), 2, axis=1),
    "one-hot and a bias": lambda rng: np.eye(3)[rng.integers(0, 3, 20)],
    "fewer directions than rows and weights": lambda rng: rng.normal(size=(8, 2)) @ rng.normal(size=(2, 9)),
}


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC1"])
@pytest.mark.parametrize("case", DEFICIENT)
def test_weights_that_the_data_do_not_identify_take_no_degree_of_freedom(case, cov_type, float64):
    """Against statsmodels, which takes the pseudo-inverse too. Bands are finite where rows tell them."""
    rng = np.random.default_rng(0)
    x = DEFICIENT[case](rng)
    y = x.sum(axis=1, keepdims=True) + rng.normal(size=(len(x), 1))
    model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(1)])
    compiled(model, kormos_opt.LevenbergMarquardt()).fit(x, y, epochs=50, verbose=0)
    table, design = kormos_opt.summary(model, x, y, cov_type=cov_type), np.c_[x, np.ones(len(x))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.OLS(y.ravel(), design).fit(cov_type=cov_type, use_t=cov_type == "nonrobust")
        band = fit.get_prediction(design).se_mean
    assert table.df_residual == fit.df_resid
    np.testing.assert_allclose([table.aic, table.bic, table.scale], [fit.aic, fit.bic, fit.scale], rtol=1e-8)
    np.testing.assert_allclose(kormos_opt.predict_interval(model, x, table).standard_error.ravel(), band, rtol=1e-6)
    elsewhere = np.zeros((1, x.shape[1]))
    elsewhere[0, 0] = 5.0
    assert np.isinf(kormos_opt.predict_interval(model, elsewhere, table).standard_error).all()


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0"])
def test_a_probability_that_rounds_to_one_is_no_separation(cov_type, float64):
    """One row far out, of the class that it should have."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 1))
    x[0] = 60.0
    y = (rng.uniform(size=(100, 1)) < 1 / (1 + np.exp(-1.5 * x))).astype(float)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    compiled(model, kormos_opt.TrustExact(tol=1e-10), loss).fit(x, y, epochs=50, verbose=0)
    fit = sm.Logit(y.ravel(), np.c_[x, np.ones(100)]).fit(disp=0, cov_type=cov_type)
    table = kormos_opt.summary(model, x, y, cov_type=cov_type)
    np.testing.assert_allclose(table.standard_errors, fit.bse, rtol=1e-5)
    np.testing.assert_allclose(table.log_likelihood, fit.llf, rtol=1e-8)
