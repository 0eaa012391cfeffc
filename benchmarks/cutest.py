"""All solvers on the CUTEst problems of sif2jax: performance profiles, beside scipy, optimistix and optax.

    python -m benchmarks.cutest [--largest 1000] [--evaluations 500] [--seconds 0.7] [--only NAME,NAME] [--draw]

A solver has solved a problem once it has lowered f by all but 1e-6 of what the best of all solvers has, at a point
within the bounds (More and Wild, Benchmarking derivative-free optimization algorithms, 2009). What it costs are its
evaluations: of f with its gradient or alone, and products of the Hessian, one each. A profile is the share of problems
solved within a multiple of the least cost (Dolan and More, Benchmarking optimization software with performance
profiles, 2002). `--draw` draws what `docs/measured/cutest.json` holds.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

MEASURED = Path("docs/measured/cutest.json")
PICTURE = Path("docs/cutest.png")
ACCURACY = 1e-6
_EAGER = 15.0  # times slower is a step in the graph where its operations run one by one
UNCONSTRAINED = (
    *("L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP", "SS-Broyden", "SS-BFGS", "Newton-CG", "trust-ncg", "trust-krylov"),
    *("trust-exact", "dogleg", "trust-constr", "Nelder-Mead", "Powell", "COBYLA", "COBYQA"),
)
BOUNDED = "L-BFGS-B", "TNC", "SLSQP", "trust-constr", "Nelder-Mead", "Powell", "COBYLA", "COBYQA"
WITHOUT_GRADIENT = "Nelder-Mead", "Powell", "COBYLA", "COBYQA"
MOST_WITHOUT_GRADIENT = 30  # weights: with more they solve nothing within the budget
OF_SCIPY = ("L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact")
BOUNDED_OF_SCIPY = "L-BFGS-B", "TNC", "SLSQP", "trust-constr"
DRAWN = {
    "unconstrained": (
        "L-BFGS-graph",
        "SS-Broyden",
        "SS-BFGS",
        "BFGS",
        "L-BFGS-B",
        "Newton-CG",
        "trust-exact",
        "scipy L-BFGS-B",
        "scipy BFGS",
        "scipy Newton-CG",
        "optimistix BFGS",
        "optimistix LBFGS",
        "optax lbfgs",
    ),
    "bounded": ("L-BFGS-B", "TNC", "SLSQP", "trust-constr", *(f"scipy {name}" for name in BOUNDED_OF_SCIPY)),
}


class BudgetError(Exception):
    """There are no evaluations or seconds left."""


class Counted:
    """A problem whose evaluations are counted, with the best f so far at each count where it fell.

    Args:
        problem: One of sif2jax.
        evaluations: How many there may be.
        seconds: How long they may take in all.
    """

    def __init__(self, problem, evaluations: int, seconds: float):
        import jax

        self.start, self.unravel = jax.flatten_util.ravel_pytree(problem.y0)
        self.start = np.asarray(self.start, "float64")
        self.objective = lambda x: problem.objective(self.unravel(x), problem.args)
        self._value = jax.jit(self.objective)
        self._gradient = jax.jit(jax.value_and_grad(self.objective))
        self._product = jax.jit(lambda x, p: jax.jvp(jax.grad(self.objective), (x,), (p,))[1])
        self.limits = None
        if getattr(problem, "bounds", None) is not None:
            low, high = (jax.flatten_util.ravel_pytree(bound)[0] for bound in problem.bounds)
            self.limits = np.asarray(low, "float64"), np.asarray(high, "float64")
            self.start = np.clip(self.start, *self.limits)
        self._most, self._seconds = evaluations, seconds
        for warm_up in (self._value, self._gradient):
            warm_up(self.start)
        self._product(self.start, self.start)
        self.reset()

    def reset(self, patience: float = 1.0) -> None:
        """For the next solver, which may take so many times as long as others."""
        self.count, self.best, self.falls = 0, np.inf, []
        self._end = time.perf_counter() + patience * self._seconds

    def value(self, x: np.ndarray) -> float:
        """f."""
        fun = float(self._value(x))
        self.note(x, fun)
        return fun

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """f and its gradient."""
        fun, jac = self._gradient(x)
        self.note(x, float(fun))
        return float(fun), np.array(jac, "float64")

    def product(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The Hessian times p."""
        self.note(x, np.inf)
        return np.array(self._product(x, np.asarray(p, "float64")), "float64")

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """All of it, product by product."""
        return np.stack([self.product(x, unit) for unit in np.eye(len(x))])

    def note(self, x: np.ndarray, fun: float, evaluations: int = 1) -> None:
        """Counts, and remembers where f fell."""
        self.count += evaluations
        if self.count > self._most or time.perf_counter() > self._end:
            raise BudgetError
        if fun < self.best and (self.limits is None or np.all((x >= self.limits[0]) & (x <= self.limits[1]))):
            self.best = fun
            self.falls.append((self.count, fun))


