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
        adam: Epochs of Adam before, in which errors are not measured and nothing counts. Defaults to `0`.

    Attributes:
        weights: Those that Adam leaves.
    """

    def __init__(self, errors: Callable, seconds: float = np.inf, evaluations: float = np.inf, adam: int = 0):
        super().__init__()
        self._errors, self._limits, self._adam = errors, (seconds, evaluations), adam

    def on_train_begin(self, logs=None):
        self._begin()

    def on_epoch_end(self, epoch, logs=None):
        is_adam = epoch < self._adam
        if not is_adam or epoch == 0 or epoch == self._adam - 1:
            self._found = self._errors(self.model)
        logs |= self._found
        if epoch == self._adam - 1:
            self._begin()
            print(f"Adam: error {self._found['error']:.3e}, {self.model.count_params()} weights", flush=True)
        logs["seconds"] = time.perf_counter() - self._start
        evaluations = logs["fg_evals"] + logs["hessp_evals"] - self._adam
        if not is_adam and (logs["seconds"] > self._limits[0] or evaluations > self._limits[1]):
            self.model.stop_training = True

    def _begin(self):
        self._start, self.weights = time.perf_counter(), self.model.get_weights()


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


def seeded(make: Callable, seed: int) -> keras.Model:
    """A new model with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    return make()


def solve(
    model, points, solver: str, errors: Callable, iterations: int, seconds=np.inf, callbacks=(), adam=0, **limits
) -> tuple[dict, list]:
    """Trains with Adam and one solver, in one fit, and prints a line for each.

    Returns:
        The history of the solver, with what `errors` says, and the weights that Adam has left.
    """
    per_epoch = 1 if solver.startswith(("newton", "trust", "levenberg")) else PER_EPOCH
    optimizer = SOLVERS[solver](batch_size=len(points))
    if adam:
        optimizer = kormos_opt.Chain([keras.optimizers.Adam(5e-3), optimizer], epochs=[adam, None])
    model.compile(optimizer=optimizer, jit_compile=True)
    record = Record(errors, seconds, adam=adam, **limits)
    epochs = adam + max(iterations // per_epoch, 1)
    callbacks = [*callbacks, record]
    history = model.fit(points, batch_size=len(points), epochs=epochs, callbacks=callbacks, verbose=0).history
    history = {name: column[adam:] for name, column in history.items()}
    history["fg_evals"] = [count - adam for count in history["fg_evals"]]
    found = ", ".join(f"{name} {history[name][-1]:.3e}" for name in errors(model))
    evaluations = f"{history['fg_evals'][-1]:.0f} evaluations"
    if history["hessp_evals"][-1]:
        evaluations += f" and {history['hessp_evals'][-1]:.0f} products"
    seconds = history["seconds"][-1]
    print(f"{solver}: loss {history['loss'][-1]:.3e}, {found}, {evaluations}, {seconds:.0f} seconds", flush=True)
    print(f"    {model.optimizer.result.message}", flush=True)
    return history, record.weights


def compare(make: Callable, points: np.ndarray, errors: Callable, arguments, callbacks: Callable = tuple) -> tuple:
    """Trains with Adam and the first of `--solvers` in one fit, then with every other one from what Adam has left.

    Args:
        make: Makes a model.
        points: Where the equation shall hold.
        errors: Called with the model. Returns numbers by their names, `error` first.
        arguments: Those of `parser`.
        callbacks: Makes those of a fit. Defaults to none.

    Returns:
        The histories by the names of the solvers, and the model with the smallest error.
    """
    model, histories, best = seeded(make, arguments.seed), {}, (np.inf, None)
    print(f"{len(points)} points, error {errors(model)['error']:.3e} at the start", flush=True)
    adam, (first, *others) = arguments.adam, arguments.solvers.split(",")
    limits = arguments.iterations, arguments.seconds
    histories[first], weights = solve(model, points, first, errors, *limits, callbacks=callbacks(), adam=adam)
    for solver in (first, *others):
        if solver is not first:
            model.set_weights(weights)
            histories[solver], _ = solve(model, points, solver, errors, *limits, callbacks=callbacks())
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
