"""Burgers' equation: Adam, then a solver
======================================

A physics-informed network against the exact solution::

    u_t + u u_x = (0.01 / pi) u_xx  for -1 < x < 1, 0 < t < 1,   u(x, 0) = -sin(pi x),   u(-1, t) = u(1, t) = 0

    python -m examples.burgers [--solvers ss-broyden,l-bfgs] [--iterations 10000] [--seed 0] [--picture PNG]

.. image:: /burgers.png

The exact solution is the quadrature of the Cole-Hopf transform (Basdevant and others, Spectral and finite difference
solutions of the Burgers equation, 1986).
"""

# sphinx_gallery_thumbnail_path = "burgers.png"

import functools

import keras
import numpy as np
import tensorflow as tf

from examples import physics

VISCOSITY = 0.01 / np.pi


class Burgers(physics.Physics):
    """u(x, t) = -sin(pi x) + t (1 - x^2) (N(x, t) - N(-x, t)).

    The initial and boundary values hold for any network N, and u is odd in x, as the solution is.
    """

    viscosity = VISCOSITY

    def call(self, points):
        x, t = points[:, :1], points[:, 1:]
        mirrored = points * tf.constant([[-1.0, 1.0]], points.dtype)
        both = self.network(tf.concat([points, mirrored], axis=0))
        here, there = tf.split(both, 2)
        return -keras.ops.sin(np.pi * x) + t * (1 - x**2) * (here - there)

    def residual(self, points):
        u, first, (u_xx,) = physics.derivatives(self, points, twice=(0,))
        return first[:, 1:] + u * first[:, :1] - self.viscosity * u_xx


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


GRID = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(0, 1, 100))
POINTS = np.stack([axis.ravel() for axis in GRID], axis=1)
SOLUTION = exact(*GRID)


def errors(model: keras.Model) -> dict[str, float]:
    """The relative L2 error on a grid of 256 x 100."""
    return {"error": physics.relative_error(model.at(POINTS), SOLUTION.ravel())}


def draw(path: str, histories: dict, model: keras.Model, **names: str) -> None:
    """The picture of `physics.draw` on this grid."""
    axes = ("t", GRID[1]), ("x", GRID[0])
    physics.draw(path, histories, axes, model.at(POINTS).reshape(SOLUTION.shape), SOLUTION, **names)


def main() -> None:
    """Trains with Adam and each solver, prints the errors and draws the best solution."""
    physics.double_precision()
    parser = physics.parser(__doc__.splitlines()[0], rows=4000, picture="burgers.png")
    parser.add_argument("--units", type=int, default=30, help="of each of three layers")
    arguments = parser.parse_args()
    points = collocation_points(arguments.rows, arguments.seed)
    make = functools.partial(Burgers, units=arguments.units)
    histories, model = physics.compare(make, points, errors, arguments)
    draw(arguments.picture, histories, model)


if __name__ == "__main__":
    main()
