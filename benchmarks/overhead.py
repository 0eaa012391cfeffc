"""What `fit` costs beside the evaluations of the objective, and what the same minimum costs by other means.

    python -m benchmarks.overhead --data FOLDER [--only evaluation,rivals,memory,epoch,solver]

FOLDER holds `mnist.npz` and `ml-latest-small/ratings.csv`; what is missing is downloaded by Keras, or generated with a
line saying so. Ratios are measured side by side in one run; every figure is the median of five.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from unittest import mock

import keras
import numpy as np
import pandas as pd
import psutil
import scipy.optimize
import tensorflow as tf
import threadpoolctl

import kormos_opt
from benchmarks.problems import PROBLEMS, by_hand
from benchmarks.rivals import optax_lbfgs
from kormos_opt.objective.bound_objective import BoundObjective

RUNS = 5
TO_THE_END = {"ftol": 0, "gtol": 0}
LARGER = ("softmax regression 60000x784x10", "factorization, 90752 ratings")


def main():
    """Measures the tables asked for and prints them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz and ml-latest-small/")
    parser.add_argument("--only", default=",".join(TABLES), help="tables, separated by commas")
    parser.add_argument("--problem", default="", help="only problems whose name begins like this")
    parser.add_argument("--peak", nargs=2, metavar=("PROBLEM", "OPTIMIZER"), help="used by the table of memory")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_memory(*arguments.peak, arguments.data))
        return
    for name in [name for name in PROBLEMS if not name.startswith(arguments.problem)]:
        del PROBLEMS[name]
    for name in arguments.only.split(","):
        title, rows = TABLES[name]
        print(f"\n{title}\n", flush=True)
        print(pd.DataFrame(rows(arguments.data)).to_markdown(index=False, floatfmt=".3g"), flush=True)


def evaluation_table(data):
    """Seconds per evaluation over those of the bare function: of the evaluation inside `fit`, of the whole `fit` with
    the solver's arithmetic and Keras's loop, and of scipy by hand."""
    for dtype in ("float32", "float64"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        for name, make in PROBLEMS.items():
            for jit_compile in (False, True):
                yield {"problem": name, "dtype": dtype, "XLA": jit_compile} | evaluations(
                    make(data), dtype, jit_compile
                )
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def evaluations(problem, dtype, jit_compile):
    """One row of `evaluation_table`."""
    keras.utils.set_random_seed(0)
    model = problem.build()
    start, x0 = initial(model)
    bare = fastest_by_hand(model, problem, x0, dtype, jit_compile)
    model.compile(kormos_opt.LBFGS(iterations_per_epoch=50, options=TO_THE_END), problem.loss, jit_compile=jit_compile)
    once = seconds(lambda: bare(x0))
    epochs, calls = 4 if once < 0.02 else 1, max(9, int(0.2 / once))

    inside = []

    def fit():
        model.set_weights(start)
        inside.clear()
        model.fit(problem.x, problem.y, epochs=epochs, verbose=0)
        return model.optimizer.result.nfev

    def hand():
        return scipy_by_hand(bare, x0, 50 * epochs).nfev

    evaluate = BoundObjective.evaluate
    bares, evaluated, fits, hands = [], [], [], []
    with mock.patch.object(BoundObjective, "evaluate", lambda *arguments: timed(inside, lambda: evaluate(*arguments))):
        fit(), hand()
        for _ in range(RUNS):
            bares.append(statistics.median(seconds(lambda: bare(x0)) for _ in range(calls)))
            fits.append(per_evaluation(fit) / bares[-1])
            evaluated.append(statistics.median(inside) / bares[-1])
            hands.append(per_evaluation(hand) / bares[-1])
    return {
        "bare, ms": 1e3 * statistics.median(bares),
        "evaluation in fit / bare": statistics.median(evaluated),
        "fit / bare": statistics.median(fits),
        "scipy by hand / bare": statistics.median(hands),
    }


def rivals_table(data):
    """Seconds to the loss that `fit` has after 50 iterations, on plain arrays, `iterations_per_epoch=10`."""
    for name in LARGER:
        problem = PROBLEMS[name](data)
        keras.utils.set_random_seed(0)
        model = problem.build()
        start, x0 = initial(model)
        bare = fastest_by_hand(model, problem, x0, "float32", jit_compile=False)
        optimizer = kormos_opt.LBFGS(iterations_per_epoch=10, options=TO_THE_END)

        def fit(jit_compile):
            if not model.compiled or model.jit_compile != jit_compile:
                model.compile(optimizer, problem.loss, jit_compile=jit_compile)
            model.set_weights(start)
            return seconds(lambda: model.fit(problem.x, problem.y, epochs=5, verbose=0))

        rows = {"scipy by hand": [], "fit": [], "fit, XLA": [], "optax, jitted": []}
        for jit_compile, row in ((False, "fit"), (True, "fit, XLA")):
            fit(jit_compile)
            rows[row] = [fit(jit_compile) for _ in range(RUNS)]
        optax = optax_lbfgs(name, problem, start, model.optimizer.result.fun * (1 + 1e-6))
        for solve, row in (
            (lambda: seconds(lambda: scipy_by_hand(bare, x0, 50)), "scipy by hand"),
            (optax, "optax, jitted"),
        ):
            solve()
            rows[row] = [solve() for _ in range(RUNS)]
        medians = {row: statistics.median(times) for row, times in rows.items()}
        for row, median in medians.items():
            yield {
                "problem": name,
                "by": row,
                "seconds": median,
                "/ scipy by hand": median / medians["scipy by hand"],
                "/ optax": median / medians["optax, jitted"],
            }


def memory_table(data):
    """Peak resident memory of a process that fits once, ours over stock `fit` with Adam."""
    for name in PROBLEMS:
        peaks = {}
        for optimizer in ("adam", "l-bfgs-b"):
            command = [sys.executable, "-m", "benchmarks.overhead", "--peak", name, optimizer]
            command += ["--data", data] if data else []
            runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(RUNS)]
            peaks[optimizer] = statistics.median(float(run.stdout.split()[-1]) for run in runs)
        yield {
            "problem": name,
            "Adam, MiB": peaks["adam"],
            "L-BFGS, MiB": peaks["l-bfgs-b"],
            "ratio": peaks["l-bfgs-b"] / peaks["adam"],
        }


