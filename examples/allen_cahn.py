"""Allen-Cahn equation: points that move
=====================================

A physics-informed network, whose points move to where the equation holds least::

    u_t = D u_xx + 5 (u - u^3)  for -1 < x < 1, 0 < t < 1,  D = 1e-4,   u(x, 0) = x^2 cos(pi x),   periodic in x

    python -m examples.allen_cahn [--solvers ss-broyden,l-bfgs] [--iterations 10000] [--seed 0] [--picture PNG]

.. image:: /allen_cahn.png

u is even, so 0 < x < 1 is enough. Continued periodically, the initial value has a kink at x = 1, which diffusion rounds
off in a thin layer. The part of u that knows this layer is the heat flow w of the initial value, a cosine series. The
network finds the rest, u = w + t N, and sees w beside periodic features of x.
"""

# sphinx_gallery_thumbnail_path = "allen_cahn.png"

import functools

import keras
import numpy as np
import tensorflow as tf

import kormos_opt
from examples import physics

DIFFUSION = 1e-4
_MODES = np.arange(2000)


def initial(x: np.ndarray) -> np.ndarray:
    """u at t = 0."""
    return x**2 * np.cos(np.pi * x)


@functools.cache
def _coefficients():
    """Of cos(k pi x) in the initial value, from the integrals of x^2 cos(m pi x)."""
    integrals = np.r_[1 / 3, 2 * (-1.0) ** _MODES[1:] / (np.pi * _MODES[1:]) ** 2, 0.0]
    coefficients = integrals[np.abs(_MODES - 1)] + integrals[_MODES + 1]
    coefficients[0] /= 2
    return coefficients


def heat(points: np.ndarray, rows_at_a_time: int = 2000) -> np.ndarray:
    """x, t, w, w_x and w_t at points `(x, t)`: a row of the training data, of shape `(rows, 5)`."""
    k = np.pi * _MODES
    parts = []
    for start in range(0, len(points), rows_at_a_time):
        x, t = points[start : start + rows_at_a_time].T[..., None]
        amplitudes = _coefficients() * np.exp(-DIFFUSION * k**2 * t)
        cosines = np.cos(k * x) * amplitudes
        w = np.where(t[:, 0] == 0, initial(x[:, 0]), cosines.sum(axis=1))
        w_x = -(np.sin(k * x) * amplitudes) @ k
        parts.append(np.stack([x[:, 0], t[:, 0], w, w_x, -DIFFUSION * cosines @ k**2], axis=1))
    return np.concatenate(parts)


class AllenCahn(physics.Physics):
    """u = w + t N(cos(pi x), cos(2 pi x), t, w): the initial value and the periodicity hold for any network N."""

    def __init__(self):
        super().__init__(inputs=4, units=20, depth=4)

    def call(self, rows):
        w, t = rows[:, 2:3], rows[:, 1:2]
        return w + t * self.network(self._features(rows)[0])

    def residual(self, rows):
        """The heat equation holds for w, so its derivatives cancel."""
        w, t = rows[:, 2:3], rows[:, 1:2]
        z, z_x, z_xx, z_t = self._features(rows)
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                n = self.network(z)
            n_z = inner.gradient(n, z)
            n_x = tf.reduce_sum(n_z * z_x, axis=1, keepdims=True)
        n_xx = tf.reduce_sum(outer.gradient(n_x, z) * z_x + n_z * z_xx, axis=1, keepdims=True)
        n_t = tf.reduce_sum(n_z * z_t, axis=1, keepdims=True)
        u = w + t * n
        return n + t * n_t - DIFFUSION * t * n_xx - 5 * (u - u**3)

    def _features(self, rows):
        """What the network sees, with its derivatives: once and twice with respect to x, once to t."""
        x, t, w, w_x, w_t = tf.split(rows, 5, axis=1)
        zero, one = tf.zeros_like(x), tf.ones_like(x)
        cos, sin = [tf.cos(k * np.pi * x) for k in (1, 2)], [tf.sin(k * np.pi * x) for k in (1, 2)]
        z = [*cos, t, w]
        z_x = [-np.pi * sin[0], -2 * np.pi * sin[1], zero, w_x]
        z_xx = [-(np.pi**2) * cos[0], -4 * np.pi**2 * cos[1], zero, w_t / DIFFUSION]
        z_t = [zero, zero, one, w_t]
        return tuple(tf.concat(columns, axis=1) for columns in (z, z_x, z_xx, z_t))