def ours(name: str, problem: Counted) -> None:
    """A method in numpy, as a fit runs it."""
    from scipy.optimize import Bounds

    from kormos_opt.solvers import registry
    from kormos_opt.solvers.change_of_variables import in_own_variables
    from kormos_opt.solvers.safeguards import safeguard

    method = registry.find(name)
    limits = None if problem.limits is None else Bounds(*problem.limits)

    def start(x0, limits, constraints, options):
        return method.start(x0, **({"bounds": limits} if method.bounds else {}), **options)

    has_gradient = method.derivatives != "none"
    solver = in_own_variables(start, problem.start, limits, [], method.unlimited, derivatives=has_gradient)
    resolution = np.finfo("float64").eps if method.stops_at_precision else None
    answer(safeguard(solver, "float64", resolution), problem)


def answer(solver, problem: Counted) -> None:
    """Sends a solver what it asks for, to its end."""
    from kormos_opt.solvers.base import EvaluateValue, EvaluateWithGradient, HessianProduct

    reply = None
    try:
        while True:
            request = solver.send(reply)
            if isinstance(request, EvaluateWithGradient):
                reply = problem.value_and_gradient(request.x)
            elif isinstance(request, EvaluateValue):
                reply = problem.value(request.x)
            elif isinstance(request, HessianProduct):
                rows = np.atleast_2d(request.p)
                reply = np.stack([problem.product(request.x, row) for row in rows]).reshape(request.p.shape)
            else:
                reply = None
    except StopIteration:
        pass
    finally:
        solver.close()


def in_graph(problem: Counted) -> None:
    """The L-BFGS of `engine="graph"`, operation by operation."""
    import tensorflow as tf

    from kormos_opt.graph_solvers import lbfgs
    from kormos_opt.graph_solvers.variables import POINT
    from kormos_opt.solvers import registry

    method = registry.find("L-BFGS-graph")

    def value_and_gradient(x):
        fun, jac = problem.value_and_gradient(x.numpy())
        return tf.constant(fun, tf.float64), tf.constant(jac, tf.float64)

    specs = lbfgs.variables(len(problem.start), method.options)
    state = {name: tf.zeros(spec.shape, spec.dtype or "float64") for name, spec in specs.items()}
    x = tf.constant(problem.start)
    state |= dict(zip(POINT, (x, *value_and_gradient(x)), strict=True))
    problem.reset(patience=_EAGER)
    problem.note(problem.start, float(state["objective_value"]))
    failed, nit = False, 0
    while not failed and np.abs(state["objective_gradient"]).max() > method.options["gtol"]:
        state, failed = method.step(value_and_gradient, state, tf.constant(nit), method.options)
        nit += 1


def of_scipy(name: str, problem: Counted) -> None:
    """`scipy.optimize.minimize` as it is."""
    import scipy.optimize

    second = {"Newton-CG": "hessp", "trust-ncg": "hessp", "trust-krylov": "hessp", "trust-constr": "hessp"}
    derivatives = {"hessp": problem.product} if name in second else {}
    if name == "trust-exact":
        derivatives = {"hess": problem.hessian}
    bounds = None if problem.limits is None else list(zip(*problem.limits, strict=True))
    scipy.optimize.minimize(
        problem.value_and_gradient, problem.start, jac=True, method=name, bounds=bounds, **derivatives
    )


