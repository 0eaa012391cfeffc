"""The data of the examples and benchmarks: from a folder, else downloaded by Keras, else generated and said so."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"


def mnist(folder: str | None = None):
    """The 60000 training images of MNIST: x of shape (60000, 784) in [0, 1], y of shape (60000, 10), one-hot.

    Args:
        folder: Where `mnist.npz` lies. Defaults to `None`: Keras downloads it.
    """
    path = Path(folder or "", "mnist.npz")
    if path.exists():
        with np.load(path) as arrays:
            x, y = arrays["x_train"], arrays["y_train"]
    else:
        try:
            (x, y), _ = keras.datasets.mnist.load_data()
        except Exception as error:
            print(f"MNIST cannot be downloaded ({error}): generated images instead. --data FOLDER takes mnist.npz.")
            rng = np.random.default_rng(0)
            y = rng.integers(0, 10, 60000)
            x = rng.integers(0, 128, (60000, 784)) + 64 * (np.arange(784) % 10 == y[:, None])
    return x.reshape(-1, 784).astype("float32") / 255, keras.utils.to_categorical(y, 10)


def movielens(folder: str | None = None) -> pd.DataFrame:
    """MovieLens ml-latest-small in random order: columns user and item, counted from 0, and rating in [0, 1].

    Args:
        folder: Where `ml-latest-small/ratings.csv` lies. Defaults to `None`: Keras downloads it.
    """
    path = Path(folder or "", "ml-latest-small", "ratings.csv")
    if not path.exists():
        try:
            path = next(Path(keras.utils.get_file("ml-latest-small", MOVIELENS_URL, extract=True)).rglob("ratings.csv"))
        except Exception as error:
            print(f"MovieLens cannot be downloaded ({error}): generated ratings instead. --data FOLDER takes it.")
            return _generated_ratings()
    table = pd.read_csv(path).sample(frac=1, random_state=42)
    low, high = table["rating"].min(), table["rating"].max()
    return pd.DataFrame(
        {
            "user": pd.factorize(table["userId"])[0],
            "item": pd.factorize(table["movieId"])[0],
            "rating": ((table["rating"] - low) / (high - low)).to_numpy("float32"),
        }
    )


def _generated_ratings(ratings=100_836, users=610, items=9724):
    """Ratings of as many users and items as MovieLens has, from a factorization of rank 1 and noise."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, users, ratings), rng.integers(0, items, ratings)
    rating = rng.uniform(0.6, 1, users)[user] * rng.uniform(0.6, 1, items)[item] + 0.1 * rng.normal(size=ratings)
    return pd.DataFrame({"user": user, "item": item, "rating": rating.clip(0, 1).astype("float32")})
