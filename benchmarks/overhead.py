"""What `fit` costs beside the evaluations: seconds per evaluation inside `fit` over those of the bare function.

    python benchmarks/overhead.py --data FOLDER

Every ratio is measured side by side in one run and is the median of five. FOLDER holds `mnist.npz` and
`ml-latest-small/ratings.csv`; what is missing is downloaded by Keras, or generated with a line saying so.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import pandas as pd
import scipy.optimize
import tensorflow as tf
from problems import PROBLEMS, by_hand

import kormos_opt

RUNS = 5
EPOCHS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz and ml-latest-small/")
    parser.add_argument("--only", default="", help="only problems whose name contains this")
    arguments = parser.parse_args()
    rows = []
    for dtype in ("float32", "float64"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        for name, make in PROBLEMS.items():
            if arguments.only in name:
                for jit_compile in (False, True):
                    rows.append(measure(name, make(arguments.data), dtype, jit_compile))
                    print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def measure(name, problem, dtype, jit_compile):
    """One row of the table."""
    keras.utils.set_random_seed(0)
    model = problem.build()
    start = model.get_weights()
    x0 = np.concatenate([np.ravel(weight) for weight in start]).astype("float64")
    candidates = [by_hand(model, problem, chunk, dtype, jit_compile) for chunk in problem.chunks]
    bare = min(candidates, key=lambda objective: seconds(lambda: objective(x0), repeat=3))
    options = {"ftol": 0, "gtol": 0}
    model.compile(kormos_opt.LBFGS(iterations_per_epoch=50, options=options), problem.loss, jit_compile=jit_compile)

    def fit():
        model.set_weights(start)
        model.fit(problem.x, problem.y, epochs=EPOCHS, verbose=0)
        return model.optimizer.result.nfev

    def scipy_by_hand():
        def fun(x):
            loss, gradient = bare(x)
            return float(loss), gradient.numpy()

        result = scipy.optimize.minimize(
            fun, x0, jac=True, method="L-BFGS-B", options={**options, "maxiter": 50 * EPOCHS, "maxfun": 10**9}
        )
        return result.nfev

    fit(), scipy_by_hand()
    ratios, by_scipy, bares = [], [], []
    for _ in range(RUNS):
        evaluation = seconds(lambda: bare(x0), repeat=9)
        bares.append(evaluation)
        ratios.append(per_evaluation(fit) / evaluation)
        by_scipy.append(per_evaluation(scipy_by_hand) / evaluation)
    return {
        "problem": name,
        "dtype": dtype,
        "XLA": jit_compile,
        "bare evaluation, ms": statistics.median(bares) * 1e3,
        "fit / bare": statistics.median(ratios),
        "scipy by hand / bare": statistics.median(by_scipy),
    }


def seconds(function, repeat):
    """Median seconds of a call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        tf.nest.map_structure(lambda tensor: tensor.numpy(), function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def per_evaluation(solve):
    """Seconds per function evaluation of `solve`, which returns their number."""
    start = time.perf_counter()
    evaluations = solve()
    return (time.perf_counter() - start) / evaluations


if __name__ == "__main__":
    main()
