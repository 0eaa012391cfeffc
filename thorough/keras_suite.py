"""A pytest plugin: Keras's own tests of its trainer and callbacks, with our hook loaded.

Our methods stand in front of those of `keras.Model`. Models with other optimizers must not notice.
"""

import importlib.util
import re
import sys
import types

import keras  # noqa: F401  sets the backend
import pytest

import kormos_opt  # noqa: F401  installs the hook

_STUBS = [] if importlib.util.find_spec("jax") else ["jax"]
for name in _STUBS:
    sys.modules[name] = types.ModuleType(name)  # the tests import it, and use it for some inputs only

# The tests that need another package, by a regular expression for their name. They are the only exceptions.
NEED = {r"_sparse_jax_": "jax", r"_grain_": "grain", r"_torch_": "torch"}


def pytest_collection_modifyitems(items):
    for item in items:
        for name, package in NEED.items():
            if re.search(name, item.nodeid) and _is_missing(package):
                item.add_marker(pytest.mark.skip(reason=f"needs {package}"))


def _is_missing(package):
    return package in _STUBS or importlib.util.find_spec(package) is None
