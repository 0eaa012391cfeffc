"""Whether a long fit grows: 2000 iterations with validation and a checkpoint at every epoch.

python -m benchmarks.soak [--iterations 2000] [--engine tfp] [--stream]

Prints the resident memory after 200 iterations and at the end.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import psutil

import kormos_opt

FIRST = 200


class ResidentMemory(keras.callbacks.Callback):
    """Takes the resident memory at the end of every epoch, in MiB."""

    def __init__(self):
        super().__init__()
        self.mebibytes = []

    def on_epoch_end(self, epoch, logs=None):
        self.mebibytes.append(psutil.Process().memory_info().rss / 2**20)


def main() -> None:
    """Fits and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--engine", default="scipy", choices=["scipy", "tfp"])
    parser.add_argument("--stream", action="store_true", help="read the data anew at every evaluation")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(2000, 10))
    y = np.sin(3 * x.sum(axis=1, keepdims=True)) + 0.1 * rng.normal(size=(2000, 1))
    layers = [keras.layers.Dense(64, "tanh"), keras.layers.Dense(64, "tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((10,)), *layers])
    options = {"ftol": 0.0, "gtol": 0.0}
    optimizer = kormos_opt.LBFGS(
        engine=arguments.engine, precision="float64", cache=not arguments.stream, options=options
    )
    model.compile(optimizer, "mse")
    memory = ResidentMemory()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = keras.callbacks.ModelCheckpoint(Path(folder, "model.keras"))
        history = model.fit(
            x[:1500],
            y[:1500],
            batch_size=250,
            validation_data=(x[1500:], y[1500:]),
            epochs=arguments.iterations,
            callbacks=[checkpoint, memory],
            verbose=0,
        ).history
    table = pd.DataFrame({"loss": history["loss"], "val_loss": history["val_loss"], "MiB": memory.mebibytes})
    table.index += 1
    rows = sorted({FIRST, len(table) // 2, len(table)} & set(table.index))
    print(table.loc[rows].rename_axis("iteration").to_markdown(floatfmt=".6g"))
    after = table["MiB"].loc[min(FIRST, len(table)) :]
    print(f"\nGrowth after iteration {FIRST}: {100 * (after.iloc[-1] / after.iloc[0] - 1):.2f} % at the end, ", end="")
    print(f"{100 * (after.max() / after.iloc[0] - 1):.2f} % at most")


if __name__ == "__main__":
    main()