def peak_memory(name, optimizer, data):
    """Peak resident memory of this process after two epochs, in MiB."""
    problem = PROBLEMS[name](data)
    model = problem.build()
    model.compile(optimizer, problem.loss)
    model.fit(problem.x, problem.y, epochs=2, batch_size=1024, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def epoch_table(data):
    """Milliseconds of an epoch apart from evaluations: 1000 rows, 50 columns, batches of 32."""
    problem = PROBLEMS["linear regression 1000x50"](data)
    logs = {"loss": 1.0, "grad": 1.0}
    for name, optimizer in (("stock loop, empty train function", "sgd"), ("ours, empty iterations", "l-bfgs-b")):
        model = problem.build()
        model.compile(optimizer, problem.loss)
        model.train_on_batch(problem.x, problem.y)
        if optimizer == "sgd":
            model.train_function = lambda iterator: logs
        else:
            model.train_function.epoch = lambda: logs
        one, many = [
            statistics.median(
                seconds(lambda: model.fit(problem.x, problem.y, epochs=n, verbose=0)) for _ in range(RUNS)
            )
            for n in (1, 101)
        ]
        yield {"loop": name, "ms per epoch": 1e3 * (many - one) / 100, "ms per fit": 1e3 * one}


def solver_table(data):
    """Milliseconds per iteration of L-BFGS-B apart from evaluations, memory 10, on a quadratic."""
    del data
    for n in (10**2, 10**3, 10**4, 10**5, 10**6):
        scales, x0 = np.linspace(1, 100, n), np.random.default_rng(0).normal(size=n)
        row = {"parameters": n}
        for threads in (1, psutil.cpu_count()):
            times = []
            for _ in range(RUNS):
                inside = 0.0

                def fun(x):
                    nonlocal inside
                    start = time.perf_counter()
                    gradient = scales * x
                    value = 0.5 * float(np.sum(gradient * x))
                    inside += time.perf_counter() - start
                    return value, gradient

                with threadpoolctl.threadpool_limits(threads, "blas"):
                    start = time.perf_counter()
                    nit = scipy_by_hand(fun, x0, 30).nit
                    times.append((time.perf_counter() - start - inside) / nit)
            row[f"ms, {threads} BLAS thread{'s' * (threads > 1)}"] = 1e3 * statistics.median(times)
        yield row


def initial(model):
    """The weights of a model, and as one vector."""
    start = model.get_weights()
    return start, np.concatenate([np.ravel(weight) for weight in start]).astype("float64")


def fastest_by_hand(model, problem, x0, dtype, jit_compile):
    """The hand-written objective with the best of the problem's chunk sizes."""
    candidates = [by_hand(model, problem, chunk, dtype, jit_compile) for chunk in problem.chunks]
    for objective in candidates:
        objective(x0)
    return min(candidates, key=lambda objective: statistics.median(seconds(lambda: objective(x0)) for _ in range(3)))


def scipy_by_hand(fun, x0, iterations):
    """`scipy.optimize.minimize` as one writes it around a function of a vector."""

    def fun_and_gradient(x):
        value, gradient = fun(x)
        return float(value), np.asarray(gradient)

    options = {**TO_THE_END, "maxiter": iterations, "maxfun": 10**9}
    return scipy.optimize.minimize(fun_and_gradient, x0, jac=True, method="L-BFGS-B", options=options)


def seconds(function):
    """Seconds of one call, TensorFlow's results included."""
    start = time.perf_counter()
    outputs = function()
    if isinstance(outputs, (tuple, list)):
        [output.numpy() for output in outputs if isinstance(output, tf.Tensor)]
    return time.perf_counter() - start


def timed(times, function):
    """Calls `function` and adds the seconds it took to `times`."""
    start = time.perf_counter()
    outputs = function()
    times.append(time.perf_counter() - start)
    return outputs


def per_evaluation(solve):
    """Seconds per function evaluation of `solve`, which returns their number."""
    start = time.perf_counter()
    evaluations = solve()
    return (time.perf_counter() - start) / evaluations


TABLES = {
    "evaluation": ("Seconds per evaluation inside fit over the bare function", evaluation_table),
    "rivals": ("Seconds to the loss of fit after 50 iterations, float32", rivals_table),
    "memory": ("Peak memory of a process", memory_table),
    "epoch": ("What an epoch costs before any work", epoch_table),
    "solver": ("L-BFGS-B's own arithmetic, per iteration", solver_table),
}

if __name__ == "__main__":
    main()
