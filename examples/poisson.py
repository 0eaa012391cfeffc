"""Poisson's equation on the unit square
=====================================

A physics-informed network against the solution that the problem was made from::

    u_xx + u_yy = f  for 0 < x, y < 1,   u = 0 on the boundary,   u = sin(pi x) sin(2 pi y)

    python -m examples.poisson [--solvers ss-broyden,l-bfgs] [--iterations 2000] [--seed 0] [--picture PNG]

.. image:: /poisson.png
"""

# sphinx_gallery_thumbnail_path = "poisson.png"

import keras
import numpy as np

from examples import physics


class Poisson(physics.Physics):
    """u(x, y) = 16 x (1 - x) y (1 - y) N(x, y): the boundary values hold for any network N."""

    def call(self, points):
        x, y = points[:, :1], points[:, 1:]
        return 16 * x * (1 - x) * y * (1 - y) * self.network(points)

    def residual(self, points):
        _, _, (u_xx, u_yy) = physics.derivatives(self, points, twice=(0, 1))
        x, y = points[:, :1], points[:, 1:]
        source = -5 * np.pi**2 * keras.ops.sin(np.pi * x) * keras.ops.sin(2 * np.pi * y)
        return u_xx + u_yy - source


GRID = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
POINTS = np.stack([axis.ravel() for axis in GRID], axis=1)
SOLUTION = np.sin(np.pi * GRID[0]) * np.sin(2 * np.pi * GRID[1])


def errors(model: keras.Model) -> dict[str, float]:
    """The relative L2 error on a grid of 101 x 101."""
    return {"error": physics.relative_error(model.at(POINTS), SOLUTION.ravel())}


def main() -> None:
    """Trains with Adam and each solver, prints the errors and draws the best solution."""
    physics.double_precision()
    defaults = {"rows": 2000, "iterations": 2000, "picture": "poisson.png"}
    arguments = physics.parser(__doc__.splitlines()[0], **defaults).parse_args()
    points = np.random.default_rng(arguments.seed).uniform(0, 1, (arguments.rows, 2))
    histories, model = physics.compare(Poisson, points, errors, arguments)
    found = model.at(POINTS).reshape(SOLUTION.shape)
    physics.draw(arguments.picture, histories, (("x", GRID[0]), ("y", GRID[1])), found, SOLUTION)


if __name__ == "__main__":
    main()
