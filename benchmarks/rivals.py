"""The same problems by other means: optax's L-BFGS in JAX, jitted as a whole."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax


def optax_lbfgs(name, problem, start, target, most=1000):
    """Minimizes with `optax.lbfgs` until the loss is at most `target`.

    Args:
        name: Name of the problem in `benchmarks.problems.PROBLEMS`.
        problem: The problem.
        start: The model's initial weights, a list of arrays.
        target: The loss to reach.
        most: Iterations after which it gives up.

    Returns:
        A function that solves and returns the seconds it took, or NaN if it gave up.
    """
    x = jax.tree.map(jnp.asarray, problem.x)
    y = jnp.asarray(problem.y, "float32")
    fun = _OBJECTIVES[name](x, y)
    solver = optax.lbfgs(memory_size=10)
    value_and_gradient = optax.value_and_grad_from_state(fun)

    def go_on(carry):
        _, state, iteration = carry
        return (iteration < most) & ~(optax.tree.get(state, "value") <= target)

    def step(carry):
        weights, state, iteration = carry
        value, gradient = value_and_gradient(weights, state=state)
        updates, state = solver.update(gradient, state, weights, value=value, grad=gradient, value_fn=fun)
        return optax.apply_updates(weights, updates), state, iteration + 1

    @jax.jit
    def solve(weights):
        return jax.lax.while_loop(go_on, step, (weights, solver.init(weights), 0))

    weights = [jnp.asarray(weight) for weight in start]

    def timed():
        begin = time.perf_counter()
        _, state, _ = jax.block_until_ready(solve(weights))
        seconds = time.perf_counter() - begin
        return seconds if float(optax.tree.get(state, "value")) <= target else np.nan

    return timed


def _softmax(x, y):
    def fun(weights):
        kernel, bias = weights
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(x @ kernel + bias), axis=1))

    return fun


def _factorization(x, y):
    users, items = (ids[:, 0] for ids in x)

    def fun(weights):
        user, item = weights
        error = jnp.sum(user[users] * item[items], axis=1) - y[:, 0]
        return jnp.mean(error**2) + 1e-5 * (jnp.sum(user**2) + jnp.sum(item**2))

    return fun


_OBJECTIVES = {"softmax regression 60000x784x10": _softmax, "factorization, 90752 ratings": _factorization}
