"""Transfer learning: frozen layers computed once
==============================================

Handwritten digits: the head is fitted on features, then all of the network is fine-tuned::

    python -m examples.transfer [--iterations 200] [--finetune 5] [--seed 0] [--picture PNG]

.. image:: /transfer.png

A convolutional network learns the digits 0 to 4 of the real images that ship with scikit-learn. Its convolutions then
serve the digits 5 to 9, of which only some have labels. A deterministic solver evaluates the whole data again and
again, and with it the frozen layers: their features are the same every time, so they are computed once.
"""

# sphinx_gallery_thumbnail_path = "transfer.png"

import argparse
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets

import kormos_opt

layers = keras.layers
LABELLED = 100  # images of each new digit


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8 x 8, in [0, 1], and their digits."""
    data = sklearn.datasets.load_digits()
    return data.images[..., None].astype("float32") / 16, data.target


def convolutions() -> keras.Model:
    """From an image to 2,048 features; 92,672 weights."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
        ],
        name="convolutions",
    )


def head(features: int) -> keras.Model:
    """From features to five classes, with a penalty that makes the best weights unique."""
    penalty = keras.regularizers.L2(1e-3)
    return keras.Sequential([keras.Input((features,)), layers.Dense(5, "softmax", kernel_regularizer=penalty)])


def compiled(model: keras.Model, optimizer) -> keras.Model:
    """The model, compiled for classes."""
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Seconds(keras.callbacks.Callback):
    """Puts the seconds since the beginning into the history."""

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self._start


def fit(model: keras.Model, x, y, iterations: int, name: str) -> dict:
    """Fits and prints a line. Returns the history."""
    history = model.fit(x, y, epochs=iterations, callbacks=[Seconds()], verbose=0).history
    print(f"{name}: loss {history['loss'][-1]:.6f} after {len(history['loss'])} iterations, ", end="")
    print(f"{history['seconds'][-1]:.2f} seconds", flush=True)
    return history


def main() -> None:
    """Learns the old digits, then the new ones both ways, then fine-tunes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=200, help="for the head")
    parser.add_argument("--finetune", type=int, default=5, help="iterations for all weights")
    parser.add_argument("--epochs", type=int, default=10, help="of Adam, for the old digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", default="transfer.png")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    x, y = digits()
    old, base = y < 5, convolutions()
    model = compiled(keras.Sequential([base, head(base.output_shape[-1])]), "adam")
    model.fit(x[old], y[old], epochs=arguments.epochs, verbose=0)

    new = np.random.default_rng(arguments.seed).permutation(np.flatnonzero(~old))
    train, test = new[: 5 * LABELLED], new[5 * LABELLED :]
    (x_train, y_train), (x_test, y_test) = ((x[rows], y[rows] - 5) for rows in (train, test))
    base.trainable = False
    on_images, on_features = (head(base.output_shape[-1]) for _ in range(2))
    on_features.set_weights(on_images.get_weights())

    frozen = compiled(keras.Sequential([base, on_images]), kormos_opt.LBFGS())
    histories = {"frozen layers in every evaluation": fit(frozen, x_train, y_train, arguments.iterations, "On images")}
    start = time.perf_counter()
    features = base.predict(x_train, verbose=0)
    print(f"The features of {len(x_train)} images: {time.perf_counter() - start:.2f} seconds")
    compiled(on_features, kormos_opt.LBFGS())
    histories["features computed once"] = fit(on_features, features, y_train, arguments.iterations, "On features")

    model = compiled(keras.Sequential([base, on_features]), kormos_opt.LBFGS())
    print(f"Accuracy on {len(x_test)} other images: {model.evaluate(x_test, y_test, verbose=0)[1]:.3f} with the head")
    base.trainable = True
    compiled(model, kormos_opt.LBFGS())
    fit(model, x_train, y_train, arguments.finetune, "All weights")
    print(f"Accuracy on {len(x_test)} other images: {model.evaluate(x_test, y_test, verbose=0)[1]:.3f} fine-tuned")
    draw(histories, arguments.picture)


def draw(histories: dict[str, dict], path: str) -> None:
    """The loss of the head over the seconds, both ways."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, history in histories.items():
        axes.loglog(history["seconds"], history["loss"], label=name)
    axes.set(xlabel="seconds", ylabel="loss of the head", title="Transfer learning with L-BFGS-B")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
