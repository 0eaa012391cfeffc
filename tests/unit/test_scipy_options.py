"""The options of scipy's methods: names from its code, values looked at, nothing solved."""

import dataclasses
import time

import keras
import numpy as np
import pytest
import scipy.optimize

import kormos_opt
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.optimizers import METHODS, ScipyBatchOptimizer
from kormos_opt.solvers import registry, scipy_methods
from kormos_opt.solvers.scipy_options import known_options
from kormos_opt.solvers.units import Units
from kormos_opt.stages.options import check_options
from kormos_opt.stages.plan import Plan
from kormos_opt.stages.stage import SolverStage
from tests.support.problems import compiled, linear, regression

pytestmark = pytest.mark.quick

NAMES = [method.name for method in scipy_methods.METHODS.values()]


@pytest.mark.parametrize("name", NAMES)
def test_scipy_takes_every_option_that_is_known(name):
    """At its default, without a warning: warnings are errors here."""
    options = {
        option: value
        for option, value in known_options(name).items()
        if value is not None and type(value) is not object and option not in ("disp", "return_all", "iprint", "verbose")
    }
    options |= registry.find(name).unlimited
    check_options(registry.find(name), None, options)
    derivatives = {} if registry.find(name).derivatives == "none" else {"jac": lambda x: 2 * x}
    if registry.find(name).derivatives in ("hessian", "hvp"):
        derivatives["hess"] = lambda x: 2 * np.eye(2)
    result = scipy.optimize.minimize(lambda x: x @ x, np.ones(2), method=name, options=options, **derivatives)
    assert np.abs(result.x).max() < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_limits_and_tolerances_of_the_table_are_options(name):
    method = registry.find(name)
    assert {*method.limits, *method.tolerances} <= known_options(name).keys()


def test_options_that_scipy_leaves_out_of_its_documentation():
    assert {"xtol", "ftol"} <= known_options("Powell").keys()
    assert "gtol" in known_options("trust-krylov")
    assert not {"fun", "x0", "hessp", "callback", "subproblem"} & known_options("trust-krylov").keys()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("CG", {"gtoll": 1}, "Unknown solver options: gtoll"),
        ("CG", {"gtol": "small"}, "gtol='small' is no number"),
        ("CG", {"gtol": float("nan")}, "gtol=nan is no number"),
        ("CG", {"maxiter": -1}, "maxiter=-1 is no number above or equal to 0"),
        ("L-BFGS-B", {"maxiter": None}, "maxiter=None is no number"),
        ("L-BFGS-B", {"maxls": 0}, "maxls=0 is no positive integer"),
        ("L-BFGS-B", {"maxcor": 2.5}, "maxcor=2.5 is no positive integer"),
        ("TNC", {"maxiter": 5}, "Unknown solver options: maxiter"),
    ],
)
def test_wrong_options(name, options, reason):
    with pytest.raises(ValueError, match=reason):
        ScipyBatchOptimizer(method=name, options=options)


def test_wrong_tol():
    with pytest.raises(ValueError, match="Received: tol='tight'"):
        kormos_opt.CG(tol="tight")


@pytest.mark.parametrize(
    "method", [each for each in registry.METHODS.values() if each.set_by_tol], ids=lambda method: method.name
)
def test_an_option_wins_over_tol(method):
    """One rule for every method, scipy's: the more special wins, `tol` sets the others."""
    name, *others = method.set_by_tol
    (stage,) = Plan(method=method.name, tol=1e-3, options={name: 1e-7}).stages
    assert stage.settings[name] == 1e-7
    assert [stage.settings[other] for other in others] == [1e-3] * len(others)


@pytest.mark.parametrize(
    "method", [name for name, each in registry.METHODS.items() if isinstance(each, registry.NumpyMethod)]
)
def test_the_solver_is_started_with_it(method):
    started, row = {}, registry.find(method)

    def start(x0, **options):
        started.update(options)
        yield

    options = dict.fromkeys(row.set_by_tol[:1], 1e-7)
    stage = SolverStage(dataclasses.replace(row, start=start), None, None, options, 1e-3, None, [])
    stage.solver(FlatParameters([keras.Variable([1.0])]), np.ones(1), None, Units(np.ones(1)), None).send(None)
    assert {name: started[name] for name in row.set_by_tol} == {
        name: 1e-3 if i else 1e-7 for i, name in enumerate(row.set_by_tol)
    }


def test_a_fit_ends_by_the_option():
    model = compiled(linear(), kormos_opt.SSBroyden(tol=1e-1, options={"gtol": 1e-9}, precision="float64"))
    model.fit(*regression(), epochs=200, verbose=0)
    assert np.abs(model.optimizer.result.jac).max() <= 1e-9


def test_a_constructor_solves_nothing(tmp_path):
    """Limits that no run would ever reach."""
    optimizer = kormos_opt.TrustConstr(tol=0, options={"maxiter": 10**9})
    model = compiled(linear(), optimizer)
    model.fit(*regression(), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    start = time.monotonic()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kormos_opt.TrustConstr(tol=0, options={"maxiter": 10**9})
    assert time.monotonic() - start < 20
    assert loaded.optimizer.plan.arguments["options"] == {"maxiter": 10**9}


def test_no_constructor_calls_scipy(monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError

    monkeypatch.setattr("scipy.optimize.minimize", forbidden)
    for optimizer in METHODS:
        limit = {"TNC": "maxfun", "LevenbergMarquardt": "max_nfev"}.get(optimizer.__name__, "maxiter")
        optimizer(tol=1e-3, options={limit: 3})
