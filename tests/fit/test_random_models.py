"""Random models, losses, masks, weights and train steps: no cut of the rows changes f, its derivatives or the metrics.

Layers that are stateful or random leave f a function of the weights, layers that look at other rows are refused where
rows are cut, and raw data is solved or not called so.

Each case is drawn from its number, which is the name of the test. `--random-cases` says how many there are.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kormos_opt.data.full_batch import BatchSequence
from kormos_opt.objective.build import bind
from kormos_opt.optimizers import LBFGS
from tests.support.problems import compiled, excess, finite_differences, prepared
from tests.support.random_models import draw, draw_special

KERAS = tuple(int(number) for number in keras.__version__.split(".")[:2])


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        kinds = 5 if metafunc.function.__name__ == "test_special_layers_and_units" else 1
        metafunc.parametrize("seed", range(max(metafunc.config.getoption("--random-cases"), kinds)))


def random_batches(rng, rows, case):
    """The rows in batches of random sizes, each what a train step takes."""
    borders = {0, rows, *rng.integers(1, rows, rng.integers(1, 4)).tolist()}
    parts = [_as_tuple(case.x), _as_tuple(case.y), _as_tuple(case.sample_weight)]
    parts = tuple(part for part in parts if part is not None)
    return [
        keras.tree.map_structure(lambda leaf, start=start, end=end: tf.constant(leaf[start:end]), parts)
        for start, end in itertools.pairwise(sorted(borders))
    ]


def _as_tuple(part):
    """Data sets hold tuples where `fit` takes lists."""
    return tuple(part) if isinstance(part, list) else part


def as_dataset(batches):
    data = tf.data.Dataset.from_tensors(batches[0])
    for batch in batches[1:]:
        data = data.concatenate(tf.data.Dataset.from_tensors(batch))
    return data


def values(objective, x0, p):
    """f with gradient and metrics at `x0`, and the Hessian times `p` there."""
    return objective.evaluate(x0), None if p is None else objective.hvps(x0, p)


def test_cuts_change_nothing(seed, float64):
    case, rng = draw(seed), np.random.default_rng(1000 + seed)
    print(f"seed {seed}: {case.words}")
    rows = len(keras.tree.flatten(case.x)[0])
    arrays = case.x, _as_tuple(case.y), _as_tuple(case.sample_weight)
    objective = made(case, LBFGS(batch_size=rows), *arrays)
    x0, direction = objective.parameters.ravel(), rng.normal(size=objective.parameters.size)
    p = direction if rng.random() < 0.5 else None  # second derivatives take long to trace
    whole = values(objective, x0, p)
    objective.parameters.assign(x0)
    if case.is_stock:
        expected = case.model.test_on_batch(case.x, case.y, case.sample_weight)
        np.testing.assert_allclose(whole[0].fun, np.ravel(expected)[0], rtol=1e-11)
    slope = finite_differences(lambda x: objective.evaluate(x).fun, x0, direction)
    np.testing.assert_allclose(whole[0].jac @ direction, slope, rtol=1e-5, atol=1e-7)
    for _ in range(2):
        cut = bind(objective.objective, BatchSequence(random_batches(rng, rows, case), rows))
        assert_same(values(cut, x0, p), whole)
    objective.parameters.assign(x0)
    how = rng.random()
    if how < 0.3:
        assert_same(values(made(case, LBFGS(batch_size=int(rng.integers(1, rows))), *arrays), x0, p), whole)
    elif how < 0.4:
        streamed = made(case, LBFGS(cache=False), as_dataset(random_batches(rng, rows, case)))
        assert_same(values(streamed, x0, p), whole)


def made(case, optimizer, *data):
    return prepared(compiled(case.model, optimizer, **case.compile()), *data)


def assert_same(cut, whole):
    (evaluation, product), (expected, expected_product) = cut, whole
    scale = 1 + np.abs(expected.jac).max()
    np.testing.assert_allclose(evaluation.fun, expected.fun, rtol=1e-12)
    np.testing.assert_allclose(evaluation.jac, expected.jac, rtol=1e-9, atol=1e-12 * scale)
    if product is not None:
        scale = 1 + np.abs(expected_product).max()
        np.testing.assert_allclose(product, expected_product, rtol=1e-8, atol=1e-11 * scale)
    for name, value in expected.logs.items():
        if not name.endswith("loss"):  # of the single outputs: Keras's own trackers do not weigh with rows
            rtol = 1e-9 if KERAS >= (3, 13) else 1e-6  # before, Keras adds 1e-7 to the valid entries of a mask
            np.testing.assert_allclose(evaluation.logs[name], value, rtol=rtol, err_msg=name)


def test_special_layers_and_units(seed, float64):
    model, x, y, kind = draw_special(seed)
    print(f"seed {seed}: {kind}")
    if kind == "raw":
        start = model.get_weights()
        assert excess(x, y, fitted(model, x, y)) < 1e-3
        model.set_weights(start)
        result = fitted(model, x, y, x_scale=None)
        assert not result.success or excess(x, y, result) < 1e-3
        return
    if kind == "mixing":
        with pytest.raises(ValueError, match="adds up over chunks"):
            made_of(model, LBFGS(batch_size=7), x, y)
    objective = made_of(model, LBFGS(batch_size=len(x)), x, y)
    x0 = objective.parameters.ravel()
    before = [np.array(each) for each in model.get_weights()]
    first = objective.evaluate(x0)
    objective.evaluate(x0 + 0.1)
    again = objective.evaluate(x0)
    assert again.fun == first.fun
    np.testing.assert_array_equal(again.jac, first.jac)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def fitted(model, x, y, **settings):
    compiled(model, LBFGS(**settings)).fit(x, y, epochs=400, verbose=0)
    return model.optimizer.result


def made_of(model, optimizer, x, y):
    return prepared(compiled(model, optimizer), x, y)
