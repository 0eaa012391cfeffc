"""Runs of scripted solvers on functions of numpy: iterates, counts, endings, and what is no solver."""

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct, Iterate
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.training.runs.solver_run import SolverRun
from tests.support.doubles import NumpyOracle, Script, parabola

pytestmark = pytest.mark.quick


def run_of(solver, fun=parabola, hessian=None):
    oracle = NumpyOracle(fun, hessian)
    return SolverRun(solver, oracle), oracle


def test_an_iteration_ends_at_the_next_iterate():
    run, oracle = run_of(Script([3.0], ([2.0],), [1.5], ([1.0],))(np.array([4.0])))
    assert run.iterate()
    assert (run.nit, run.nfev, run.accepted.fun, run.gradient_norm) == (1, 3, 2.0, 2.0)
    assert run.result is None
    assert run.iterate()
    assert (run.nit, run.nfev, run.accepted.fun) == (2, 5, 0.5)
    assert run.result.ending is TerminationReason.ALL_FIXED
    assert [float(x[0]) for _, x in oracle.asked] == [4, 3, 2, 1.5, 1]
    assert (run.result.nit, run.result.nfev) == (2, 5)
    np.testing.assert_array_equal(run.result.jac, [1.0])


def test_an_end_without_another_iterate():
    run, _ = run_of(Script(([2.0],), [9.0], ending=TerminationReason.NO_BETTER_POINT)(np.array([4.0])))
    assert run.iterate()
    assert not run.iterate()
    assert run.result.ending is TerminationReason.NO_BETTER_POINT
    assert not run.result.success
    np.testing.assert_array_equal(run.result.x, [2.0])


def test_a_solver_that_ends_elsewhere_is_followed_there():
    def solver():
        yield EvaluateWithGradient(np.array([4.0]))
        return OptimizeResult(x=np.array([1.0]), success=True, status=0, message="Converged: there", nit=0, nfev=1)

    run, oracle = run_of(solver())
    assert run.iterate()
    assert (run.nit, run.accepted.fun, run.result.fun) == (1, 0.5, 0.5)
    assert [float(x[0]) for _, x in oracle.asked] == [4, 1]


def test_known_points_are_not_evaluated_again():
    run, oracle = run_of(Script([2.0], [2.0], ([2.0],))(np.array([4.0])))
    assert run.iterate()
    assert [float(x[0]) for _, x in oracle.asked] == [4, 2]
    assert run.nfev == 2


def test_without_derivatives_there_is_no_gradient():
    run, oracle = run_of(Script(([2.0],), derivatives=False)(np.array([4.0])))
    assert run.iterate()
    assert run.gradient_norm is None
    assert run.accepted.jac is None
    assert {kind for kind, _ in oracle.asked} == {"value"}
    assert "the loss is 2" in run.interrupted("what next").message


def test_products_are_counted_one_by_one():
    def solver():
        yield EvaluateWithGradient(np.ones(2))
        product = yield HessianProduct(np.ones(2), np.eye(2))
        yield EvaluateWithGradient(product[0])
        yield Iterate(product[0])
        return OptimizeResult(x=product[0], success=True, status=0, message="Converged: there")

    run, _ = run_of(solver(), hessian=lambda x: np.diag([3.0, 5.0]))
    assert run.iterate()
    assert run.nhev == 2
    np.testing.assert_array_equal(run.accepted.x, [3.0, 0.0])


def test_an_iterate_where_f_is_nan_ends_the_run_before_it():
    def wall(x):
        return (np.nan, x) if x[0] < 0 else parabola(x)

    run, _ = run_of(Script(([2.0],), ([-1.0],), ([1.0],))(np.array([4.0])), wall)
    assert run.iterate()
    assert not run.iterate()
    assert run.result.ending is TerminationReason.WALKED_INTO_NAN
    np.testing.assert_array_equal(run.result.x, [2.0])


def test_a_start_where_f_is_nan_is_refused():
    run, _ = run_of(Script(([2.0],))(np.array([np.nan])))
    with pytest.raises(ValueError, match="finite loss at the starting point"):
        run.iterate()
    assert run.accepted is None


@pytest.mark.parametrize("request_", [None, 3, (np.ones(1),), "x"])
def test_an_unknown_request_is_no_solver(request_):
    def solver():
        yield request_

    with pytest.raises(TypeError, match="Expected a solver that yields EvaluateWithGradient"):
        run_of(solver())[0].iterate()


@pytest.mark.parametrize("value", [None, np.ones(2)])
def test_another_result_is_no_solver(value):
    def solver():
        yield EvaluateValue(np.ones(2))
        return value

    with pytest.raises(TypeError, match=r"Expected a solver that returns a scipy.optimize.OptimizeResult"):
        run_of(solver())[0].iterate()


def test_a_result_is_completed():
    def solver():
        yield EvaluateWithGradient(np.ones(1))
        yield Iterate(np.ones(1))
        return OptimizeResult(x=np.ones(1))

    run, _ = run_of(solver())
    assert run.iterate()
    expected = {"nit": 1, "nfev": 1, "success": False, "message": "The solver has ended", "fun": 0.5}
    assert {name: run.result[name] for name in expected} == expected


def test_counts_go_on_from_another_run():
    first, _ = run_of(Script(([2.0],), ([1.0],), ([0.5],))(np.array([4.0])))
    first.iterate()
    oracle = NumpyOracle(parabola)
    second = SolverRun(Script(([1.0],))(first.accepted.x), oracle, start=first.accepted, before=first)
    assert second.iterate()
    assert (second.nit, second.nfev) == (2, 4)
    assert len(oracle.asked) == 1


def test_closing_closes_the_solver():
    script = Script(([2.0],), ([1.0],))
    run, _ = run_of(script(np.array([4.0])))
    run.iterate()
    assert run.survives_interrupt()
    run.close()
    assert script.closed
    assert not run.survives_interrupt()


def test_another_fit_may_answer():
    run, first = run_of(Script(([2.0],), ([1.0],))(np.array([4.0])))
    run.iterate()
    run.detach()
    second = NumpyOracle(parabola)
    run.attach(second)
    run.iterate()
    assert (len(first.asked), len(second.asked)) == (2, 1)
