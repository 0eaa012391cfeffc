"""What fits into this machine's memory."""

import psutil

from kormos_opt.solvers.scipy_methods import Method


def half_of_all() -> float:
    """Half of the machine's memory in bytes: what training data may take."""
    return psutil.virtual_memory().total / 2


def eighth_of_all() -> float:
    """An eighth of the machine's memory in bytes: what the intermediate results of a chunk may take."""
    return psutil.virtual_memory().total / 8


def check_matrices(method: Method, size: int, constrained: bool) -> None:
    """Raises `MemoryError` if the n x n matrices of a method take more than half of the free memory.

    Args:
        method: The method.
        size: n, the number of weights.
        constrained: Whether there are constraints.
    """
    one = 8 * size**2
    estimate = one * (method.constrained_matrices if constrained else method.matrices)
    free = psutil.virtual_memory().available
    if estimate > free / 2:
        raise MemoryError(
            f"Expected a method whose memory fits into half of the {free / 2**30:.1f} GiB that are free here. "
            f"Received: {method.name} for {size:,} weights, which holds matrices of {size:,} x {size:,} numbers: "
            f"{one / 2**30:.1f} GiB each, about {estimate / 2**30:.1f} GiB in all. "
            f"Use {method.instead}, or freeze layers."
        )
