"""New training data in the middle of a fit: the solver goes on with it, and so does a fit from a file."""

import keras
import numpy as np
import pytest

import kormos_opt
from kormos_opt.callbacks import ResampleData, residual_sampling
from tests.support.helpers import flat_weights
from tests.support.problems import compiled, linear, network

DESIGN = np.random.default_rng(0).normal(size=(60, 4))


def targets(number):
    """Others for every number."""
    return np.random.default_rng(100 + number).normal(size=(60, 1))


class Sample:
    """Draws the same rows with other targets every time, and remembers how often."""

    def __init__(self):
        self.count = 0

    def __call__(self, model, rng):
        self.count += 1
        return DESIGN, targets(rng.integers(1000))


def curves(model, rng):
    """Points of a curve."""
    x = rng.uniform(-1, 1, (40, 4))
    return x, np.sin(3 * x.sum(axis=1, keepdims=True))


def optimum(y):
    """The least sum of squares over the rows."""
    design = np.hstack([DESIGN, np.ones((60, 1))])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    return np.mean((design @ solution - y) ** 2)


@pytest.mark.parametrize(
    ("make", "said"), [(kormos_opt.SSBroyden, "keeps its state"), (kormos_opt.LBFGS, "starts afresh")]
)
def test_the_fit_goes_on_with_new_data(make, said, float64, caplog):
    model, sample = compiled(linear(), make(tol=1e-12)), Sample()
    drawn = [targets(np.random.default_rng([0, due]).integers(1000)) for due in (1, 2)]
    history = model.fit(
        DESIGN, targets(0), epochs=60, callbacks=[ResampleData(every=7, sample=sample)], verbose=0
    ).history["loss"]
    np.testing.assert_allclose(history[6], optimum(targets(0)), rtol=1e-3)
    np.testing.assert_allclose(history[13], optimum(drawn[0]), rtol=1e-3)
    np.testing.assert_allclose(history[-1], model.evaluate(*model_data(model), verbose=0), rtol=1e-12)
    assert sample.count >= 2
    messages = [record.message for record in caplog.records if "new training data" in record.message]
    assert len(messages) == 1
    assert said in messages[0]


def model_data(model):
    return model.optimizer.drawn_data.arrays


def test_kept_curvature_saves_iterations(float64):
    """The Hessian of the new data is that of the old: one step of the inverse Hessian is nearly there."""
    left = {}
    for make in (kormos_opt.SSBroyden, kormos_opt.BFGS):
        model = compiled(linear(), make(tol=1e-12))
        callback = ResampleData(every=9, sample=Sample())
        losses = model.fit(DESIGN, targets(0), epochs=11, callbacks=[callback], verbose=0).history["loss"]
        left[make] = losses[-1] / optimum(model_data(model)[1]) - 1
    assert left[kormos_opt.SSBroyden] < 1e-4
    assert left[kormos_opt.BFGS] > 100 * max(left[kormos_opt.SSBroyden], 1e-12)


@pytest.mark.parametrize("name", ["ss-broyden", "l-bfgs"])
def test_stop_and_resume_is_never_stopped(name, float64):
    losses = []
    for cuts in ([20], [5, 20], [3, 8, 20]):
        keras.utils.set_random_seed(0)
        model = compiled(network(), name)
        x, y = curves(model, np.random.default_rng(0))
        callback, rows = ResampleData(every=5, sample=curves), []
        for before, after in zip([0, *cuts], cuts, strict=False):
            rows += model.fit(x, y, initial_epoch=before, epochs=after, callbacks=[callback], verbose=0).history["loss"]
        losses.append(rows)
    np.testing.assert_array_equal(losses[1], losses[0])
    np.testing.assert_array_equal(losses[2], losses[0])


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
@pytest.mark.parametrize("stop", [5, 7])
def test_a_file_carries_the_data_that_is_in_use(file, stop, float64, tmp_path):
    """At 5 the file is written just before a draw."""
    keras.utils.set_random_seed(0)
    model = compiled(network(), kormos_opt.SSBroyden())
    x, y = curves(model, np.random.default_rng(0))
    saving = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epoch + 1 == stop and _save(model, tmp_path / file)
    )
    callback = ResampleData(every=5, sample=curves)
    whole = model.fit(x, y, epochs=14, callbacks=[callback, saving], verbose=0).history["loss"]
    if file.endswith(".keras"):
        loaded = keras.models.load_model(tmp_path / file)
    else:
        loaded = compiled(network(), kormos_opt.SSBroyden())
        loaded.load_weights(tmp_path / file)
    callback = ResampleData(every=5, sample=curves)
    rest = loaded.fit(x, y, initial_epoch=stop, epochs=14, callbacks=[callback], verbose=0).history["loss"]
    np.testing.assert_array_equal(rest, whole[stop:])