def optimistix(name: str, problem: Counted) -> None:
    """A minimizer of optimistix, step by step: one evaluation each."""
    import equinox
    import jax
    import jax.numpy as jnp
    import optimistix

    solver = getattr(optimistix, name)(rtol=1e-8, atol=1e-8)
    fun = lambda x, _: (problem.objective(x), None)  # noqa: E731
    x = jnp.asarray(problem.start)
    tags = frozenset()
    f_struct = jax.eval_shape(fun, x, None)
    state = solver.init(fun, x, None, {}, *f_struct, tags)
    step = equinox.filter_jit(lambda x, state: solver.step(fun, x, None, {}, state, tags))
    ends = equinox.filter_jit(lambda x, state: solver.terminate(fun, x, None, {}, state, tags))
    x, state, _ = step(x, state)
    problem.reset()
    while not ends(x, state)[0]:
        x, state, _ = step(x, state)
        problem.note(np.asarray(x), float(problem._value(x)))


def optax_lbfgs(problem: Counted) -> None:
    """`optax.lbfgs` with its line search, step by step."""
    import jax
    import jax.numpy as jnp
    import optax

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(problem.objective)

    @jax.jit
    def step(x, state):
        fun, jac = value_and_grad(x, state=state)
        updates, state = solver.update(jac, state, x, value=fun, grad=jac, value_fn=problem.objective)
        return optax.apply_updates(x, updates), state

    x = jnp.asarray(problem.start)
    state = solver.init(x)
    step(*step(x, state))  # the second step is compiled anew, for other types
    problem.reset()
    problem.note(problem.start, float(problem._value(x)))
    while True:
        x, state = step(x, state)
        searched = state[-1]
        problem.note(np.asarray(x), float(searched.value), int(searched.info.num_linesearch_steps))
        if float(jnp.abs(searched.grad).max()) < 1e-8:
            return


def contenders(is_bounded: bool) -> dict[str, Callable[[Counted], None]]:
    """Everybody who takes such problems, by name."""
    names, scipys = (BOUNDED, BOUNDED_OF_SCIPY) if is_bounded else (UNCONSTRAINED, OF_SCIPY)
    them = {name: functools.partial(ours, name) for name in names}
    them |= {f"scipy {name}": functools.partial(of_scipy, name) for name in scipys}
    if not is_bounded:
        them["L-BFGS-graph"] = in_graph
        them |= {f"optimistix {name}": functools.partial(optimistix, name) for name in ("BFGS", "LBFGS")}
        them["optax lbfgs"] = optax_lbfgs
    return them


