"""What the examples of physics-informed networks share: the model, Adam and then solvers, the errors, the picture."""

import argparse
import time
from collections.abc import Callable

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import kormos_opt

PER_EPOCH = 50  # iterations; an error is measured at the end of every epoch
EXACT = {"tol": 1e-14, "iterations_per_epoch": PER_EPOCH}
SOLVERS = {
    "ss-broyden": lambda **arguments: kormos_opt.SSBroyden(**EXACT, **arguments),
    "ss-bfgs": lambda **arguments: kormos_opt.SSBFGS(**EXACT, **arguments),
    "bfgs": lambda **arguments: kormos_opt.BFGS(**EXACT, **arguments),
    "l-bfgs": lambda **arguments: kormos_opt.LBFGS(memory=50, **EXACT, **arguments),
    "l-bfgs-graph": lambda **arguments: kormos_opt.LBFGS(memory=50, engine="graph", **EXACT, **arguments),
    "l-bfgs-tfp": lambda **arguments: kormos_opt.LBFGS(memory=50, engine="tfp", **EXACT, **arguments),
    "levenberg-marquardt": lambda **arguments: kormos_opt.LevenbergMarquardt(**arguments),
    "newton-cg": lambda **arguments: kormos_opt.NewtonCG(tol=1e-14, **arguments),
    "trust-krylov": lambda **arguments: kormos_opt.TrustKrylov(tol=1e-14, **arguments),
}


def double_precision() -> None:
    """Makes float64 the dtype of layers and of data: the errors here are below what float32 can show."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


class Physics(keras.Model):
    """A tanh network whose loss is the mean square of a residual at the points that `fit` is given.

    Args:
        inputs: How many numbers the network sees.
        units: Of each hidden layer.
        depth: How many hidden layers there are.
    """

    def __init__(self, inputs=2, units=20, depth=3):
        super().__init__()
        hidden = [keras.layers.Dense(units, "tanh") for _ in range(depth)]
        self.network = keras.Sequential([keras.Input((inputs,)), *hidden, keras.layers.Dense(1)])

    def build(self, input_shape=None):
        """The network is built already."""

    def residual(self, points):
        """The left side of the equation minus its right side, at points of shape `(rows, columns)`."""
        raise NotImplementedError

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean square of the residual; there are no targets."""
        del y, y_pred, sample_weight, training
        return kormos_opt.mean_square(self.residual(x))

    def at(self, points: np.ndarray) -> np.ndarray:
        """The solution at points of shape `(rows, columns)`, of shape `(rows,)`."""
        return np.ravel(self.predict(points, batch_size=len(points), verbose=0))


def derivatives(function: Callable, points: tf.Tensor, twice: tuple[int, ...]):
    """u, its first derivatives, of shape `(rows, columns)`, and the second ones with respect to the columns `twice`."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            u = function(points)
        first = inner.gradient(u, points)
        columns = [first[:, i : i + 1] for i in twice]
    return u, first, [outer.gradient(column, points)[:, i : i + 1] for column, i in zip(columns, twice, strict=True)]


def relative_error(found: np.ndarray, solution: np.ndarray) -> float:
    """The relative L2 error."""
    return float(np.linalg.norm(found - solution) / np.linalg.norm(solution))


class Record(keras.callbacks.Callback):
    """Puts errors and seconds into the history, and stops after so many seconds or evaluations.

    Args:
        errors: Called with the model. Returns numbers by their names.
        seconds: When to stop. Defaults to never.
        evaluations: When to stop. Defaults to never.
    """

    def __init__(self, errors: Callable, seconds: float = np.inf, evaluations: float = np.inf):
        super().__init__()
        self._errors, self._limits = errors, (seconds, evaluations)

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self._start
        logs |= self._errors(self.model)
        evaluations = logs.get("fg_evals", 0) + logs.get("hessp_evals", 0)
        if logs["seconds"] > self._limits[0] or evaluations > self._limits[1]:
            self.model.stop_training = True


def parser(description: str, **defaults) -> argparse.ArgumentParser:
    """The flags that all of these examples take."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--solvers", default="ss-broyden", help=f"one or several of {', '.join(SOLVERS)}, with commas")
    made.add_argument("--adam", type=int, default=500, help="epochs of Adam before")
    made.add_argument("--iterations", type=int, default=10_000, help="of the solver at most")
    made.add_argument("--seconds", type=float, default=np.inf, help="of the solver at most")
    made.add_argument("--rows", type=int, help="points of the equation")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--picture")
    made.set_defaults(**defaults)
    return made


