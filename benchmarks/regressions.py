"""Linear regressions on data as it comes, in raw units: how many are solved, and how many are falsely called so.

    python -m benchmarks.regressions [--epochs 1000]

Nineteen data sets of statsmodels and scikit-learn, and the raw diabetes data: the first numeric column on the others,
`Dense(1)`, `loss="mse"`. Solved is less than a thousandth of the variance of y above the optimum of least squares;
false is `success=True` with more.
"""

import argparse
import warnings

import keras
import numpy as np
import pandas as pd
from sklearn import datasets
from statsmodels import api as sm

import kormos_opt

STATSMODELS = [
    "longley", "stackloss", "copper", "cpunish", "statecrime", "scotland", "strikes", "fair", "engel",
    "macrodata", "star98", "ccard", "committee", "elnino",
]  # fmt: skip
SKLEARN = "diabetes", "wine", "breast_cancer", "iris", "linnerud"
SETTINGS = {
    "LBFGS(x_scale=None)": lambda: kormos_opt.LBFGS(x_scale=None),
    'LBFGS(x_scale=None, precision="float64")': lambda: kormos_opt.LBFGS(x_scale=None, precision="float64"),
    'LBFGS(x_scale=None, engine="graph")': lambda: kormos_opt.LBFGS(x_scale=None, engine="graph"),
    "LBFGS(x_scale=None, polish=True)": lambda: kormos_opt.LBFGS(x_scale=None, polish=True),
    "LBFGS()": kormos_opt.LBFGS,
    'LBFGS(precision="float64")': lambda: kormos_opt.LBFGS(precision="float64"),
    'LBFGS(engine="graph")': lambda: kormos_opt.LBFGS(engine="graph"),
    'LBFGS(precision="auto")': lambda: kormos_opt.LBFGS(precision="auto"),
}
ENOUGH = 1e-3


def problems():
    """Names, x and y."""
    for name in STATSMODELS:
        data = getattr(sm.datasets, name).load_pandas()
        if name == "longley":
            yield name, data.exog.to_numpy("float64"), data.endog.to_numpy("float64")
            continue
        numbers = data.data.select_dtypes("number").dropna().to_numpy("float64")
        yield name, numbers[:, 1:], numbers[:, 0]
    for name in SKLEARN:
        bunch = getattr(datasets, f"load_{name}")()
        target = np.asarray(bunch.target, "float64")
        yield name, bunch.data.astype("float64"), target[:, 0] if target.ndim > 1 else target
    raw = datasets.load_diabetes(scaled=False)
    yield "diabetes, raw", raw.data, raw.target.astype("float64")


def excess(x, y, fun):
    """What is left above the optimum, of the variance of y."""
    columns = np.c_[x, np.ones(len(x))]
    columns /= np.linalg.norm(columns, axis=0)
    best = np.mean((columns @ np.linalg.lstsq(columns, y, rcond=None)[0] - y) ** 2)
    return (fun - best) / y.var()


def fit(x, y, optimizer, epochs):
    """The result of a fit."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(x, y, epochs=epochs, verbose=0)
    return model.optimizer.result


def main() -> None:
    """Prints a table of all settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for words, make in SETTINGS.items():
        results = [
            (excess(x, y, each.fun), each) for _, x, y in problems() for each in [fit(x, y, make(), arguments.epochs)]
        ]
        rows.append(
            {
                "optimizer": words,
                "solved": int(sum(left < ENOUGH for left, _ in results)),
                'falsely "Converged"': int(sum(left >= ENOUGH and each.success for left, each in results)),
                "median iterations": int(np.median([each.nit for _, each in results])),
            }
        )
        print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
