"""Poisson regression beside statsmodels
=====================================

Insurance claims with an offset, whose expected number is ``exposure * exp(b0 + b1 age + b2 power + b3 town)``::

    python -m examples.poisson_regression [--rows 2000] [--picture PNG]

.. image:: /poisson_regression.png

The claims are generated here. The summary of this package stands beside that of statsmodels.
"""

# sphinx_gallery_thumbnail_path = "poisson_regression.png"

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np

import kormos_opt

COLUMNS = "age", "power", "town"
TRUE = np.array([-0.02, 0.05, 0.4, -1.5])  # the last one is the intercept


def claims(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of shape `(rows, 3)`, the logarithm of the exposure and the number of claims, each `(rows, 1)`."""
    rng = np.random.default_rng(seed)
    columns = np.stack([rng.uniform(-20, 30, rows), rng.normal(0, 3, rows), rng.integers(0, 2, rows)], axis=1)
    exposure = rng.uniform(0.1, 1, (rows, 1))
    expected = exposure * np.exp(columns @ TRUE[:3, None] + TRUE[3])
    return columns, np.log(exposure), rng.poisson(expected).astype("float64")


def build_model() -> keras.Model:
    """The expected number of claims, from the columns and the offset."""
    inputs = keras.Input((3,), name="columns"), keras.Input((1,), name="offset")
    eta = keras.layers.Dense(1, name="claims")(inputs[0]) + inputs[1]
    return keras.Model(inputs, keras.ops.exp(eta))


def draw(table: kormos_opt.Summary, path: str) -> None:
    """Estimates with their intervals, beside the true values."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    low, high = table.confidence_intervals.T
    places = np.arange(len(TRUE))
    axes.errorbar(table.estimates, places, xerr=[table.estimates - low, high - table.estimates], fmt="o", capsize=4)
    axes.plot(TRUE, places, "k|", markersize=14, label="true value")
    axes.set_yticks(places, [*COLUMNS, "intercept"])
    axes.set(xlabel="estimate with its 95 % interval", ylim=(len(TRUE) - 0.5, -0.5))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Fits, prints both tables, and draws ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--picture", default="poisson_regression.png")
    arguments = parser.parse_args()
    columns, offset, y = claims(arguments.rows)
    model = build_model()
    model.compile(optimizer=kormos_opt.TrustExact(precision="float64", tol=1e-10), loss="poisson")
    model.fit([columns, offset], y, batch_size=len(y), epochs=50, verbose=0)
    print(model.optimizer.result.message)
    tables = [kormos_opt.summary(model, [columns, offset], y, cov_type=cov_type) for cov_type in ("nonrobust", "HC0")]
    print(*tables, sep="\n")
    draw(tables[0], arguments.picture)
    try:
        import statsmodels.api as sm
    except ImportError:
        print("statsmodels is not installed: pip install statsmodels shows its table beside ours.")
        return
    constant = sm.add_constant(columns)
    expected = sm.Poisson(y[:, 0], constant, offset=offset[:, 0]).fit(disp=0, method="newton", tol=1e-12)
    print(expected.summary(xname=["intercept", *COLUMNS]).tables[1])


if __name__ == "__main__":
    main()
