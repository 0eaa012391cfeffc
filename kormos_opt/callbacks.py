"""Callbacks for fits with our optimizers: new training data in the middle of a fit."""

import logging
from collections.abc import Callable

import keras
import numpy as np

_log = logging.getLogger("kormos_opt")
_SHAPE = "an array x, or a tuple (x, y) or (x, y, sample_weight) of arrays"


class ResampleData(keras.callbacks.Callback):
    """Gives the running fit new training data every so many iterations: other points for a physics-informed network.

    The solver goes on from the weights as they are. SSBroyden and SSBFGS keep what they have learnt of the curvature;
    the others start afresh, and the log says which. History goes on, with the loss over the new data. Files carry the
    data that is in use, so that a fit that is given the same data goes on from them as if it had never stopped. A fit
    that is given other data, or starts from other weights, begins with what it is given.

    Args:
        every: Iterations of the solver between two draws. A draw waits for the end of an epoch.
        sample: Called as `sample(model, rng)` with a `numpy.random.Generator`. Returns the new data: an array x, or a
            tuple `(x, y)` or `(x, y, sample_weight)`. Under XLA keep the number of rows: another one compiles again.
        seed: Of the random numbers, which are others for every draw. Defaults to `0`.

    Raises:
        ValueError: If `every` is no positive integer.

    Example:

    >>> import keras, kormos_opt, numpy as np
    >>> def sample(model, rng):
    ...     x = rng.uniform(-1, 1, (50, 1))
    ...     return x, np.sin(x)
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> model.compile(optimizer=kormos_opt.SSBroyden(), loss="mse")
    >>> x, y = sample(model, np.random.default_rng(0))
    >>> history = model.fit(
    ...     x, y, epochs=40, callbacks=[kormos_opt.callbacks.ResampleData(every=10, sample=sample)], verbose=0
    ... )
    >>> len(history.history["loss"])
    40
    """

    def __init__(self, every: int, sample: Callable, seed: int = 0):
        super().__init__()
        if not (isinstance(every, (int, np.integer)) and every > 0):
            raise ValueError(
                f"Expected a positive integer, the iterations between two draws. Received: every={every!r}."
            )
        self.every = int(every)
        self.sample = sample
        self.seed = seed

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        if not any(hasattr(each, "drawn_data") for each in getattr(optimizer, "chained", [optimizer])):
            raise ValueError(
                "Expected a model that is compiled with an optimizer of kormos_opt. Received: "
                f"optimizer={type(self.model.optimizer).__name__}. For Keras's own give fit a PyDataset that draws."
            )
        self._begun = None

    def on_epoch_begin(self, epoch, logs=None):
        optimizer, train_function = self.model.optimizer, self.model.train_function
        if hasattr(optimizer, "chained"):
            optimizer = optimizer.current()
            if not hasattr(optimizer, "drawn_data"):  # Keras's, whose batches come from fit
                return
        drawn = optimizer.drawn_data
        if self._begun is not train_function:
            given = train_function.fingerprint()
            if drawn.arrays and drawn.given == given and train_function.stands_where_it_was():
                train_function.begin_with(*drawn.arrays)
            else:
                drawn = optimizer.drawn_data = drawn._replace(arrays=(), given=given)
        self._begun = train_function
        due = int(optimizer.iterations.numpy()) // self.every
        if due > drawn.number:
            arrays = _as_tuple(self.sample(self.model, np.random.default_rng([self.seed, due])))
            train_function.go_on_with(*arrays)
            optimizer.drawn_data = drawn._replace(number=due, arrays=arrays)

    def on_train_end(self, logs=None):
        train_function = self.model.train_function
        iterations = int(self.model.optimizer.iterations.numpy())
        if getattr(train_function, "has_ended", False) and iterations < self.every:
            _log.warning(_ENDED_BEFORE.format(iterations, self.every))


_ENDED_BEFORE = (
    "The solver has ended after {} iterations, before the first draw of ResampleData after {}. Draw more often, or "
    "take a method that needs more iterations, such as SSBroyden."
)


def residual_sampling(
    residual: Callable, candidates: np.ndarray | Callable, k: float = 1.0, c: float = 1.0, rows: int | None = None
) -> Callable:
    """Residual-adaptive sampling: points are drawn more often where the equation holds less well.

    Each candidate is drawn with a probability proportional to `|r|^k / mean(|r|^k) + c`, none of them twice. A large k
    looks at the worst places, a large c at all of them alike.

    Args:
        residual: Called as `residual(model, points)`. Returns the residuals, of shape `(rows,)` or `(rows, terms)`,
            whose squares are added up.
        candidates: Points of shape `(many, dimensions)`, or a function of a `numpy.random.Generator` that draws them.
        k: The power of the residual. Defaults to `1.0`.
        c: What every candidate has. Defaults to `1.0`.
        rows: How many points to draw. Defaults to `None`: as many as there are in the training data.

    Returns:
        A `sample` for `ResampleData`.

    Example:

    >>> import kormos_opt, numpy as np
    >>> sample = kormos_opt.callbacks.residual_sampling(
    ...     lambda model, points: np.where(points[:, 0] > 0.9, 100.0, 1.0),
    ...     candidates=lambda rng: rng.uniform(0, 1, (1000, 2)), k=1, c=0, rows=100,
    ... )
    >>> points = sample(None, np.random.default_rng(0))
    >>> points.shape, bool(np.mean(points[:, 0] > 0.9) > 0.8)
    ((100, 2), True)

    Reference: Wu, Zhu, Tan, Kartha and Lu, A comprehensive study of non-adaptive and residual-based adaptive sampling
    for physics-informed neural networks, Comput. Methods Appl. Mech. Eng. 403 (2023), algorithm 2 (RAD)
    """

    def sample(model, rng):
        points = candidates(rng) if callable(candidates) else candidates
        residuals = np.asarray(residual(model, points), "float64").reshape(len(points), -1)
        powers = np.linalg.norm(residuals, axis=1) ** k
        weights = powers / powers.mean() + c if powers.any() else np.ones_like(powers)
        wanted = model.train_function.rows if rows is None else rows
        if not (np.isfinite(weights).all() and np.count_nonzero(weights) >= wanted):
            raise ValueError(
                f"Expected finite residuals and at least {wanted} candidates to draw from. Received: {len(points)} "
                f"candidates, {np.count_nonzero(np.isfinite(weights) & (weights > 0))} of which can be drawn."
            )
        return points[rng.choice(len(points), wanted, replace=False, p=weights / weights.sum())]

    return sample


def _as_tuple(data):
    arrays = data if isinstance(data, tuple) else (data,)
    if not (1 <= len(arrays) <= 3 and all(each is None or hasattr(each, "shape") for each in arrays)):
        raise TypeError(f"Expected `sample` to return {_SHAPE}. Received: {data!r:.200}.")
    return arrays