def problems(kind: str) -> dict[str, object]:
    """Those of sif2jax by name."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import sif2jax

    return {type(each).__name__: each for each in getattr(sif2jax, f"{kind}_minimisation_problems")}


def share(number: int, of: int, largest: int, evaluations: int, seconds: float, only: str | None) -> dict:
    """Every so many problems, in a process of its own: what every solver does. The import takes two minutes."""
    import warnings

    import jax
    import tensorflow  # noqa: F401  before the clock runs

    import kormos_opt  # noqa: F401

    warnings.simplefilter("ignore")
    every = [(kind, name, each) for kind in ("unconstrained", "bounded") for name, each in problems(kind).items()]
    mine = [job for job in every[number::of] if only is None or job[1] in only.split(",")]
    done = {}
    for kind, name, problem in mine:
        begin = time.perf_counter()
        done[name] = run(kind, name, problem, largest, evaluations, seconds)
        print(f"{kind} {name}: {time.perf_counter() - begin:.1f} s", flush=True)
        jax.clear_caches()
    return {name: result for name, result in done.items() if result is not None}


def run(kind: str, name: str, problem, largest: int, evaluations: int, seconds: float) -> dict | None:
    """What every solver does on a problem, `None` if it is too large."""
    import jax

    size = int(np.size(jax.flatten_util.ravel_pytree(problem.y0)[0]))
    if size > largest:
        return None
    counted = Counted(problem, evaluations, seconds)
    begin, falls = float(counted._value(counted.start)), {}
    if not np.isfinite(begin):
        return None
    for label, solve in contenders(kind == "bounded").items():
        if size > MOST_WITHOUT_GRADIENT and label in WITHOUT_GRADIENT:
            falls[label] = []
            continue
        counted.reset()
        try:
            solve(counted)
        except BudgetError:
            pass
        except Exception as error:  # a solver that fails has solved what it has solved so far
            print(f"{name}, {label}: {type(error).__name__}: {error}"[:150], flush=True)
        falls[label] = counted.falls
    return {"kind": kind, "n": size, "begin": begin, "costs": costs_of(begin, falls)}


def costs_of(begin: float, falls: dict[str, list]) -> dict[str, int | None]:
    """Evaluations to the accuracy, `None` where it was not reached."""
    best = min((fun for each in falls.values() for _, fun in each), default=begin)
    target = best + ACCURACY * (begin - best)
    return {label: next((count for count, fun in each if fun <= target), None) for label, each in falls.items()}


def measure(arguments: argparse.Namespace) -> dict:
    """All problems, in two processes."""
    limits = arguments.largest, arguments.evaluations, arguments.seconds, arguments.only
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        shares = [pool.submit(share, number, 2, *limits) for number in range(2)]
        return dict(sorted(each for done in shares for each in done.result().items()))


def multiples_of_least(measured: dict, kind: str) -> pd.DataFrame:
    """The cost of every solver over the least one, by problem; NaN where it was not solved."""
    costs = pd.DataFrame({name: each["costs"] for name, each in measured.items() if each["kind"] == kind}).T
    costs = costs.astype(float)
    return costs.div(costs.min(axis=1), axis=0)


def table(measured: dict, kind: str) -> pd.DataFrame:
    """By solver: the share of problems that are solved, within twice the least cost, and with the least."""
    ratios = multiples_of_least(measured, kind)
    shares = {"solved": ratios.notna(), "within twice the least cost": ratios <= 2, "at the least cost": ratios <= 1}
    return pd.DataFrame({heading: each.mean() for heading, each in shares.items()}).sort_values(
        "solved", ascending=False
    )


def draw(measured: dict) -> None:
    """A profile for each kind of problem."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for each, (kind, drawn) in zip(axes, DRAWN.items(), strict=True):
        ratios = multiples_of_least(measured, kind)
        multiples = np.geomspace(1, 64, 200)
        for label in filter(ratios.columns.__contains__, drawn):
            shares = [(ratios[label] <= multiple).mean() for multiple in multiples]
            style = "-" if label.split()[0] not in ("scipy", "optimistix", "optax") else "--"
            each.step(multiples, shares, style, where="post", label=label)
        each.set(
            xscale="log",
            xlabel="multiple of the least evaluations",
            ylim=(0, 1),
            title=f"{len(ratios)} {kind} problems",
        )
        each.set_xticks([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32, 64])
        each.grid(alpha=0.3)
        each.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("share of problems solved")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1000, help="weights at most")
    parser.add_argument("--evaluations", type=int, default=500, help="for each run")
    parser.add_argument("--seconds", type=float, default=0.7, help="for each run")
    parser.add_argument("--only", help="names of problems")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    arguments = parser.parse_args()
    measured = json.loads(MEASURED.read_text()) if arguments.draw else measure(arguments)
    if not arguments.draw and not arguments.only:
        MEASURED.write_text(json.dumps(measured, indent=1))
    for kind in sorted({each["kind"] for each in measured.values()}):
        print(table(measured, kind).to_markdown(floatfmt=".2f"), "\n")
    if not arguments.only:
        draw(measured)


if __name__ == "__main__":
    main()
