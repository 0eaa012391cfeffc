"""Bounds and constraints: by position, by name, from Keras, against oracles of scikit-learn and closed forms."""

import keras
import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint
from sklearn.linear_model import LinearRegression

import kormos_opt
from kormos_opt.optimizers import METHODS, ScipyBatchOptimizer
from kormos_opt.solvers.scipy_methods import METHODS as TABLE
from tests.support.helpers import COBYLA_TAKES_EQUALITIES
from tests.support.problems import compiled, linear, regression

pytestmark = pytest.mark.quick

WITH_BOUNDS = [method.name for method in TABLE.values() if method.bounds]
WITH_CONSTRAINTS = [method.name for method in TABLE.values() if method.constraints]
WITHOUT_BOUNDS = [method.name for method in TABLE.values() if not method.bounds]


def signed(dtype="float64"):
    """Linear data whose unconstrained solution has weights of both signs."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 4))
    return x.astype(dtype), (x @ np.array([[1.0], [-0.5], [2.0], [-0.1]]) + 0.1 * rng.normal(size=(80, 1))).astype(
        dtype
    )


def sloppy(name):
    return 5e-3 if TABLE[name.lower()].derivatives == "none" or name in ("TNC", "SLSQP", "trust-constr") else 1e-4


@pytest.mark.slow_cases(
    "Bounds-*-Mead",
    "Bounds-COBYLA",
    "Bounds-COBYQA",
    "Bounds-Powell",
    "Bounds-TNC",
    "Bounds-trust-*",
    "NonNeg-*-Mead",
    "NonNeg-COBYLA",
    "NonNeg-COBYQA",
    "NonNeg-Powell",
    "NonNeg-TNC",
    "NonNeg-trust-*",
    "pairs-*-Mead",
    "pairs-COBYLA",
    "pairs-COBYQA",
    "pairs-Powell",
    "pairs-TNC",
    "pairs-trust-*",
)
@pytest.mark.parametrize("name", WITH_BOUNDS)
@pytest.mark.parametrize("how", ["pairs", "Bounds", "by name", "NonNeg"])
def test_nonnegative_least_squares(name, how, float64):
    x, y = signed()
    oracle = LinearRegression(positive=True, fit_intercept=False).fit(x, y.ravel()).coef_
    bounds = {
        "pairs": [(0, None)] * 4,
        "Bounds": Bounds(np.zeros(4), np.inf),
        "by name": {"kernel": (0, None)},
        "NonNeg": None,
    }[how]
    model = linear(use_bias=False, kernel_constraint="non_neg" if how == "NonNeg" else None)
    compiled(model, ScipyBatchOptimizer(method=name, bounds=bounds, iterations_per_epoch=20))
    model.fit(x, y, epochs=60, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0].ravel(), oracle, atol=sloppy(name))
    assert np.all(model.get_weights()[0] >= -1e-8)


def test_every_iterate_is_between_the_bounds():
    x, y = signed("float32")
    model = compiled(linear(), kormos_opt.LBFGS(bounds={"kernel": (0, 1.5), "bias": (-0.25, 0.25)}))
    seen = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    model.fit(x, y, epochs=20, callbacks=[keep], verbose=0)
    assert all(np.all((kernel >= 0) & (kernel <= 1.5)) and abs(bias[0]) <= 0.25 for kernel, bias in seen)


def test_the_last_pattern_counts_and_arrays_have_the_shape_of_the_variable():
    model = compiled(linear(), kormos_opt.LBFGS(bounds={"*": (-1, 1), "kernel": (None, np.full((4, 1), 0.5))}))
    x, y = signed("float32")
    model.fit(x, y, epochs=20, verbose=0)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel[2], 0.5)
    assert kernel[1] < 0 and abs(bias[0]) <= 1


@pytest.mark.parametrize(
    ("bounds", "match"),
    [
        ({"kernels": (0, None)}, "Expected patterns that match one of .*kernel.*Received: bounds with 'kernels'"),
        ([(0, 1)], "Expected bounds for 5 weights. Received: bounds of length 1"),
        ([(0, 1)] * 3, "Expected bounds for 5 weights. Received: bounds of length 3"),
        (Bounds([0, 0], [1, 1]), "Received: bounds of length 2"),
        ({"bias": (2, 1)}, r"Received: \(2.0, 1.0\) for .*bias\[0\], and 0 more"),
    ],
)
def test_bad_bounds(bounds, match):
    model = compiled(linear(), kormos_opt.LBFGS(bounds=bounds))
    with pytest.raises(ValueError, match=match):
        model.fit(*regression(), verbose=0)


@pytest.mark.parametrize("name", WITHOUT_BOUNDS)
def test_a_method_without_bounds_says_so(name):
    model = compiled(linear(), ScipyBatchOptimizer(method=name, bounds={"kernel": (0, None)}))
    with pytest.raises(ValueError, match=f"Expected no bounds for {name}, which takes none.*Use .*L-BFGS-B"):
        model.fit(*regression(), verbose=0)
    with pytest.raises(ValueError, match="Received: a variable with the constraint NonNeg"):
        compiled(linear(kernel_constraint="non_neg"), name).fit(*regression(), verbose=0)


@pytest.mark.parametrize("name", [name for name in TABLE if not TABLE[name].constraints])
def test_a_method_without_constraints_says_so(name):
    model = compiled(linear(), ScipyBatchOptimizer(method=name, constraints=LinearConstraint(np.ones((1, 5)), 0, 1)))
    with pytest.raises(ValueError, match=r"Expected no constraints for .*Use COBYLA, COBYQA, SLSQP, trust-constr"):
        model.fit(*regression(), verbose=0)


def total(weights):
    """The sum of the kernel, a constraint function."""
    return weights["kernel"].sum()


def flat_total(x):
    return x.sum()


def total_jac(weights):
    return {"kernel": np.ones_like(weights["kernel"])}


CONSTRAINTS = {
    "LinearConstraint": LinearConstraint(np.ones((1, 4)), 1.0, 1.0),
    "NonlinearConstraint": NonlinearConstraint(flat_total, 1.0, 1.0),
    "dict": {"type": "eq", "fun": lambda x: x.sum() - 1},
    "by name": kormos_opt.VariableConstraint(total, 1.0, 1.0),
    "by name with jac": kormos_opt.VariableConstraint(total, 1.0, 1.0, total_jac),
}


@pytest.mark.slow_cases(
    "LinearConstraint-COBYLA",
    "LinearConstraint-COBYQA",
    "NonlinearConstraint-COBYLA",
    "NonlinearConstraint-COBYQA",
    "by name with jac-COBYLA",
    "by name with jac-COBYQA",
    "by name-COBYLA",
    "by name-COBYQA",
)
@pytest.mark.filterwarnings("ignore:delta_grad == 0.0")  # scipy's, of trust-constr with a function that is linear
@pytest.mark.parametrize("name", WITH_CONSTRAINTS)
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_least_squares_with_a_given_sum(name, kind, float64):
    """Closed form: the Lagrange conditions of min |x w - y|^2 / n with sum(w) = 1."""
    if name == "COBYLA" and not COBYLA_TAKES_EQUALITIES:
        pytest.skip("takes no equalities before scipy 1.16")
    x, y = signed()
    gram, right = 2 * x.T @ x / len(x), 2 * x.T @ y.ravel() / len(x)
    conditions = np.block([[gram, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    best = np.linalg.solve(conditions, np.r_[right, 1.0])[:4]
    optimizer = ScipyBatchOptimizer(method=name, constraints=CONSTRAINTS[kind], iterations_per_epoch=20)
    model = compiled(linear(use_bias=False), optimizer)
    model.fit(x, y, epochs=60, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0].ravel(), best, atol=5e-3 if name != "trust-constr" else 1e-5)


def test_a_constraint_with_several_values_and_variables(float64):
    x, y = signed()
    constraint = kormos_opt.VariableConstraint(
        lambda weights: np.r_[weights["kernel"].sum(), weights["bias"][0]],
        [3.0, -np.inf],
        [np.inf, -0.5],
        lambda weights: {"kernel": np.stack([np.ones((4, 1)), np.zeros((4, 1))]), "bias": [[0.0], [1.0]]},
    )
    model = compiled(linear(), kormos_opt.SLSQP(constraints=[constraint], tol=1e-10))
    model.fit(x, y, epochs=60, verbose=0)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose([kernel.sum(), bias[0]], [3.0, -0.5], atol=1e-6)


def test_an_error_in_a_constraint_reaches_the_caller():
    constraint = kormos_opt.VariableConstraint(lambda weights: weights["kernels"].sum())
    model = compiled(linear(), kormos_opt.SLSQP(constraints=constraint))
    with pytest.raises(KeyError, match="Received: 'kernels', which names 0"):
        model.fit(*regression(), verbose=0)


SPARSE = LinearConstraint(scipy.sparse.csr_matrix(np.ones((1, 4))), 1.0, 1.0)


@pytest.mark.parametrize("kind", ["LinearConstraint", "NonlinearConstraint", "by name", "by name with jac", "sparse"])
def test_config_of_constraints_and_bounds(kind):
    made = kormos_opt.SLSQP(constraints=CONSTRAINTS.get(kind, SPARSE), bounds={"kernel": (0, None)})
    with keras.saving.custom_object_scope({"total": total, "total_jac": total_jac, "flat_total": flat_total}):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    x, y = regression()
    weights = []
    for optimizer in (made, again):
        keras.utils.set_random_seed(0)
        model = compiled(linear(use_bias=False), optimizer)
        model.fit(x, y, epochs=5, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)


def test_bounds_of_scipy_survive_the_config():
    made = kormos_opt.LBFGS(bounds=Bounds([0, 0], [1, np.inf], keep_feasible=True))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    np.testing.assert_array_equal(again.plan.arguments["bounds"].ub, [1, np.inf])
    assert again.plan.arguments["bounds"].keep_feasible.all()


def test_all_classes_take_both_arguments():
    for optimizer in METHODS:
        assert optimizer(bounds=None, constraints=None).stages[0].bounds is None
