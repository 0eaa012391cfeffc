"""A factorization of the MovieLens ratings
========================================

Rank 5: 51670 parameters, 90752 ratings, 20 iterations::

    python -m examples.movielens [--data FOLDER] [--seed 0] [--picture PNG]

.. image:: /movielens.png

FOLDER holds ``ml-latest-small/ratings.csv``; without it Keras downloads the ratings.
"""

# sphinx_gallery_thumbnail_path = "movielens.png"

import argparse

import keras
import pandas as pd

import kormos_opt
from examples.data import movielens

RANK = 5


def build_model(users: int, items: int) -> keras.Model:
    """The rating of an item by a user is the dot product of their vectors."""
    vectors = []
    inputs = [keras.Input((1,), dtype="int32", name=name) for name in ("user", "item")]
    for ids, count in zip(inputs, (users, items), strict=True):
        embedding = keras.layers.Embedding(
            count, RANK, embeddings_initializer="normal", embeddings_regularizer=keras.regularizers.L2(1e-5)
        )
        vectors.append(embedding(ids))
    return keras.Model(inputs, keras.layers.Flatten()(keras.layers.Dot(axes=2)(vectors)))


def main() -> None:
    """Trains, prints the table of iterations and draws it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with ml-latest-small/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", default="movielens.png")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    ratings = movielens(arguments.data)
    ids = [ratings[name].to_numpy("int32")[:, None] for name in ("user", "item")]
    y = ratings["rating"].to_numpy()[:, None]
    train = int(0.9 * len(y))

    model = build_model(*(int(column.max()) + 1 for column in ids))
    model.compile(optimizer=kormos_opt.LBFGS(), loss="mse")
    history = model.fit(
        [column[:train] for column in ids],
        y[:train],
        epochs=arguments.epochs,
        validation_data=([column[train:] for column in ids], y[train:]),
        verbose=0,
    )
    table = pd.DataFrame(history.history)[["loss", "grad", "fg_evals", "val_loss"]].rename_axis("epoch")
    print(table.to_string(float_format="{:.6f}".format))
    draw(history, arguments.picture)


def draw(history: keras.callbacks.History, path: str) -> None:
    """The loss over the evaluations that each iterate took."""
    axes = kormos_opt.plot_history(history)
    axes[0].set_title(f"L-BFGS on MovieLens, rank {RANK}")
    axes[0].figure.savefig(path, dpi=120)
    print(f"Picture of the convergence: {path}")


if __name__ == "__main__":
    main()
