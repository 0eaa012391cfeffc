"""The public surface: names, docstrings, a quiet and light import, one version, one direction of flow."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kormos_opt

ROOT = Path(kormos_opt.__file__).parent
MODULES = {path.stem: path for path in ROOT.rglob("*.py")}

# Who may import whom: a module imports only those to its right, through any number of steps.
FLOW = [
    "models",
    "optimizers",
    "methods",
    "batch_optimizer",
    "unknown_arguments",
    "flat_objective",
    "train_function",
    "advice",
    "sign_of_life",
    "chain",
    "stages",
    "bounds",
    "constraints",
    "solver_run",
    "objective",
    "outside_variables",
    "starting_point",
    "full_pass",
    "precision",
    "full_batch",
    "memory",
    "flat_parameters",
    "keras_hook",
]
THIRD_PARTY = {
    "scipy_thread": {"numpy", "scipy"},
    "fixed_weights": {"numpy", "scipy"},
    "scipy_options": {"numpy", "scipy"},
    "sign_of_life": set(),
    "unknown_arguments": set(),
    "safeguards": {"numpy", "scipy"},
    "base": {"numpy", "scipy"},
    "solver_run": {"numpy", "scipy", "threadpoolctl"},
    "train_step": {"keras"},
    "scipy_methods": set(),
    "scipy_messages": set(),
    "stages": {"keras", "numpy"},
    "chain": {"scipy"},
    "batch_optimizer": {"keras", "numpy", "scipy", "typing_extensions"},
}


def imports(module):
    """Names of what a module imports: of this package by module, of others by package."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_all_is_what_is_there():
    assert len(set(kormos_opt.__all__)) == len(kormos_opt.__all__)
    for name in kormos_opt.__all__:
        assert hasattr(kormos_opt, name)


def test_everything_public_is_documented():
    for module in pkgutil.walk_packages([str(ROOT)], "kormos_opt."):
        loaded = __import__(module.name, fromlist=["_"])
        assert loaded.__doc__, module.name
        for name, member in inspect.getmembers(loaded):
            if name.startswith("_") or getattr(member, "__module__", None) != module.name:
                continue
            assert inspect.getdoc(member), f"{module.name}.{name}"
            methods = inspect.getmembers(member, inspect.isfunction) if inspect.isclass(member) else []
            for method, function in methods:
                if not method.startswith("_") and function.__module__ == module.name:
                    assert inspect.getdoc(function), f"{module.name}.{name}.{method}"


def test_import_is_quiet_and_light():
    code = (
        "import sys, keras, contextlib, io\n"
        "heavy = {'tensorflow_probability', 'tf_keras', 'pandas', 'matplotlib'} - set(sys.modules)\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):\n    import kormos_opt\n"
        "print(repr(out.getvalue()), heavy & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "'' set()"


def test_version_is_in_the_changelog():
    changelog = (ROOT.parent / "CHANGELOG.md").read_text()
    assert f"## {kormos_opt.__version__}" in changelog


@pytest.mark.parametrize("module", FLOW)
def test_one_direction_of_flow(module):
    later = FLOW[FLOW.index(module) :]
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("kormos_opt.")}
    assert ours & set(FLOW) <= set(later) - {module}


@pytest.mark.parametrize("module", THIRD_PARTY)
def test_third_parties_stay_in_their_files(module):
    outside = {name.split(".")[0] for name in imports(module)} - set(sys.stdlib_module_names) - {"kormos_opt"}
    assert outside <= THIRD_PARTY[module]


_PRIVATE = r"keras\.src|tensorflow\.python|tensorflow\.compiler"


def test_the_inner_surface_of_keras_is_touched_in_two_files():
    users = {name for name, path in MODULES.items() if re.search(_PRIVATE, path.read_text())}
    assert users == {"keras_hook", "xla_gradients"}
