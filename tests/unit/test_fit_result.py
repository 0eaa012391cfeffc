"""What a result prints, in a terminal and in a notebook."""

import copy
import pickle

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

import kormos_opt
from tests.support.problems import compiled, network, regression


@pytest.fixture(scope="module")
def model():
    x, y = regression()
    model = compiled(network(), kormos_opt.LBFGS())
    model.fit(x, y, epochs=3, verbose=0)
    return model


def test_it_says_first_why_the_solver_ended(model):
    result = model.optimizer.result
    first, *lines = str(result).splitlines()
    assert first == result.message
    rows = {line[:18].strip(): line[18:].strip() for line in lines}
    assert rows["loss"] == f"{result.fun:.6g}"
    assert rows["gradient norm"] == f"{np.linalg.norm(result.jac):.6g}"
    assert (rows["iterations"], rows["evaluations"]) == ("3", str(result.nfev))
    assert float(rows["per evaluation"].removesuffix(" s")) == pytest.approx(result.seconds_per_evaluation, rel=0.01)
    assert rows["method"] == result.method == "L-BFGS-B"


def test_long_vectors_are_shortened(model):
    result = model.optimizer.result
    shown = ", ".join(f"{entry:.6g}" for entry in result.x[:3])
    assert f"{len(result.x)} numbers: {shown}, ..." in str(result)
    assert len(str(result)) < 1500


def test_seconds_are_those_inside_of_the_solver(model):
    """The first call traces: without another one nothing is known."""
    x, y = regression()
    once = compiled(network(), kormos_opt.LBFGS())
    once.fit(x, y, epochs=1, verbose=0)
    assert once.optimizer.result.seconds_per_evaluation is None
    assert 0 < model.optimizer.result.seconds_per_evaluation < 1


def test_a_notebook_shows_the_same(model):
    html = model.optimizer.result._repr_html_()
    assert html.startswith("<pre>Not converged after 3 iterations: the gradient&#x27;s norm is")
    assert "evaluations" in html


def test_it_is_scipys_result(model):
    result = model.optimizer.result
    assert isinstance(result, OptimizeResult)
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert str(again) == str(result)
