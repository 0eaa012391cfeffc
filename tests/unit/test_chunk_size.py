"""How many rows are evaluated at a time: measured with `batch_size="auto"`, within the memory there is."""

import resource

import keras
import numpy as np
import psutil
import pytest

import kormos_opt
from kormos_opt.data import memory_limits
from kormos_opt.objective import chunk_size
from tests.support.problems import compiled, linear, prepared, regression


def test_a_limit_of_the_process_or_its_container_counts(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("max\n")
    monkeypatch.setattr(memory_limits, "_CONTAINER_LIMITS", (tmp_path / "limit", tmp_path / "missing"))
    unlimited = memory_limits.of_process()
    assert unlimited <= psutil.virtual_memory().total
    (tmp_path / "limit").write_text("1000000\n")
    assert memory_limits.of_process() == 1e6
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500_000, 500_000))
    assert memory_limits.of_process() == 5e5
    assert memory_limits.half_of_all() == 2.5e5


def test_the_peak_is_that_of_the_call():
    before = psutil.Process().memory_info().rss
    peak = memory_limits.peak_of(lambda: np.ones(2**26).sum())
    assert peak - before > 0.9 * 2**29


def test_rows_fill_the_bound_and_no_trial_goes_beyond(monkeypatch):
    """A row of exactly 1 MiB under a bound of 400 MiB: 256 rows, a power of two."""
    tried = []

    def evaluate(rows):
        tried.append(rows)
        np.ones(rows * 2**17).sum()

    monkeypatch.setattr(memory_limits, "eighth_of_all", lambda: 400 * 2**20)
    assert chunk_size.measured(evaluate, 100_000) == 256
    assert max(tried) <= 512


def test_all_rows_at_once_where_they_fit(monkeypatch):
    monkeypatch.setattr(memory_limits, "eighth_of_all", lambda: 2**33)
    assert chunk_size.measured(lambda rows: None, 1000) == 1000


def test_recurrent_layers_are_measured(monkeypatch):
    """The steps inside the loop take 200 times what the graph shows: the estimate does not see them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 200, 8)).astype("float32"), np.ones((3000, 1), "float32")
    model = keras.Sequential([keras.Input((200, 8)), keras.layers.LSTM(32), keras.layers.Dense(1)])
    monkeypatch.setattr(memory_limits, "eighth_of_all", lambda: 150 * 2**20)
    compiled(model, kormos_opt.LBFGS(batch_size="auto"))
    objective = prepared(model, x, y)
    assert objective.objective.rows_per_chunk < 1500
    before = psutil.Process().memory_info().rss
    peak = memory_limits.peak_of(lambda: objective.evaluate(objective.parameters.ravel()))
    assert peak - before < 2 * 150 * 2**20


@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, kormos_opt.TrustExact])
def test_the_result_is_that_of_any_batch_size(optimizer, monkeypatch, float64):
    x, y = regression(dtype="float64")
    monkeypatch.setattr(memory_limits, "eighth_of_all", lambda: 1.0)
    weights = []
    for batch_size in ("auto", None):
        model = compiled(linear(), optimizer(batch_size=batch_size))
        model.set_weights([np.ones((4, 1)), np.zeros(1)])
        model.fit(x, y, epochs=4, verbose=0)
        weights.append(np.concatenate([each.ravel() for each in model.get_weights()]))
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-10)


def test_config_keeps_auto():
    assert kormos_opt.LBFGS.from_config(kormos_opt.LBFGS(batch_size="auto").get_config()).batch_size == "auto"
