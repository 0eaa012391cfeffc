"""A physics-informed network for Burgers' equation: Adam, then L-BFGS, against the exact solution.

    u_t + u u_x = (0.01 / pi) u_xx  for -1 < x < 1, 0 < t < 1,   u(x, 0) = -sin(pi x),   u(-1, t) = u(1, t) = 0

python -m examples.burgers [--engine scipy] [--epochs 8000] [--seed 0] [--picture burgers.png]

The residual is a custom `train_step`; the exact solution is the quadrature of the Cole-Hopf transform (Basdevant and
others, Spectral and finite difference solutions of the Burgers equation, 1986).
"""

import argparse
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import kormos_opt

VISCOSITY = 0.01 / np.pi


class Burgers(keras.Model):
    """u(x, t) = -sin(pi x) + t (1 - x^2) (N(x, t) - N(-x, t)).

    The initial and boundary values hold for any network N, and u is odd in x, as the solution is.
    """

    def __init__(self, units=20, depth=5, **kwargs):
        super().__init__(**kwargs)
        hidden = [keras.layers.Dense(units, "tanh") for _ in range(depth)]
        self.network = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1)])

    def build(self, input_shape=None):
        """The network is built already."""

    def call(self, points):
        x, t = points[:, :1], points[:, 1:]
        odd = self.network(points) - self.network(points * keras.ops.array([[-1.0, 1.0]], points.dtype))
        return -keras.ops.sin(np.pi * x) + t * (1 - x**2) * odd

    def residual(self, points):
        """The left side of the equation minus its right side, at points of shape `(rows, 2)`."""
        with tf.GradientTape() as outer:
            outer.watch(points)
            with tf.GradientTape() as inner:
                inner.watch(points)
                u = self(points)
            first = inner.gradient(u, points)
            u_x, u_t = first[:, :1], first[:, 1:]
        u_xx = outer.gradient(u_x, points)[:, :1]
        return u_t + u * u_x - VISCOSITY * u_xx

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean square of the residual; there are no targets."""
        del y, y_pred, sample_weight, training
        return tf.reduce_mean(tf.square(self.residual(x)))


def collocation_points(rows: int, seed: int) -> np.ndarray:
    """Points of shape `(rows, 2)` with x > 0, half of them near x = 0, where the shock forms."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, rows)
    x[: rows // 2] **= 5
    return np.stack([x, rng.uniform(0, 1, rows)], axis=1)


def exact(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The solution at arrays of one shape, by Gauss-Hermite quadrature of the Cole-Hopf transform."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    eta = x[..., None] - np.sqrt(4 * VISCOSITY * t[..., None]) * nodes
    kernel = weights * np.exp(-np.cos(np.pi * eta) / (2 * np.pi * VISCOSITY))
    return -np.sum(np.sin(np.pi * eta) * kernel, axis=-1) / np.sum(kernel, axis=-1)


def relative_error(model: keras.Model) -> tuple[float, tuple]:
    """The relative L2 error on a grid of 256 x 100, and the grid with both solutions."""
    x, t = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(0, 1, 100))
    points = np.stack([x.ravel(), t.ravel()], axis=1)
    found, solution = model.predict(points, batch_size=len(points), verbose=0).reshape(x.shape), exact(x, t)
    return float(np.linalg.norm(found - solution) / np.linalg.norm(solution)), (x, t, found, solution)


def main() -> None:
    """Trains with Adam and L-BFGS, prints the errors and draws the solution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["scipy", "graph", "tfp"], default="scipy")
    parser.add_argument("--adam", type=int, default=500, help="epochs of Adam")
    parser.add_argument("--epochs", type=int, default=8000, help="iterations of L-BFGS at most")
    parser.add_argument("--rows", type=int, default=2500, help="collocation points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", default="burgers.png")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    points = collocation_points(arguments.rows, arguments.seed)
    model = Burgers()

    start = time.perf_counter()
    model.compile(optimizer=keras.optimizers.Adam(5e-3), jit_compile=True)
    adam = model.fit(points, batch_size=len(points), epochs=arguments.adam, verbose=0).history["loss"]
    report("Adam", adam, model, start)

    start = time.perf_counter()
    optimizer = kormos_opt.LBFGS(
        memory=50, engine=arguments.engine, tol=1e-12, iterations_per_epoch=50, batch_size=len(points)
    )
    model.compile(optimizer=optimizer, jit_compile=True)
    history = model.fit(points, epochs=arguments.epochs // 50, verbose=0).history
    report(f"L-BFGS, engine {arguments.engine}", history["loss"], model, start)
    print(f"{int(history['fg_evals'][-1])} evaluations. {optimizer.result.message}")
    draw(adam, history, relative_error(model)[1], arguments.picture)


def report(name: str, losses: list, model: keras.Model, start: float) -> None:
    """Prints a line about a fit."""
    error = relative_error(model)[0]
    seconds = time.perf_counter() - start
    print(f"{name}: loss {losses[-1]:.3e}, relative L2 error {error:.3e}, {seconds:.0f} seconds", flush=True)


def draw(adam: list, history: dict, solutions: tuple, path: str) -> None:
    """The convergence, the solution, and its profile where the shock is sharpest."""
    x, t, found, solution = solutions
    figure, (convergence, field, profile) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    convergence.semilogy(range(1, len(adam) + 1), adam, label="Adam")
    convergence.semilogy(len(adam) + np.array(history["fg_evals"]), history["loss"], label="L-BFGS")
    convergence.set(xlabel="evaluations of the loss and its gradient", ylabel="mean square residual")
    convergence.legend()
    figure.colorbar(field.pcolormesh(t, x, found, cmap="RdBu"), ax=field)
    field.set(xlabel="t", ylabel="x", title="u(x, t)")
    profile.plot(x[-1], solution[-1], label="exact")
    profile.plot(x[-1], found[-1], "--", label="network")
    profile.set(xlabel="x", title="t = 1")
    profile.legend()
    figure.savefig(path, dpi=110)
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
