"""The problems that the benchmarks share: a Keras model, its data, and the same objective written by hand.

The hand-written objective is a `tf.function` of one float64 vector, as one would write it for
`scipy.optimize.minimize`: it assigns the vector, loops over the chunks and returns loss and flat gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from examples.data import mnist, movielens
from examples.movielens import build_model


class Problem(NamedTuple):
    """A model and its data.

    Attributes:
        build: Returns a new, built model.
        x: The inputs.
        y: The targets.
        loss: A Keras loss, for the model and for the hand-written objective.
        chunks: Sizes of a chunk worth trying for the hand-written objective.
    """

    build: Callable[[], keras.Model]
    x: object
    y: np.ndarray
    loss: str
    chunks: tuple


def linear_regression(data):
    """Least squares with 1000 rows and 50 columns of scales 1 to 100, so that it takes more than a few iterations."""
    del data
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 50)) * np.logspace(0, 2, 50)
    y = x @ rng.normal(size=(50, 1)) + 0.1 * rng.normal(size=(1000, 1))
    return Problem(lambda: _sequential(50, keras.layers.Dense(1)), x, y, "mse", (1000,))


def softmax_regression(data):
    """Softmax regression on MNIST: 60000 rows, 784 columns, 10 classes."""
    x, y = mnist(data)
    return Problem(
        lambda: _sequential(784, keras.layers.Dense(10, "softmax")),
        x,
        y,
        "categorical_crossentropy",
        (1024, 4096, 8192),
    )


def tanh_network(data):
    """A tanh network 784-256-128-10 on 10000 rows of MNIST."""
    x, y = mnist(data)
    dense = keras.layers.Dense
    return Problem(
        lambda: _sequential(784, dense(256, "tanh"), dense(128, "tanh"), dense(10, "softmax")),
        x[:10000],
        y[:10000],
        "categorical_crossentropy",
        (1024, 2500, 10000),
    )


def factorization(data):
    """A rank 5 factorization of the MovieLens ratings, 90% of them: 51670 parameters."""
    ratings = movielens(data)
    rows = int(0.9 * len(ratings))
    ids = [ratings[name].to_numpy("int32")[:, None] for name in ("user", "item")]
    users, items = (int(column.max()) + 1 for column in ids)
    x = [column[:rows] for column in ids]
    y = ratings["rating"].to_numpy()[:rows, None]
    return Problem(lambda: build_model(users, items), x, y, "mse", (8192, rows))


PROBLEMS = {
    "linear regression 1000x50": linear_regression,
    "softmax regression 60000x784x10": softmax_regression,
    "tanh network 784-256-128-10, 10000 rows": tanh_network,
    "factorization, 90752 ratings": factorization,
}


def by_hand(model, problem, chunk, dtype, jit_compile=False):
    """The objective of `model` on `problem`, by hand: a `tf.function` x -> (loss, gradient).

    Args:
        model: A built model, for its variables and its layers.
        problem: The problem.
        chunk: Rows of a chunk.
        dtype: Of the data.
        jit_compile: Whether XLA compiles a chunk.
    """
    x = tf.nest.map_structure(lambda a: tf.constant(a, dtype if a.dtype.kind == "f" else "int32"), problem.x)
    y = tf.constant(problem.y, dtype)
    rows = y.shape[0]
    variables = [variable.value for variable in model.trainable_variables]
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    loss_function = keras.losses.get(problem.loss)

    @tf.function(jit_compile=jit_compile)
    def of_chunk(x, y):
        with tf.GradientTape() as tape:
            losses = loss_function(y, model(x, training=True))
            loss = tf.reduce_mean(losses) + (tf.add_n(model.losses) if model.losses else 0)
        gradients = tape.gradient(loss, variables)
        flat = tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], axis=0)
        weight = tf.cast(tf.shape(y)[0], tf.float64) / rows
        return weight * tf.cast(loss, tf.float64), weight * tf.cast(flat, tf.float64)

    @tf.function(input_signature=[tf.TensorSpec((sum(sizes),), tf.float64)])
    def objective(flat):
        for variable, part in zip(variables, tf.split(flat, sizes), strict=True):
            variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))
        if chunk >= rows:
            return of_chunk(x, y)

        def add(start, loss, gradient):
            part = tf.nest.map_structure(lambda a: a[start : start + chunk], (x, y))
            chunk_loss, chunk_gradient = of_chunk(*part)
            return start + chunk, loss + chunk_loss, gradient + chunk_gradient

        start = (tf.constant(0), tf.zeros((), tf.float64), tf.zeros((sum(sizes),), tf.float64))
        return tf.while_loop(lambda start, *_: start < rows, add, start, parallel_iterations=1)[1:]

    return objective


def _sequential(columns, *layers):
    return keras.Sequential([keras.Input((columns,)), *layers])
