"""Levenberg-Marquardt beside scipy's curve_fit, lmfit, and the other solvers here.

    python -m benchmarks.least_squares [--only curve,network,burgers] [--runs 5]

The rivals need `pip install lmfit torch-levenberg-marquardt pytorch-lightning`. Seconds are medians of fits that were
warmed up, in turns.
"""

import argparse
import functools
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import scipy.optimize

import kormos_opt
from benchmarks import measured
from examples import burgers, physics

START = np.array([1.0, 3.0, 1.0, 0.3, 0.0])


def main() -> None:
    """Prints the tables asked for as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TABLES), help="tables, separated by commas")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of each solver in the table of Burgers")
    arguments = parser.parse_args()
    logging.getLogger("kormos_opt").setLevel("ERROR")  # every fit starts from weights that were set
    physics.double_precision()
    for name in arguments.only.split(","):
        table = pd.DataFrame(TABLES[name](arguments))
        measured.record("least_squares", name, table)
        print(f"\n{name}\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n", flush=True)


def in_turns(fits: dict[str, Callable], runs: int, measure: Callable) -> list[dict]:
    """The median of seconds of every fit, after one to warm up, and what `measure` says of its last result."""
    seconds = {name: [] for name in fits}
    results = {name: fit() for name, fit in fits.items()}
    for _ in range(runs):
        for name, fit in fits.items():
            begin = time.perf_counter()
            results[name] = fit()
            seconds[name].append(time.perf_counter() - begin)
    return [{"by": name, "seconds": np.median(seconds[name]), **measure(results[name])} for name in fits]


def double_exponential(t, b0, b1, b2, b3, b4, ops=np):
    """Two decays above a constant."""
    return b0 * ops.exp(-b1 * t) + b2 * ops.exp(-b3 * t) + b4


class Curve(keras.Model):
    """The same with its five weights."""

    def __init__(self):
        super().__init__()
        self.b = self.add_weight(shape=(5,), name="b")

    def call(self, t):
        return double_exponential(t, *keras.ops.unstack(self.b), ops=keras.ops)


def fit_model(model: keras.Model, x, y, start: list, epochs: int) -> tuple[np.ndarray, int, float]:
    """The weights, the evaluations and the loss of a fit from these weights."""
    model.set_weights(start)
    history = model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0).history
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return weights, int(history["fg_evals"][-1]), history["loss"][-1]


def curve(arguments):
    """A curve of 5 weights through 100,000 rows."""
    import lmfit

    rng = np.random.default_rng(0)
    t = np.linspace(0, 10, 100_000)
    y = double_exponential(t, 2.0, 2.0, 1.5, 0.5, 0.3) + 0.02 * rng.normal(size=t.size)
    jacobian = functools.partial(_jacobian_of_curve, t)

    def ours(**settings):
        model = Curve()
        model(t[:2, None])
        optimizer = kormos_opt.LevenbergMarquardt(iterations_per_epoch=100, **settings)
        model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
        return lambda: fit_model(model, t[:, None], y[:, None], [START], 1)

    def of_scipy(**settings):
        found, _, info, *_ = scipy.optimize.curve_fit(
            double_exponential, t, y, START, full_output=True, ftol=1e-15, xtol=1e-12, **settings
        )
        return found, info["nfev"], np.nan

    def of_lmfit():
        parameters = lmfit.Parameters()
        for i, value in enumerate(START):
            parameters.add(f"b{i}", value)

        def residuals(parameters):
            return double_exponential(t, *parameters.valuesdict().values()) - y

        found = lmfit.minimize(residuals, parameters, ftol=1e-15, xtol=1e-12)
        return np.array(list(found.params.valuesdict().values())), found.nfev, np.nan

    best = scipy.optimize.least_squares(
        lambda b: double_exponential(t, *b) - y, START, jacobian, x_scale="jac", xtol=1e-15, ftol=1e-15
    ).x
    return in_turns(
        {
            'LevenbergMarquardt(), "trf"': ours(),
            'LevenbergMarquardt(method="lm")': ours(method="lm"),
            "curve_fit, differences": of_scipy,
            "curve_fit, exact Jacobian": lambda: of_scipy(jac=lambda t, *b: jacobian(b)),
            "lmfit, differences": of_lmfit,
        },
        arguments.runs,
        lambda result: {
            "evaluations": result[1],
            "digits": -np.log10(np.max(np.abs(np.sort(result[0]) / np.sort(best) - 1)) + 1e-16),
        },
    )


def _jacobian_of_curve(t, b):
    first, second = np.exp(-b[1] * t), np.exp(-b[3] * t)
    return np.stack([first, -b[0] * t * first, second, -b[2] * t * second, np.ones_like(t)], axis=1)


def network(arguments):
    """A tanh network of 201 weights on 10,000 rows, 30 iterations."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (10_000, 8))
    y = np.sin(3 * x[:, :1] * x[:, 1:2]) + x[:, 2:3] ** 2 + 0.01 * rng.normal(size=(10_000, 1))
    keras.utils.set_random_seed(0)
    made = [keras.Sequential([keras.Input((8,)), keras.layers.Dense(20, "tanh"), keras.layers.Dense(1)])]
    start = made[0].get_weights()
    shapes = [weight.shape for weight in start]
    flat = np.concatenate([np.ravel(weight) for weight in start])

    def ours(optimizer, epochs):
        model = keras.models.clone_model(made[0])
        model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
        return lambda: fit_model(model, x, y, start, epochs)

    def residuals(weights):
        parts = np.split(weights, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        kernel, bias, last, offset = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return ((np.tanh(x @ kernel + bias) @ last + offset - y) / np.sqrt(len(y))).ravel()

    def of_scipy():
        found = scipy.optimize.least_squares(residuals, flat, x_scale="jac", max_nfev=30)
        return found.x, found.nfev * (flat.size + 1), 2 * found.cost

    rows = in_turns(
        {
            "LevenbergMarquardt()": ours(kormos_opt.LevenbergMarquardt(), 30),
            'LevenbergMarquardt(method="lm")': ours(kormos_opt.LevenbergMarquardt(method="lm"), 30),
            "LBFGS(), 1,000 iterations": ours(kormos_opt.LBFGS(iterations_per_epoch=1000, tol=1e-14), 1),
            "SSBroyden(), 1,000 iterations": ours(kormos_opt.SSBroyden(iterations_per_epoch=1000, tol=1e-14), 1),
            "scipy, trf, differences in numpy": of_scipy,
        },
        min(arguments.runs, 3),
        lambda result: {"evaluations": result[1], "loss": result[2]},
    )
    return [*rows, of_torch(x, y, start)]


def of_torch(x, y, start):
    """The row of torch-levenberg-marquardt, in a process of its own: torch and TensorFlow do not share one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, x=x, y=y, **{f"start{i}": weight for i, weight in enumerate(start)})
        command = [sys.executable, "-m", "benchmarks.levenberg_marquardt_rival", str(path)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(f"torch-levenberg-marquardt does not run here: {run.stderr.strip().splitlines()[-1]}", flush=True)
        return {"by": "torch-levenberg-marquardt", "seconds": np.nan, "evaluations": np.nan, "loss": np.nan}
    seconds, loss = run.stdout.split()
    return {"by": "torch-levenberg-marquardt", "seconds": float(seconds), "evaluations": 30, "loss": float(loss)}


def burgers_table(arguments):
    """Burgers' equation with 921 weights and 2,500 points, from the weights that Adam leaves."""
    flags = physics.parser("", rows=2500).parse_args([])
    flags.solvers, flags.seconds = "levenberg-marquardt,ss-broyden,l-bfgs", arguments.seconds
    points = burgers.collocation_points(flags.rows, flags.seed)
    histories, _ = physics.compare(burgers.Burgers, points, burgers.errors, flags)
    return [
        {
            "by": name,
            "seconds": history["seconds"][-1],
            "evaluations": history["fg_evals"][-1],
            "products": history["hessp_evals"][-1],
            "loss": history["loss"][-1],
            "relative error": history["error"][-1],
        }
        for name, history in histories.items()
    ]


TABLES = {"curve": curve, "network": network, "burgers": burgers_table}

if __name__ == "__main__":
    main()
