"""Every method on every kind of problem: the loss it reaches, its iterations and evaluations, its seconds.

python -m benchmarks.methods [--data FOLDER] [--seconds 10] [--output docs/methods.md] [--method NAME] [--problem PART]

A run ends when the method ends, or after `--seconds`; the times are of one run each, on one machine, in one go.
It needs signals, so not Windows.
"""

import argparse
import signal
import time

import keras
import numpy as np
import pandas as pd

import kormos_opt
from benchmarks.problems import Problem, factorization, linear_regression, softmax_regression

layers = keras.layers


def exponential_curve(data):
    """Two weights: a * (1 - exp(-b x)) through 14 points, the shape of NIST's Misra1a."""
    del data
    x = np.linspace(0.5, 5, 14)[:, None]
    y = 2.0 * (1 - np.exp(-0.5 * x)) + 0.01 * np.random.default_rng(0).normal(size=x.shape)

    def build():
        inputs = keras.Input((1,))
        rate = layers.Dense(1, use_bias=False, kernel_initializer="ones", name="rate")(inputs)
        curve = layers.Lambda(lambda z: 1 - keras.ops.exp(-z))(rate)
        return keras.Model(inputs, layers.Dense(1, use_bias=False, kernel_initializer="ones", name="height")(curve))

    return Problem(build, x, y, "mse", (14,))


def smooth_curve(data):
    """A tanh network 1-16-16-1 through 200 points of sin(5 x) exp(-x): 321 weights, not convex."""
    del data
    x = np.linspace(0, 2, 200)[:, None]

    def build():
        return keras.Sequential(
            [keras.Input((1,)), layers.Dense(16, "tanh"), layers.Dense(16, "tanh"), layers.Dense(1)]
        )

    return Problem(build, x, np.sin(5 * x) * np.exp(-x), "mse", (200,))


# The problem, the precision it is solved in, what it is.
PROBLEMS = {
    "exponential curve": (exponential_curve, "float64", "2 weights, 14 rows"),
    "linear regression": (linear_regression, "float64", "51 weights, 1000 rows, columns of scales 1 to 100"),
    "tanh network": (smooth_curve, "float64", "321 weights, 200 rows, not convex"),
    "softmax regression": (softmax_regression, "model", "7,850 weights, 60,000 images of MNIST, float32"),
    "factorization": (factorization, "model", "51,670 weights, 90,752 ratings of MovieLens, float32, not convex"),
}


COLUMNS = ["method", "loss", "nit", "fg_evals", "hessp_evals", "seconds", "end"]


class TimeIsOverError(Exception):
    """The time is over."""


def run(problem: Problem, precision: str, method: str, seconds: int) -> dict:
    """One fit, as a row of the table. What ends it is a signal: some iterations take longer than all of the time."""
    keras.utils.set_random_seed(0)
    model = problem.build()
    optimizer = kormos_opt.optimizers.ScipyBatchOptimizer(method=method, precision=precision)
    model.compile(optimizer=optimizer, loss=problem.loss)
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)  # again: an exception in a finalizer is lost
    try:
        model.fit(problem.x, problem.y, epochs=10**6, verbose=0)
        end = optimizer.result.message.partition(":")[0].lower()
    except TimeIsOverError:
        end = "time"
    except MemoryError as error:
        return {"method": method, "end": "memory: " + str(error).partition("about ")[2].partition(" in all")[0]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    history = model.history.history
    last = {name: int(values[-1]) for name, values in history.items() if "evals" in name}
    return {
        "method": method,
        "loss": f"{optimizer.result.fun:.7g}",
        "nit": len(model.history.epoch),
        "fg_evals": last.get("fg_evals", optimizer.result.nfev),
        "hessp_evals": last.get("hessp_evals", optimizer.result.get("nhev", 0)),
        "seconds": f"{time.perf_counter() - start:.2f}",
        "end": end,
    }


def stop(*_):
    raise TimeIsOverError


def main() -> None:
    """Prints a table for each problem, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz and ml-latest-small/")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--method", help="only this one")
    parser.add_argument("--problem", default="", help="only those whose name contains this")
    parser.add_argument("--output", help="file for the tables, in Markdown")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    methods = [arguments.method] if arguments.method else [each.method for each in kormos_opt.optimizers.METHODS]
    text = [
        "# Every method of scipy on five problems\n",
        f"    python -m benchmarks.methods --data FOLDER --seconds {arguments.seconds} --output docs/methods.md\n",
        "The loss of the last iterate, the iterations and evaluations up to there, and the seconds of one whole fit,",
        "tracing included, on two CPU cores. A run ends as `converged` or `stopped` when the method ends, by `time`,",
        "or before any work where its n x n matrices do not fit in half of the free `memory`.\n",
    ]
    for name, (make, precision, what) in PROBLEMS.items():
        if arguments.problem in name:
            problem = make(arguments.data)
            rows = []
            for method in methods:
                rows.append(run(problem, precision, method, arguments.seconds))
                print(name, rows[-1], flush=True)
            table = pd.DataFrame(rows, columns=COLUMNS).fillna("").astype(str).replace(r"\.0$", "", regex=True)
            text += [f"## {name.capitalize()}: {what}\n", table.to_markdown(index=False, disable_numparse=True) + "\n"]
    if arguments.output:
        with open(arguments.output, "w") as file:
            file.write("\n".join(text))


if __name__ == "__main__":
    main()
