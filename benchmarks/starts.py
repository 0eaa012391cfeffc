"""Loss and gradient at the points of 16 starts: 16 calls of one function, or one call that is vectorized over them.

    python -m benchmarks.starts [--runs 15]

The ratio is above 1 where the vectorized call would be worth its lock-step line searches.
"""

import argparse
import time

import numpy as np
import pandas as pd
import tensorflow as tf

STARTS, INPUTS = 16, 8


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    sizes = [(rows, units, xla) for rows, units in ((1000, 20), (10_000, 20), (10_000, 100)) for xla in (False, True)]
    table = pd.DataFrame([measured(*size, arguments.runs) for size in sizes])
    print(table.to_markdown(index=False, floatfmt=".3g"))


def measured(rows: int, units: int, xla: bool, runs: int) -> dict:
    """The medians of both, in turns, on a tanh network with one output."""
    rng = np.random.default_rng(0)
    shapes = [(INPUTS, units), (units,), (units, 1), ()]
    sizes = [int(np.prod(shape)) for shape in shapes]
    x, y = (tf.constant(rng.normal(size=(rows, columns)).astype("float32")) for columns in (INPUTS, 1))

    def value_and_gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            parts = tf.split(weights, sizes)
            kernel, bias, last, offset = (tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True))
            loss = tf.reduce_mean(tf.square(tf.tanh(x @ kernel + bias) @ last + offset - y))
        return loss, tape.gradient(loss, weights)

    one = tf.function(value_and_gradient, jit_compile=xla)
    all_at_once = tf.function(lambda points: tf.vectorized_map(value_and_gradient, points), jit_compile=xla)
    points = tf.constant(rng.normal(size=(STARTS, sum(sizes))).astype("float32"))
    apart = tf.unstack(points)
    ways = {
        "in turns, ms": lambda: [one(point)[1].numpy() for point in apart],
        "vectorized, ms": lambda: all_at_once(points)[1].numpy(),
    }
    seconds = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if run:
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: 1e3 * np.median(each) for name, each in seconds.items()}
    ratio = medians["in turns, ms"] / medians["vectorized, ms"]
    return {"rows": rows, "weights": sum(sizes), "XLA": xla, **medians, "ratio": ratio}


if __name__ == "__main__":
    main()
