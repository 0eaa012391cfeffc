"""MNIST: Adam and L-BFGS in one fit
=================================

A convolutional network: an epoch of Adam, then three iterations of L-BFGS-B on all images::

    python -m examples.mnist [--data FOLDER] [--seed 0] [--rows 60000] [--batch-size auto] [--two-fits] [--picture PNG]

.. image:: /mnist.png

FOLDER holds ``mnist.npz``; without it Keras downloads the images. ``--rows`` takes fewer. ``--batch-size auto``
measures how many images the memory takes at a time, and stays below a limit set with ``ulimit -v``.
"""

# sphinx_gallery_thumbnail_path = "mnist.png"

import argparse
import resource
import sys

import keras
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


def compiled(model: keras.Model, optimizer) -> keras.Model:
    """The model, compiled."""
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def in_one_fit(x, y, optimizer: list, epochs: list[int]) -> pd.DataFrame:
    """Both optimizers in one fit: the history, by epoch."""
    model = compiled(build_model(), kormos_opt.Chain(optimizer, epochs=epochs))
    history = model.fit(x, y, batch_size=32, epochs=sum(epochs), verbose=0).history
    return pd.DataFrame(history).rename_axis("epoch")


def in_two_fits(x, y, optimizer: list, epochs: list[int]) -> pd.DataFrame:
    """The same with a fit for each: the same losses, bit for bit on one thread."""
    model = build_model()
    histories = [
        pd.DataFrame(compiled(model, each).fit(x, y, batch_size=32, epochs=count, verbose=0).history).assign(
            stage=stage
        )
        for stage, (each, count) in enumerate(zip(optimizer, epochs, strict=True))
    ]
    return pd.concat(histories, ignore_index=True).rename_axis("epoch")


def main() -> None:
    """Trains with both, prints the tables and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with mnist.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=batch_size, default=2**14, help='a number, or "auto"')
    parser.add_argument("--two-fits", action="store_true", help="a fit for each optimizer instead of one for both")
    parser.add_argument("--picture", default="mnist.png")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    x, y = mnist(arguments.data)
    x, y = x.reshape(-1, 28, 28, 1)[: arguments.rows], y[: arguments.rows]

    lbfgs = kormos_opt.LBFGS(batch_size=arguments.batch_size)
    stages = {"optimizer": ["adam", lbfgs], "epochs": [1, arguments.epochs]}
    table = in_two_fits(x, y, **stages) if arguments.two_fits else in_one_fit(x, y, **stages)
    print(table.to_string(float_format="{:.6f}".format))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"Peak memory: {peak:.2f} GiB")
    draw(table, arguments.picture)


def draw(table: pd.DataFrame, path: str) -> None:
    """The loss over the evaluations that each iterate took."""
    names = {0: "Adam", 1: "L-BFGS-B"}
    runs = {names[stage]: rows.to_dict("list") for stage, rows in table.drop(columns="grad").groupby("stage")}
    (axes,) = kormos_opt.plot_history(runs)
    for line in axes.lines:
        line.set_marker("o")
    axes.set(
        title="MNIST convnet: an epoch of Adam, then L-BFGS-B", ylabel="crossentropy, with dropout", yscale="linear"
    )
    axes.figure.savefig(path, dpi=120)
    print(f"Picture of the convergence: {path}")


if __name__ == "__main__":
    main()
