"""The memory that methods with n x n matrices need, checked before any work."""

import psutil

from kormos_opt.solvers.registry import Method


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