def with_adam(make: Callable, points: np.ndarray, epochs: int, seed: int) -> tuple[keras.Model, list]:
    """A new model after some epochs of Adam over all points, and its weights."""
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(optimizer=keras.optimizers.Adam(5e-3), jit_compile=True)
    if epochs:
        model.fit(points, batch_size=len(points), epochs=epochs, verbose=0)
    return model, model.get_weights()


def solve(
    model, points, solver: str, errors: Callable, iterations: int, seconds=np.inf, callbacks=(), **limits
) -> dict:
    """Trains with one solver. Returns the history, with what `errors` says, and prints a line."""
    per_epoch = 1 if solver.startswith(("newton", "trust", "levenberg")) else PER_EPOCH
    model.compile(optimizer=SOLVERS[solver](batch_size=len(points)), jit_compile=True)
    record = Record(errors, seconds, **limits)
    epochs = max(iterations // per_epoch, 1)
    history = model.fit(points, epochs=epochs, callbacks=[*callbacks, record], verbose=0).history
    found = ", ".join(f"{name} {history[name][-1]:.3e}" for name in errors(model))
    evaluations = f"{history['fg_evals'][-1]:.0f} evaluations"
    if history["hessp_evals"][-1]:
        evaluations += f" and {history['hessp_evals'][-1]:.0f} products"
    seconds = history["seconds"][-1]
    print(f"{solver}: loss {history['loss'][-1]:.3e}, {found}, {evaluations}, {seconds:.0f} seconds", flush=True)
    print(f"    {model.optimizer.result.message}", flush=True)
    return history


def compare(make: Callable, points: np.ndarray, errors: Callable, arguments, callbacks: Callable = tuple) -> tuple:
    """Trains with every solver of `--solvers` from the weights that Adam leaves.

    Args:
        make: Makes a model.
        points: Where the equation shall hold.
        errors: Called with the model. Returns numbers by their names, `error` first.
        arguments: Those of `parser`.
        callbacks: Makes those of a fit. Defaults to none.

    Returns:
        The histories by the names of the solvers, and the model with the smallest error.
    """
    model, weights = with_adam(make, points, arguments.adam, arguments.seed)
    print(f"Adam: error {errors(model)['error']:.3e}, {model.count_params()} weights, {len(points)} points", flush=True)
    histories, best = {}, (np.inf, weights)
    for solver in arguments.solvers.split(","):
        model.set_weights(weights)
        histories[solver] = solve(
            model, points, solver, errors, arguments.iterations, arguments.seconds, callbacks=callbacks()
        )
        best = min(best, (histories[solver]["error"][-1], model.get_weights()), key=lambda each: each[0])
    model.set_weights(best[1])
    return histories, model


def draw(
    path: str, histories: dict, axes: tuple, found: np.ndarray, solution: np.ndarray, what: str = "relative L2 error"
) -> None:
    """The errors of all solvers over their evaluations, the solution of the best one, and where it is wrong.

    Args:
        path: Of the picture.
        histories: By the names of the solvers.
        axes: The names and the arrays of both axes.
        found: The solution on the grid.
        solution: The exact one.
        what: The name of the error.
    """
    figure, (convergence, field, wrong) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for solver, history in histories.items():
        evaluations = np.add(history["fg_evals"], history["hessp_evals"])
        convergence.loglog(evaluations, history["error"], label=solver)
    convergence.set(xlabel="evaluations", ylabel=what)
    convergence.legend(fontsize="small")
    (horizontal, h), (vertical, v) = axes
    figure.colorbar(field.pcolormesh(h, v, found, cmap="RdBu", rasterized=True), ax=field)
    field.set(xlabel=horizontal, ylabel=vertical, title="solution")
    difference = np.log10(np.maximum(np.abs(found - solution), 1e-16))
    shades = wrong.pcolormesh(h, v, difference, cmap="viridis", vmin=difference.max() - 5, rasterized=True)
    figure.colorbar(shades, ax=wrong)
    wrong.set(xlabel=horizontal, ylabel=vertical, title="log10 of the error")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"Picture: {path}")
