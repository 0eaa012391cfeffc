"""What `make test` leaves out: a case that repeats a promise for one more method, layer, loss or data set.

It is marked where it stands, `@pytest.mark.slow` for a whole test and `@pytest.mark.slow_cases("TNC", "*-chunked")` for
some of its cases, by patterns of `fnmatch` on their ids. A new case is run unless it is marked. `pytest --thorough`
leaves nothing out.
"""

from fnmatch import fnmatchcase

import pytest

# Of the generated docstrings of the optimizers, one of each kind of derivatives is run.
_GENERATED = "kormos_opt/optimizers/methods.py::", "kormos_opt/optimizers/self_scaled.py::"
_DOCTESTS = ".NelderMead", ".BFGS", ".NewtonCG", ".Dogleg", ".SSBroyden"


def is_slow(item: pytest.Item) -> bool:
    """Whether a test, or this case of it, is marked as slow."""
    if item.nodeid.startswith(_GENERATED):
        return not item.nodeid.endswith(_DOCTESTS)
    if item.get_closest_marker("slow") is not None:
        return True
    case = item.callspec.id if hasattr(item, "callspec") else ""
    return any(matches(case, mark.args) for mark in item.iter_markers("slow_cases"))


def matches(case: str, patterns: tuple[str, ...]) -> bool:
    """Whether a case is one of those that these patterns name."""
    return any(fnmatchcase(case, pattern) for pattern in patterns)
