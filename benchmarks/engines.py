"""The engines of L-BFGS against each other and against other packages, on the problems of `overhead`.

    python -m benchmarks.engines [--data FOLDER] [--problem PART] [--dtype float32] [--only TABLES]

solve        seconds to the loss that fit has after 50 iterations with scipy, of whole fits in one epoch. Contenders
             take turns in one process for each problem and dtype, their data in tensors of their own; medians. A first
             call traces and compiles. `peers` prints and draws what was measured.
arithmetic   what an iteration costs beside the evaluations, by the number of weights.
memory       the peak of a fit in a process of its own.
"""

import argparse
import functools
import json
import logging
import resource
import subprocess
import sys
import time
from unittest import mock

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import kormos_opt
from benchmarks import peers, rivals
from benchmarks.problems import PROBLEMS
from kormos_opt.graph_solvers import lbfgs
from kormos_opt.solvers.base import Iterate
from kormos_opt.solvers.scipy_lbfgsb import minimize
from kormos_opt.training.runs.graph_step import GraphStep

RUNS = 5
ITERATIONS = 50
ENGINES = ("scipy", "graph", "tfp")


class Fit:
    """A model that is fitted over and over from the same weights, in one epoch of as many iterations as it takes.

    Args:
        problem: The problem.
        engine: Of L-BFGS.
        dtype: Of the objective.
        jit_compile: Whether XLA compiles it.
    """

    def __init__(self, problem, engine, dtype, jit_compile):
        keras.utils.set_random_seed(0)
        self._data = keras.tree.map_structure(tf.constant, (problem.x, problem.y))
        self._model = problem.build()
        self._weights = self._model.get_weights()
        precision = "float64" if dtype == "float64" else "model"
        self._optimizer = kormos_opt.LBFGS(engine=engine, precision=precision, options={"gtol": 0.0, "ftol": 0.0})
        self._model.compile(optimizer=self._optimizer, loss=problem.loss, jit_compile=jit_compile)
        begin = time.perf_counter()
        self._fit(epochs=1)
        self.first = time.perf_counter() - begin

    def reach(self, target=None):
        """Finds how many iterations the target takes, 50 without one. Returns the loss then."""
        model = self._model

        def look(epoch, logs):
            model.stop_training |= target is not None and logs["loss"] <= target

        model.set_weights(self._weights)
        epochs = ITERATIONS if target is None else 10 * ITERATIONS
        history = self._fit(epochs=epochs, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)])
        self.iterations, self.evaluations = len(history["loss"]), history["fg_evals"][-1]
        self._optimizer.iterations_per_epoch = self.iterations
        return history["loss"][-1]

    def __call__(self):
        """Seconds of a whole fit."""
        self._model.set_weights(self._weights)
        begin = time.perf_counter()
        self._fit(epochs=1)
        return time.perf_counter() - begin

    def _fit(self, **arguments):
        return self._model.fit(*self._data, verbose=0, **arguments).history


def solve(name, data, dtype, runs, by):
    """One problem in one dtype: a row for each contender."""
    problem = PROBLEMS[name](data)
    fits, rows, target = {}, [], None
    for jit_compile in (False, True):
        for engine in ENGINES:
            fits[engine, jit_compile] = fit = Fit(problem, engine, dtype, jit_compile)
            loss = fit.reach(target)
            target = loss * (1 + 1e-6) if target is None else target
    contenders = {f"fit, engine {engine}{', XLA' * xla}": fit for (engine, xla), fit in fits.items()}
    start = fits["scipy", False]._weights
    others = {
        "optax, jitted": functools.partial(rivals.optax_lbfgs, name, problem, start, target, dtype),
        "jaxopt, jitted": functools.partial(rivals.jaxopt_lbfgs, name, problem, start, target, dtype),
        "torch, strong Wolfe": functools.partial(rivals.torch_lbfgs, name, problem, start, target, dtype),
        "tfp by hand": functools.partial(rivals.tfp_lbfgs, problem, target, dtype),
        "scipy by hand": functools.partial(rivals.scipy_by_hand, problem, target, dtype),
        "scipy by hand, XLA": functools.partial(rivals.scipy_by_hand, problem, target, dtype, True),
    }
    others = {label: make for label, make in others.items() if any(part in label for part in by.split(","))}
    first = {label: fit.first for label, fit in contenders.items()}
    for label, make in others.items():
        begin = time.perf_counter()
        contender = make()
        if contender is not None:
            contender()
            first[label] = time.perf_counter() - begin
            contenders[label] = contender
    seconds, calls = {label: [] for label in contenders}, []
    with mock.patch.object(GraphStep, "__call__", timed(GraphStep.__call__, calls)):
        for _ in range(runs):
            for label, contender in contenders.items():
                seconds[label].append(contender())
                if "graph" in label:
                    seconds.setdefault(f"the solver's call in {label}", []).append(calls[-1])
    medians = {label: float(np.median(each)) for label, each in seconds.items()}
    for label in seconds:
        contender = contenders.get(label)
        is_fit = isinstance(contender, Fit)
        rows.append(
            {
                "problem": name,
                "dtype": dtype,
                "by": label,
                "seconds": medians[label],
                "/ optax": medians[label] / medians["optax, jitted"],
                "/ fit, engine scipy": medians[label] / medians["fit, engine scipy" + ", XLA" * ("XLA" in label)],
                "iterations": contender.iterations if is_fit else np.nan,
                "evaluations / iteration": contender.evaluations / contender.iterations if is_fit else np.nan,
                "first call, s": first.get(label, np.nan),
            }
        )
    return rows


