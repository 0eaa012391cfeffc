"""An inverse problem: the viscosity of Burgers' equation
======================================================

A constant of the equation is found from measurements of its solution::

    u_t + u u_x = v u_xx  for -1 < x < 1, 0 < t < 1,   u(x, 0) = -sin(pi x),   u(-1, t) = u(1, t) = 0,   v = ?

    python -m examples.inverse_burgers [--noise 0.01] [--measurements 500] [--iterations 5000] [--picture PNG]

.. image:: /inverse_burgers.png

v is a weight like those of the network, and a metric shows it in the history. The loss has two terms, over points of
two kinds: the residual at the points that ``fit`` is given, and the misfit at the measurements, which the model keeps.
"""

# sphinx_gallery_thumbnail_path = "inverse_burgers.png"

import keras
import numpy as np
import tensorflow as tf

import kormos_opt
from examples import burgers, physics


class InverseBurgers(burgers.Burgers):
    """Burgers' network with an unknown viscosity exp(c).

    Args:
        places: Where u was measured, of shape `(count, 2)`.
        values: What was measured, of shape `(count, 1)`.
        weight: Of the misfit in the loss. Defaults to `10.0`.
        guess: The viscosity to begin with. Defaults to `0.02`.
    """

    def __init__(self, places, values, weight=10.0, guess=0.02):
        super().__init__()
        self.places, self.values, self.weight = tf.constant(places), tf.constant(values), weight
        self.logarithm = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.log(guess)), name="log_viscosity"
        )
        self.shown = keras.metrics.Mean(name="viscosity")

    @property
    def viscosity(self):
        return keras.ops.exp(self.logarithm)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Both terms. The second one does not depend on x, so it is the same for every part of the points."""
        self.shown.update_state(self.viscosity)
        misfit = kormos_opt.mean_square(self(self.places) - self.values)
        return super().compute_loss(x, y, y_pred, sample_weight, training) + self.weight * misfit


def measure(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random places, and u there with normal noise."""
    rng = np.random.default_rng(seed + 1)
    places = burgers.collocation_points(count, seed + 1)
    values = burgers.exact(*places.T)[:, None]
    return places, values + noise * rng.normal(size=values.shape)


def errors(model: keras.Model) -> dict[str, float]:
    """The relative error of the viscosity, and that of u."""
    viscosity = float(np.exp(model.logarithm.numpy()))
    return {"error": abs(viscosity / burgers.VISCOSITY - 1), "error_of_u": burgers.errors(model)["error"]}


def standard_error(model: InverseBurgers, points: np.ndarray) -> float:
    """That of the viscosity, from the misfit at the measurements.

    The loss is a sum of squares with the Gauss-Newton matrix G, and the residual of a measurement has the variance s^2
    in its units: the covariance of the weights is 2 s^2 / G. The equation takes part as measurements without noise do.
    """
    model.compile(optimizer=kormos_opt.TrustExact(curvature="gauss-newton", batch_size=len(points)))
    model.optimizer.build(model, (points,))
    values, vectors = np.linalg.eigh(model.optimizer.hessian())
    kept = values > 1e-12 * values[-1]
    place = next(i for i, name in enumerate(kormos_opt.weight_names(model)) if "viscosity" in name)
    misfit = np.mean((model.at(model.places) - np.ravel(model.values)) ** 2)
    variance = 2 * model.weight * misfit / len(model.values) * np.sum(vectors[place, kept] ** 2 / values[kept])
    return float(model.viscosity) * np.sqrt(variance)


def main() -> None:
    """Trains with Adam and each solver, prints the viscosity and draws how it was found."""
    physics.double_precision()
    flags = physics.parser(__doc__.splitlines()[0], rows=2500, iterations=5000, picture="inverse_burgers.png")
    flags.add_argument("--measurements", type=int, default=500)
    flags.add_argument("--noise", type=float, default=0.0, help="standard deviation")
    arguments = flags.parse_args()
    places, values = measure(arguments.measurements, arguments.noise, arguments.seed)
    points = burgers.collocation_points(arguments.rows, arguments.seed)
    histories, model = physics.compare(lambda: InverseBurgers(places, values), points, errors, arguments)
    for solver, history in histories.items():
        print(f"{solver}: viscosity {history['viscosity'][-1]:.9f}, of which the exact one is {burgers.VISCOSITY:.9f}")
    if arguments.noise:
        print(
            f"The best one: viscosity {float(model.viscosity):.6f}, standard error {standard_error(model, points):.6f}"
        )
    burgers.draw(arguments.picture, histories, model, what="relative error of the viscosity")


if __name__ == "__main__":
    main()
