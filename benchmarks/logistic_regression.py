"""L2-regularized logistic regression, beside scikit-learn: how far from the optimum after how many seconds.

    python -m benchmarks.logistic_regression [--data FOLDER] [--penalty 0.1] [--only PART] [--draw]

The problem, its three sizes of generated data and its rule of measuring are those of benchopt's benchmark_logreg_l2
(Moreau and others, Benchopt: reproducible, efficient and collaborative optimization benchmarks, 2022): a solver is run
from zero with 1, 2, 3, ... iterations at most, every time anew, until it gains no more. The fourth set is a dense table
of which of 610 people have rated which of the 1,000 films of MovieLens that are rated most: do they give more stars
than the median? `--draw` draws what `docs/measured/logistic_regression.json` holds.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

import kormos_opt
from examples.data import movielens

MEASURED = Path("docs/measured/logistic_regression.json")
PICTURE = Path("docs/logistic_regression.png")
SIZES = (200, 500), (1000, 10), (100_000, 400)
ITERATIONS = 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987
TURNS = 3
MOST_SECONDS = 5  # of a run: no longer ones follow
ACCURATE = 1e-6
OURS = {
    'LBFGS(engine="graph"), XLA': (lambda: kormos_opt.LBFGS(engine="graph", tol=1e-12), True),
    "LBFGS()": (lambda: kormos_opt.LBFGS(tol=1e-12), False),
    "NewtonCG()": (lambda: kormos_opt.NewtonCG(tol=1e-12), False),
    "TrustExact()": (lambda: kormos_opt.TrustExact(tol=1e-12), False),
}
OF_SKLEARN = "lbfgs", "newton-cg", "newton-cholesky"


def generated(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose sign of a linear function is known, so that the classes can be told apart without an error."""
    rng = np.random.RandomState(42)
    truth = rng.randn(columns)
    x = rng.randn(rows, columns)
    return x, np.sign(x @ truth)


def films(folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Who has rated which film, and whether they give more stars than the median."""
    ratings = movielens(folder)
    most = ratings["item"].value_counts().index[:1000]
    people = ratings.groupby("user")["rating"].mean()
    seen = ratings[ratings["item"].isin(most)].assign(seen=1.0)
    x = seen.pivot_table(index="user", columns="item", values="seen", fill_value=0.0).reindex(
        people.index, fill_value=0
    )
    return x.to_numpy(), np.where(people > people.median(), 1.0, -1.0)


class Problem:
    """f(w) = sum of log(1 + exp(-y x'w)) + penalty / 2 w'w."""

    def __init__(self, x: np.ndarray, y: np.ndarray, penalty: float):
        self.x, self.y, self.penalty = x, y, penalty

    def __call__(self, weights: np.ndarray) -> float:
        """f."""
        return float(np.logaddexp(0, -self.y * (self.x @ weights)).sum() + self.penalty / 2 * weights @ weights)

    def of_sklearn(self, solver: str) -> Callable[[int], tuple[float, np.ndarray]]:
        """Seconds and weights after so many iterations at most."""

        def solve(iterations):
            model = LogisticRegression(
                C=1 / self.penalty, fit_intercept=False, solver=solver, tol=1e-15, max_iter=iterations
            )
            begin = time.perf_counter()
            model.fit(self.x, self.y)
            return time.perf_counter() - begin, model.coef_.ravel()

        return solve

    def of_ours(self, optimizer: Callable, xla: bool) -> Callable[[int], tuple[float, np.ndarray]]:
        """The same by a fit in one epoch. What is traced and compiled is so before."""
        rows = len(self.y)
        penalty = keras.regularizers.L2(self.penalty / 2 / rows)
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", kernel_regularizer=penalty)
        model = keras.Sequential([keras.Input((self.x.shape[1],)), layer])
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        optimizer = optimizer()
        model.compile(optimizer=optimizer, loss=loss, jit_compile=xla)
        targets, zeros = (self.y[:, None] + 1) / 2, [np.zeros((self.x.shape[1], 1))]

        def solve(iterations):
            model.set_weights(zeros)
            optimizer.iterations_per_epoch = iterations
            begin = time.perf_counter()
            model.fit(self.x, targets, batch_size=rows, epochs=1, verbose=0)
            return time.perf_counter() - begin, model.get_weights()[0].ravel()

        return solve


def measure(problem: Problem) -> dict[str, list[tuple[float, float]]]:
    """Seconds, medians of three turns, and f, after more and more iterations, by solver."""
    solvers = {name: problem.of_ours(*arguments) for name, arguments in OURS.items()}
    solvers |= {f"scikit-learn {name}": problem.of_sklearn(name) for name in OF_SKLEARN}
    for solve in solvers.values():
        solve(2)
    curves, active = {name: [] for name in solvers}, dict(solvers)
    for iterations in ITERATIONS:
        turns = [{name: solve(iterations) for name, solve in active.items()} for _ in range(TURNS)]
        for name in list(active):
            value = problem(turns[0][name][1])
            curves[name].append((float(np.median([turn[name][0] for turn in turns])), value))
            so_far = [f for _, f in curves[name][:-1]]
            gains = not so_far or value < min(so_far) * (1 - 1e-13)
            if not gains or curves[name][-1][0] > MOST_SECONDS:
                del active[name]
    return curves


def best_of(curves: dict[str, list]) -> float:
    """The least f of all solvers."""
    return min(value for curve in curves.values() for _, value in curve)


def seconds_to(curve: list, best: float) -> float:
    """Seconds to an f that is above the best by a millionth at most."""
    return next((seconds for seconds, value in curve if value - best <= ACCURATE * best), np.nan)


def draw(measured: dict) -> None:
    """A panel for each set of data."""
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(1, len(measured), figsize=(4 * len(measured), 4), layout="constrained")
    for panel, (name, curves) in zip(axes, measured.items(), strict=True):
        best = best_of(curves)
        for label, curve in curves.items():
            seconds, values = np.transpose(curve)
            style = "o--" if label.startswith("scikit") else "o-"
            panel.loglog(seconds, np.maximum((values - best) / best, 1e-14), style, label=label, markersize=3)
        panel.set(title=name, xlabel="seconds")
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("(f - best) / best")
    axes[0].legend(fontsize=7)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with ml-latest-small/")
    parser.add_argument("--penalty", type=float, default=0.1)
    parser.add_argument("--only", help='a part of a name, such as "films"')
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("kormos_opt").setLevel(logging.ERROR)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if arguments.draw:
        measured = json.loads(MEASURED.read_text())
    else:
        sets = {f"generated, {rows} x {columns}": (generated, (rows, columns)) for rows, columns in SIZES}
        sets["films of MovieLens, 610 x 1000"] = films, (arguments.data,)
        measured = {
            name: measure(Problem(*make(*of), arguments.penalty))
            for name, (make, of) in sets.items()
            if (arguments.only or "") in name
        }
        if not arguments.only:
            MEASURED.write_text(json.dumps(measured, indent=1))
    table = pd.DataFrame(
        {
            name: {by: seconds_to(curve, best_of(curves)) for by, curve in curves.items()}
            for name, curves in measured.items()
        }
    )
    print(table.to_markdown(floatfmt=".3g"))
    if not arguments.only:
        draw(measured)


if __name__ == "__main__":
    main()
