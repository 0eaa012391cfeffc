"""L-BFGS of scipy against that of TFP in the graph, on the problems of `overhead` and on one with a million weights.

python -m benchmarks.engines [--data FOLDER] [--problem PART] [--iterations 50]

Each fit is a process of its own, for its peak memory. Both engines run the same model from the same weights.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd

import kormos_opt
from benchmarks.problems import PROBLEMS, Problem


def million(data):
    """A tanh network 784-1000-200-10 with a penalty on 2000 random rows: 987,210 weights."""
    del data
    rng = np.random.default_rng(0)
    dense = functools.partial(keras.layers.Dense, kernel_regularizer=keras.regularizers.L2(1e-4))

    def build():
        return keras.Sequential([keras.Input((784,)), dense(1000, "tanh"), dense(200, "tanh"), dense(10, "softmax")])

    labels = keras.utils.to_categorical(rng.integers(0, 10, 2000), 10)
    return Problem(build, rng.normal(size=(2000, 784)).astype("float32"), labels, "categorical_crossentropy", (2000,))


ALL = {**PROBLEMS, "tanh network 784-1000-200-10, 2000 rows": million}


def measure(name: str, engine: str, data: str | None, iterations: int, jit_compile: bool, target: float | None) -> dict:
    """One fit of `iterations`; with `target` of at most ten times as many, to the first loss at or below it."""
    keras.utils.set_random_seed(0)
    problem = ALL[name](data)
    model = problem.build()
    options = {"gtol": 0.0, "ftol": 0.0}
    optimizer = kormos_opt.LBFGS(engine=engine, options=options)
    model.compile(optimizer=optimizer, loss=problem.loss, jit_compile=jit_compile)
    model.fit(problem.x, problem.y, epochs=1, verbose=0)  # traces
    clock = Clock(target)
    epochs = iterations if target is None else 10 * iterations
    history = model.fit(problem.x, problem.y, epochs=epochs, initial_epoch=1, callbacks=[clock], verbose=0).history
    count = len(history["loss"])
    return {
        "loss": history["loss"][min(count, iterations - 1) - 1],
        "ms/iteration": 1e3 * clock.seconds / count,
        "evaluations/iteration": (history["fg_evals"][-1] - history["fg_evals"][0]) / max(count - 1, 1),
        "seconds to loss": clock.seconds if target is None or history["loss"][-1] <= target else None,
        "peak, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


class Clock(keras.callbacks.Callback):
    """Takes the seconds of a fit, and ends it at a target."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start
        if self.target is not None and logs["loss"] <= self.target:
            self.model.stop_training = True


def in_a_process(**arguments) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.engines", "--measure", json.dumps(arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz and ml-latest-small/")
    parser.add_argument("--problem", default="", help="only those whose name contains this")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(**arguments.measure)))
        return
    rows = []
    for name in ALL:
        for jit_compile in (False, True):
            if arguments.problem not in name:
                continue
            common = {
                "name": name,
                "data": arguments.data,
                "iterations": arguments.iterations,
                "jit_compile": jit_compile,
            }
            scipy = in_a_process(engine="scipy", target=None, **common)
            tfp = in_a_process(engine="tfp", target=scipy["loss"], **common)
            for engine, row in (("scipy", scipy), ("tfp", tfp)):
                rows.append({"problem": name, "XLA": jit_compile, "engine": engine, **row})
                print(rows[-1], file=sys.stderr, flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
