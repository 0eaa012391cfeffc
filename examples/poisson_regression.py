"""Poisson regression with an offset: the summary of this package beside that of statsmodels.

python -m examples.poisson_regression [--rows 2000]

Insurance claims that are generated here: their expected number is `exposure * exp(b0 + b1 age + b2 power + b3 town)`.
"""

import argparse

import keras
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


def main() -> None:
    """Fits, and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    columns, offset, y = claims(parser.parse_args().rows)
    model = build_model()
    model.compile(optimizer=kormos_opt.TrustExact(precision="float64", tol=1e-10), loss="poisson")
    model.fit([columns, offset], y, batch_size=len(y), epochs=50, verbose=0)
    print(model.optimizer.result.message)
    for cov_type in ("nonrobust", "HC0"):
        print(kormos_opt.summary(model, [columns, offset], y, cov_type=cov_type))
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
