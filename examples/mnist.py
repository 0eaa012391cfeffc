"""A convolutional network on MNIST: one epoch of Adam, then three iterations of L-BFGS-B on all 60000 images.

python -m examples.mnist [--data FOLDER] [--seed 0] [--rows 60000] [--batch-size auto] [--picture mnist.png]

FOLDER holds `mnist.npz`; without it Keras downloads the images. `--rows` takes fewer. `--batch-size auto` measures
how many images the memory takes at a time, and stays below a limit set with `ulimit -v`.
"""

import argparse
import resource
import sys

import keras
import matplotlib.pyplot as plt
import pandas as pd

import kormos_opt
from examples.data import mnist

layers = keras.layers


def build_model() -> keras.Model:
    """Two convolutions, 34,826 weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def batch_size(text: str) -> int | str:
    """A number, or `"auto"`."""
    return text if text == "auto" else int(text)


def main() -> None:
    """Trains with both, prints the tables and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=batch_size, default=2**14, help='a number, or "auto"')
    parser.add_argument("--picture", default="mnist.png")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    x, y = mnist(arguments.data)
    x, y = x.reshape(-1, 28, 28, 1)[: arguments.rows], y[: arguments.rows]

    model = build_model()
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    adam = model.fit(x, y, batch_size=32, epochs=1, verbose=0).history
    optimizer = kormos_opt.LBFGS(batch_size=arguments.batch_size)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    start = model.evaluate(x, y, verbose=0, return_dict=True)
    lbfgs = model.fit(x, y, epochs=arguments.epochs, verbose=0).history

    print(f"Adam, one epoch in batches of 32: loss {adam['loss'][0]:.6f}, without dropout {start['loss']:.6f}")
    table = pd.DataFrame(lbfgs).rename_axis("epoch")
    print(table.to_string(float_format="{:.6f}".format))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"Peak memory: {peak:.2f} GiB")
    draw(table, arguments.picture)


def draw(table: pd.DataFrame, path: str) -> None:
    """The loss over the evaluations that each iterate took."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(table["fg_evals"], table["loss"], "o-")
    axes.set(
        xlabel="passes over the images (evaluations of the loss and its gradient)",
        ylabel="crossentropy, with dropout",
        title="MNIST convnet: L-BFGS-B after an epoch of Adam",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    print(f"Picture of the convergence: {path}")


if __name__ == "__main__":
    main()