def _save(model, path):
    return model.save(path) if path.suffix == ".keras" else model.save_weights(path)


def test_an_error_of_the_sample_keeps_the_last_iterate(float64):
    model, losses = compiled(linear(), kormos_opt.SSBroyden()), []

    def failing(model, rng):
        raise ZeroDivisionError

    remember = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: losses.append(logs["loss"]))
    with pytest.raises(ZeroDivisionError):
        model.fit(DESIGN, targets(0), epochs=9, callbacks=[ResampleData(4, failing), remember], verbose=0)
    assert len(losses) == 4
    np.testing.assert_allclose(model.evaluate(DESIGN, targets(0), verbose=0), losses[-1], rtol=1e-12)


def test_other_shapes_are_traced_anew(float64):
    """The objective is made again for rows with weights: the run starts afresh."""
    model = compiled(linear(), kormos_opt.SSBroyden(tol=1e-12))

    def weighted(model, rng):
        return DESIGN[:30], targets(0)[:30], np.linspace(0.1, 1, 30)

    model.fit(DESIGN, targets(0), epochs=40, callbacks=[ResampleData(5, weighted)], verbose=0)
    design = np.hstack([DESIGN[:30], np.ones((30, 1))])
    root = np.sqrt(np.linspace(0.1, 1, 30))[:, None]
    solution, *_ = np.linalg.lstsq(root * design, root * targets(0)[:30], rcond=None)
    np.testing.assert_allclose(flat_weights(model), solution[:, 0], rtol=1e-8)


def test_what_cannot_be(float64):
    with pytest.raises(ValueError, match="Received: every=0"):
        ResampleData(0, curves)
    x, y = DESIGN, targets(0)
    stock = compiled(linear(), "sgd")
    with pytest.raises(ValueError, match="optimizer=SGD"):
        stock.fit(x, y, callbacks=[ResampleData(1, curves)], verbose=0)
    model = compiled(linear())
    with pytest.raises(TypeError, match="Expected `sample` to return an array x"):
        model.fit(x, y, epochs=3, callbacks=[ResampleData(1, lambda model, rng: [1.0])], verbose=0)


def test_points_are_drawn_by_their_residuals():
    """Probabilities |r|^k / mean(|r|^k) + c, normalized, for a large number of candidates."""
    candidates = np.linspace(0, 1, 20_000)[:, None]
    sample = residual_sampling(lambda model, points: points[:, 0] - 0.5, candidates, k=2, c=0.5, rows=2000)
    points = sample(None, np.random.default_rng(0))
    assert len(np.unique(points)) == 2000
    weights = (candidates[:, 0] - 0.5) ** 2
    weights = weights / weights.mean() + 0.5
    expected, _ = np.histogram(candidates[:, 0], 5, (0, 1), weights=weights / weights.sum() * 2000)
    found, _ = np.histogram(points, 5, (0, 1))
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(expected.max()))
    assert expected.max() > 1.5 * expected.min()


def test_as_many_points_as_the_fit_has(float64):
    model, seen = compiled(linear(1), kormos_opt.SSBroyden()), []

    def residual(model, points):
        seen.append(len(points))
        return np.zeros((len(points), 2))

    sample = residual_sampling(residual, lambda rng: rng.uniform(0, 1, (500, 1)))

    def with_targets(model, rng):
        x = sample(model, rng)
        return x, np.exp(x)

    x = np.linspace(0, 1, 25)[:, None]
    model.fit(x, np.exp(x), epochs=3, callbacks=[ResampleData(2, with_targets)], verbose=0)
    assert seen == [500]
    assert model.optimizer.drawn_data.arrays[0].shape == (25, 1)


@pytest.mark.parametrize("residual", [np.nan, 0.0])
def test_residuals_that_allow_no_draw(residual):
    residuals = np.r_[residual, np.ones(9)]
    sample = residual_sampling(lambda model, points: residuals, np.zeros((10, 2)), c=0, rows=10)
    with pytest.raises(ValueError, match="at least 10 candidates"):
        sample(None, np.random.default_rng(0))
