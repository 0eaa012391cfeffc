"""The nonlinear regressions of NIST's Statistical Reference Datasets: how many certified digits a fit has.

    python -m benchmarks.nist [--data FOLDER] [--method trf] [--problem Misra]

27 problems, each from its two starting points. FOLDER holds NIST's files, such as `Misra1a.dat`; without it they are
downloaded from https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml.
"""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import ops

import kormos_opt
from examples import physics

URL = "https://www.itl.nist.gov/div898/strd/nls/data/LINKS/DATA/"


def _peaks(x, b):
    first, second = (b[i] * ops.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * ops.exp(-b[1] * x) + first + second


def _decays(x, b):
    return sum(b[i] * ops.exp(-b[i + 1] * x) for i in (0, 2, 4))


def _cubic_over_cubic(x, b):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _seasons(x, b):
    waves = ((12.0, b[1], b[2]), (b[3], b[4], b[5]), (b[6], b[7], b[8]))
    return b[0] + sum(u * ops.cos(2 * np.pi * x / p) + v * ops.sin(2 * np.pi * x / p) for p, u, v in waves)


def _decay_over_line(x, b):
    return ops.exp(-b[0] * x) / (b[1] + b[2] * x)


CURVES: dict[str, Callable] = {
    "Bennett5": lambda x, b: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda x, b: b[0] * (1 - ops.exp(-b[1] * x)),
    "Chwirut1": _decay_over_line,
    "Chwirut2": _decay_over_line,
    "DanWood": lambda x, b: b[0] * x ** b[1],
    "ENSO": _seasons,
    "Eckerle4": lambda x, b: b[0] / b[1] * ops.exp(-(((x - b[2]) / b[1]) ** 2) / 2),
    "Gauss1": _peaks,
    "Gauss2": _peaks,
    "Gauss3": _peaks,
    "Hahn1": _cubic_over_cubic,
    "Kirby2": lambda x, b: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos1": _decays,
    "Lanczos2": _decays,
    "Lanczos3": _decays,
    "MGH09": lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda x, b: b[0] * ops.exp(b[1] / (x + b[2])),
    "MGH17": lambda x, b: b[0] + b[1] * ops.exp(-x * b[3]) + b[2] * ops.exp(-x * b[4]),
    "Misra1a": lambda x, b: b[0] * (1 - ops.exp(-b[1] * x)),
    "Misra1b": lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda x, b: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda x, b: b[0] - b[1] * x[:, :1] * ops.exp(-b[2] * x[:, 1:]),
    "Rat42": lambda x, b: b[0] / (1 + ops.exp(b[1] - b[2] * x)),
    "Rat43": lambda x, b: b[0] / (1 + ops.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda x, b: b[0] - b[1] * x - ops.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": _cubic_over_cubic,
}


class Problem(NamedTuple):
    """What a file of NIST says.

    Attributes:
        starts: Two starting points, of shape `(2, n)`.
        certified: The certified weights.
        errors: Their certified standard errors.
        x: Predictors, of shape `(rows, columns)`.
        y: The response, of shape `(rows, 1)`.
    """

    starts: np.ndarray
    certified: np.ndarray
    errors: np.ndarray
    x: np.ndarray
    y: np.ndarray


class Curve(keras.Model):
    """A curve with a vector of weights."""

    def __init__(self, curve: Callable, size: int):
        super().__init__()
        self.curve = curve
        self.b = self.add_weight(shape=(size,), name="b")

    def call(self, x):
        return self.curve(x, ops.unstack(self.b))


def read(name: str, folder: str | None) -> Problem:
    """The problem of that name."""
    path = Path(folder) / f"{name}.dat" if folder else keras.utils.get_file(f"nist-{name}.dat", f"{URL}{name}.dat")
    lines = Path(path).read_text().splitlines()
    rows = [re.fullmatch(r"\s*b\d+\s*=((?:\s+\S+){4})\s*", line) for line in lines]
    weights = np.array([row[1].split() for row in rows if row], "float64")
    begin = max(i for i, line in enumerate(lines) if line.startswith("Data:"))
    data = np.array([line.split() for line in lines[begin + 1 :] if line.strip()], "float64")
    y = np.log(data[:, :1]) if name == "Nelson" else data[:, :1]
    return Problem(weights[:, :2].T, weights[:, 2], weights[:, 3], data[:, 1:], y)


def digits(found: np.ndarray, certified: np.ndarray) -> float:
    """How many digits the worst one of them has right."""
    return float(-np.log10(np.max(np.abs(found / certified - 1)) + 1e-15))


def main() -> None:
    """Fits all problems and prints the digits of weights and standard errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of NIST")
    parser.add_argument("--method", default="trf", choices=["trf", "dogbox", "lm"])
    parser.add_argument("--problem", default="", help="only those whose name contains this")
    arguments = parser.parse_args()
    logging.getLogger("kormos_opt").setLevel("ERROR")  # every fit starts from weights that were set
    physics.double_precision()
    rows = []
    for name in (each for each in CURVES if arguments.problem in each):
        problem = read(name, arguments.data)
        model = Curve(CURVES[name], len(problem.certified))
        model.compile(optimizer=kormos_opt.LevenbergMarquardt(method=arguments.method), loss="mse")
        model(problem.x[:1])
        for place, start in enumerate(problem.starts, 1):
            model.b.assign(start)
            model.fit(problem.x, problem.y, batch_size=len(problem.x), epochs=3000, verbose=0)
            result, table = model.optimizer.result, kormos_opt.summary(model, problem.x, problem.y)
            rows.append(
                {
                    "problem": name,
                    "start": place,
                    "digits": digits(table.estimates, problem.certified),
                    "digits of std err": digits(table.standard_errors, problem.errors),
                    "iterations": result.nit,
                    "residuals": result.nfev,
                    "success": result.success,
                }
            )
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False, floatfmt=".1f"))
    for least in (4, 6):
        print(f"\n{(table['digits'] >= least).sum()} of {len(table)} runs have {least} digits.", flush=True)


if __name__ == "__main__":
    main()