def reference(x_count: int = 512, t_count: int = 101, modes: int = 2048, steps: int = 2000) -> tuple:
    """x, t and u on a grid, by a Fourier method in space and exponential Runge-Kutta of order 4 in time.

    Reference: Kassam and Trefethen, Fourth-order time-stepping for stiff PDEs (2005)
    """
    x = -1 + 2 * np.arange(modes) / modes
    wave = np.pi * np.fft.rfftfreq(modes, 1 / modes)
    h, linear = 1 / steps, -DIFFUSION * wave**2 + 5
    whole, half = np.exp(h * linear), np.exp(h * linear / 2)
    circle = h * linear[:, None] + np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    mean = lambda values: h * values.real.mean(axis=1)  # noqa: E731
    q = mean((np.exp(circle / 2) - 1) / circle)
    f1 = mean((-4 - circle + np.exp(circle) * (4 - 3 * circle + circle**2)) / circle**3)
    f2 = mean((2 + circle + np.exp(circle) * (-2 + circle)) / circle**3)
    f3 = mean((-4 - 3 * circle - circle**2 + np.exp(circle) * (4 - circle)) / circle**3)

    def reaction(v):
        return np.fft.rfft(-5 * np.fft.irfft(v) ** 3)

    v, rows = modes / 2 * (-1.0) ** np.arange(len(wave)) * _coefficients()[: len(wave)], [initial(x)]
    v[0] *= 2
    for step in range(1, steps + 1):
        n = reaction(v)
        a = half * v + q * n
        n_a = reaction(a)
        n_b = reaction(half * v + q * n_a)
        n_c = reaction(half * a + q * (2 * n_b - n))
        v = whole * v + n * f1 + 2 * (n_a + n_b) * f2 + n_c * f3
        if step % (steps // (t_count - 1)) == 0:
            rows.append(np.fft.irfft(v))
    every = modes // x_count
    return x[::every], np.linspace(0, 1, t_count), np.array(rows)[:, ::every]


@functools.cache
def grid() -> tuple:
    """x and t on a grid, u there, and the rows that the model is given."""
    x, t, solution = reference()
    x, t = np.meshgrid(x, t)
    return x, t, solution, heat(np.stack([x.ravel(), t.ravel()], axis=1))


def errors(model: keras.Model) -> dict[str, float]:
    """The relative L2 error on a grid of 512 x 101."""
    _, _, solution, rows = grid()
    return {"error": physics.relative_error(model.at(rows), solution.ravel())}


def candidates(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random rows of the training data."""
    return heat(rng.uniform(0, 1, (count, 2)))


@functools.cache
def _pool(count):
    return candidates(np.random.default_rng(1), count)


def resampling(every: int, count: int) -> kormos_opt.callbacks.ResampleData:
    """Draws from so many candidates, where the residual is large."""

    def residual(model, rows):
        return model.residual(tf.constant(rows)).numpy()

    sample = kormos_opt.callbacks.residual_sampling(residual, _pool(count), k=1, c=1)
    return kormos_opt.callbacks.ResampleData(every, sample)


def main() -> None:
    """Trains with Adam and each solver, prints the errors and draws the best solution."""
    physics.double_precision()
    flags = physics.parser(__doc__.splitlines()[0], rows=5000, iterations=10_000, picture="allen_cahn.png")
    flags.add_argument("--every", type=int, default=500, help="iterations between two draws of points")
    flags.add_argument("--candidates", type=int, default=50_000, help="points to draw from")
    arguments = flags.parse_args()
    points = candidates(np.random.default_rng(arguments.seed), arguments.rows)
    histories, model = physics.compare(
        AllenCahn, points, errors, arguments, lambda: [resampling(arguments.every, arguments.candidates)]
    )
    x, t, solution, rows = grid()
    found = model.at(rows).reshape(solution.shape)
    physics.draw(arguments.picture, histories, (("t", t), ("x", x)), found, solution)


if __name__ == "__main__":
    main()
