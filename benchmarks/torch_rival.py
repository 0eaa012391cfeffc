"""`torch.optim.LBFGS` with the strong Wolfe conditions: solves once for every line of its input, and prints seconds.

python -m benchmarks.torch_rival PROBLEM.npz NAME TARGET DTYPE
"""

import sys
import time

import numpy as np
import torch

from benchmarks.hand_written import MEMORY, MOST, OBJECTIVES


class TargetReachedError(Exception):
    """The loss is low enough."""


def main(path, name, target, dtype):
    """Reads the problem, then solves it over and over."""

    def tensor(a):
        return torch.tensor(a, dtype=getattr(torch, dtype) if a.dtype.kind == "f" else torch.int64)

    arrays = {key: tensor(array) for key, array in np.load(path).items()}
    columns = [arrays[key] for key in sorted(arrays) if key.startswith("x")]
    start = [arrays[key] for key in sorted(arrays) if key.startswith("w")]
    log_softmax = torch.nn.functional.log_softmax
    x = columns if len(columns) > 1 else columns[0]
    fun = OBJECTIVES[name](torch, lambda z: log_softmax(z, dim=1), x, arrays["y"])
    for _ in sys.stdin:
        print(solve(fun, [weight.clone().requires_grad_() for weight in start], float(target)), flush=True)


def solve(fun, weights, target):
    """Seconds to the target, NaN if it is not reached."""
    solver = torch.optim.LBFGS(
        weights,
        max_iter=MOST,
        max_eval=10 * MOST,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure():
        solver.zero_grad()
        loss = fun(weights)
        if float(loss) <= target:
            raise TargetReachedError
        loss.backward()
        return loss

    begin = time.perf_counter()
    try:
        solver.step(closure)
    except TargetReachedError:
        return time.perf_counter() - begin
    return float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