def timed(function, calls):
    """The function, whose seconds are appended to `calls`."""

    def call(*arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        calls.append(time.perf_counter() - begin)
        return result

    return call


def arithmetic(largest):
    """Milliseconds an iteration of the solvers alone, on a quadratic, without its evaluations."""
    rows = []
    for size in (10**4, 10**5, 10**6, 10**7):
        if size > largest:
            break
        diagonal = np.logspace(0, 3, size)
        scipy = solver_alone(minimize(np.ones(size), ftol=0.0, gtol=0.0), diagonal)
        graph = _graph_alone(size, diagonal)
        rows.append({"weights": size, "L-BFGS-B, ms": scipy, "graph, ms": graph, "ratio": graph / scipy})
    return rows


def solver_alone(solver, diagonal, iterations=25, counted=10):
    """Milliseconds of an iteration of a solver in numpy: the median of the last ones, on a quadratic."""
    answer, seconds = None, []
    while len(seconds) < iterations:
        begin, spent = time.perf_counter(), 0.0
        while True:
            request = solver.send(answer)
            spent += time.perf_counter() - begin
            if isinstance(request, Iterate):
                break
            gradient = diagonal * request.x
            answer, begin = (float(request.x @ gradient) / 2, gradient), time.perf_counter()
        answer = None
        seconds.append(spent)
    return 1e3 * float(np.median(seconds[-counted:]))


def _graph_alone(size, diagonal, iterations=10):
    """The step in float32, many in one call, less the same evaluations alone."""
    diagonal = tf.constant(diagonal, tf.float32)
    options = {"memory": 10, "maxls": 20}
    specs = lbfgs.variables(size, options)
    variables = {name: tf.Variable(tf.zeros(spec.shape, spec.dtype or "float32")) for name, spec in specs.items()}

    def value_and_gradient(x):
        gradient = diagonal * x
        return tf.cast(tf.reduce_sum(gradient * x) / 2, tf.float64), gradient

    @tf.function(jit_compile=True, autograph=False)
    def steps(count):
        def step(i, state):
            after, _ = lbfgs.step(value_and_gradient, state, i, options)
            return i + 1, after

        state = {name: tf.identity(variable) for name, variable in variables.items()}
        _, state = tf.while_loop(lambda i, *_: i < count, step, (0, state))
        for name, value in state.items():
            variables[name].assign(value)
        return state["objective_value"]

    @tf.function(jit_compile=True, autograph=False)
    def evaluations(count):
        def evaluate(i, x, total):
            fun, gradient = value_and_gradient(x)
            return i + 1, x - 1e-6 * gradient, total + fun

        start = 0, variables["position"].read_value(), tf.zeros((), tf.float64)
        return tf.while_loop(lambda i, *_: i < count, evaluate, start)[2]

    variables["position"].assign(tf.ones(size))
    fun, gradient = value_and_gradient(tf.ones(size))
    variables["objective_value"].assign(fun)
    variables["objective_gradient"].assign(gradient)
    seconds = {steps: [], evaluations: []}
    for _ in range(RUNS + 2):
        for function, each in seconds.items():
            begin = time.perf_counter()
            float(function(tf.constant(iterations)))
            each.append((time.perf_counter() - begin) / iterations)
    with_steps, without = (float(np.median(each[2:])) for each in seconds.values())
    return 1e3 * (with_steps - without)


def memory(name, data, engine, jit_compile):
    """GiB at the peak of a fit."""
    Fit(PROBLEMS[name](data), engine, "float32", jit_compile).reach()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_a_process(**arguments):
    """What `--measure` prints, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.engines", "--measure", json.dumps(arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz and ml-latest-small/")
    parser.add_argument("--problem", default="", help="only those whose name contains this")
    parser.add_argument("--runs", type=int, default=RUNS, help="of which the median is taken, in the table of solving")
    parser.add_argument("--by", default="", help="optax, and of the other packages only those whose name contains this")
    parser.add_argument("--dtype", default="float32,float64", help="of the table of solving")
    parser.add_argument("--only", default="solve,arithmetic,memory", help="tables, separated by commas")
    parser.add_argument("--largest", type=int, default=10**7, help="number of weights in the table of arithmetic")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("kormos_opt").setLevel("ERROR")  # every fit starts from weights that were set
    if arguments.measure:
        kind = arguments.measure.pop("kind")
        print(json.dumps({"solve": solve, "memory": memory}[kind](**arguments.measure)))
        return
    names = [name for name in PROBLEMS if arguments.problem in name]
    for table in arguments.only.split(","):
        if table == "solve":
            common = {"kind": "solve", "data": arguments.data, "runs": arguments.runs}
            common["by"] = f"optax,{arguments.by}"
            dtypes = arguments.dtype.split(",")
            rows = [row for name in names for dtype in dtypes for row in in_a_process(name=name, dtype=dtype, **common)]
            peers.record(rows)
        elif table == "arithmetic":
            rows = arithmetic(arguments.largest)
        else:
            common = {"kind": "memory", "data": arguments.data}
            rows = [
                {"problem": name, "XLA": xla, "engine": engine}
                | {"peak, GiB": in_a_process(name=name, engine=engine, jit_compile=xla, **common)}
                for name in names
                for xla in (False, True)
                for engine in ENGINES
            ]
        print(f"\n{table}\n\n{pd.DataFrame(rows).to_markdown(index=False, floatfmt='.3g')}", flush=True)


if __name__ == "__main__":
    main()
