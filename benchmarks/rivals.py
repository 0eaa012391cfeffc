"""The same problems by other means, to a target: each returns a function that solves and returns seconds, or NaN."""

import importlib.util
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from benchmarks.hand_written import MEMORY, MOST, OBJECTIVES
from benchmarks.problems import by_hand


class _TargetReachedError(Exception):
    """The target."""


def optax_lbfgs(name, problem, start, target, dtype="float32"):
    """`optax.lbfgs` in JAX, jitted as a whole.

    Args:
        name: Name of the problem in `benchmarks.problems.PROBLEMS`.
        problem: The problem.
        start: The model's initial weights, a list of arrays.
        target: The loss to reach.
        dtype: Of weights and data. Defaults to `"float32"`.
    """
    import jax
    import optax

    fun, weights = _in_jax(name, problem, start, dtype)
    solver = optax.lbfgs(memory_size=MEMORY)
    value_and_gradient = optax.value_and_grad_from_state(fun)

    def go_on(carry):
        _, state, iteration = carry
        return (iteration < MOST) & ~(optax.tree.get(state, "value") <= target)

    def step(carry):
        weights, state, iteration = carry
        value, gradient = value_and_gradient(weights, state=state)
        updates, state = solver.update(gradient, state, weights, value=value, grad=gradient, value_fn=fun)
        return optax.apply_updates(weights, updates), state, iteration + 1

    @jax.jit
    def solve(weights):
        return jax.lax.while_loop(go_on, step, (weights, solver.init(weights), 0))

    def timed():
        begin = time.perf_counter()
        _, state, _ = jax.block_until_ready(solve(weights))
        seconds = time.perf_counter() - begin
        return seconds if float(optax.tree.get(state, "value")) <= target else np.nan

    return timed


def jaxopt_lbfgs(name, problem, start, target, dtype="float32"):
    """`jaxopt.LBFGS` with its zoom line search, jitted as a whole. Arguments as those of `optax_lbfgs`."""
    import jax
    import jaxopt

    fun, weights = _in_jax(name, problem, start, dtype)
    solver = jaxopt.LBFGS(fun, maxiter=MOST, history_size=MEMORY, tol=0.0, linesearch="zoom")

    @jax.jit
    def solve(weights):
        return jax.lax.while_loop(
            lambda carry: (carry[1].iter_num < MOST) & ~(carry[1].value <= target),
            lambda carry: tuple(solver.update(*carry)),
            (weights, solver.init_state(weights)),
        )

    def timed():
        begin = time.perf_counter()
        _, state = jax.block_until_ready(solve(weights))
        return time.perf_counter() - begin if float(state.value) <= target else np.nan

    return timed


def _in_jax(name, problem, start, dtype):
    """The objective of a list of arrays, and the first list."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", dtype == "float64")
    x = jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype.kind == "f" else "int32"), problem.x)
    fun = OBJECTIVES[name](jnp, jax.nn.log_softmax, x, jnp.asarray(problem.y, dtype))
    return fun, [jnp.asarray(weight, dtype) for weight in start]


def scipy_by_hand(problem, target, dtype="float32", jit_compile=False):
    """`scipy.optimize.minimize` around a hand-written `tf.function`."""
    objective, start = _by_hand(problem, dtype, jit_compile)

    def fun(x):
        loss, gradient = objective(tf.constant(x))
        if float(loss) <= target:
            raise _TargetReachedError
        return float(loss), gradient.numpy()

    def timed():
        begin = time.perf_counter()
        try:
            options = {"maxiter": MOST, "ftol": 0, "gtol": 0}
            scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
        except _TargetReachedError:
            return time.perf_counter() - begin
        return np.nan

    return timed


def tfp_lbfgs(problem, target, dtype="float32", jit_compile=False):
    """`tfp.optimizer.lbfgs_minimize` on the hand-written `tf.function`, looked at every five iterations."""
    import tensorflow_probability as tfp

    objective, start = _by_hand(problem, dtype, jit_compile)
    never = dict.fromkeys(("tolerance", "x_tolerance", "f_relative_tolerance", "f_absolute_tolerance"), -1.0)

    @tf.function
    def go_on(results):
        most = results.num_iterations + 5
        return tfp.optimizer.lbfgs_minimize(
            objective, None, results, num_correction_pairs=MEMORY, max_iterations=most, **never
        )

    def timed():
        begin = time.perf_counter()
        results = tfp.optimizer.lbfgs_minimize(
            objective, tf.constant(start), num_correction_pairs=MEMORY, max_iterations=0, **never
        )
        while int(results.num_iterations) < MOST and not bool(results.failed):
            results = go_on(results)
            if float(results.objective_value) <= target:
                return time.perf_counter() - begin
        return np.nan

    return timed


def torch_lbfgs(name, problem, start, target, dtype="float32"):
    """`torch.optim.LBFGS`, in a process of its own: torch and TensorFlow crash in one. `None` without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    folder = tempfile.mkdtemp()
    columns = problem.x if isinstance(problem.x, list) else [problem.x]
    arrays = {f"x{i}": column for i, column in enumerate(columns)} | {f"w{i}": each for i, each in enumerate(start)}
    np.savez(f"{folder}/problem.npz", y=problem.y, **arrays)
    command = [sys.executable, "-m", "benchmarks.torch_rival", f"{folder}/problem.npz", name, str(target), dtype]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def timed():
        process.stdin.write("go\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return timed


def _by_hand(problem, dtype, jit_compile):
    """The hand-written objective, and where it starts."""
    keras.utils.set_random_seed(0)
    start = np.concatenate([np.ravel(weight) for weight in problem.build().get_weights()]).astype("float64")
    keras.config.set_dtype_policy(dtype)
    model = problem.build()
    keras.config.set_dtype_policy("float32")
    chunk = len(problem.y) if jit_compile else problem.chunks[len(problem.chunks) // 2]
    return by_hand(model, problem, chunk, dtype, jit_compile), start
