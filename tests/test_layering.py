"""Who may know whom: over everything that an import of a module brings in, not only over its own lines."""

import re

import pytest

from tests.imports import Imports

pytestmark = pytest.mark.quick

IMPORTS = Imports()

# What a folder may bring in of ours, beside itself, and which packages of others its own files import.
FOLDERS = {
    "inference": (
        {
            *[
                "optimizers",
                "training",
                "stages",
                "objective",
                "data",
                "solvers",
                "graph_solvers",
                "keras_internals",
                "root",
            ]
        },
        {"keras", "numpy", "pandas", "rich", "scipy"},
    ),
    "optimizers": (
        {"training", "stages", "objective", "data", "solvers", "graph_solvers", "keras_internals", "root"},
        {"keras", "numpy", "scipy", "tensorflow", "typing_extensions"},
    ),
    "training": (
        {"stages", "objective", "data", "solvers", "graph_solvers", "keras_internals", "root"},
        {"keras", "numpy", "scipy", "tensorflow", "threadpoolctl"},
    ),
    "stages": ({"solvers", "graph_solvers"}, {"keras", "numpy", "psutil", "scipy", "typing_extensions"}),
    "objective": ({"data", "keras_internals", "root"}, {"keras", "ml_dtypes", "numpy", "tensorflow"}),
    "data": ({"keras_internals", "root"}, {"keras", "numpy", "tensorflow"}),
    "graph_solvers": ({"solvers"}, {"keras", "numpy", "tensorflow", "tensorflow_probability"}),
    "solvers": (set(), {"numpy", "scipy"}),
    "keras_internals": (set(), {"keras", "numpy", "tensorflow"}),
}
# What a root module may bring in. They are below all folders, but the models of kormos, which are above.
ROOT = {
    "kormos_opt.callbacks": (set(), {"keras", "numpy"}),
    "kormos_opt.evaluation": (set(), {"numpy"}),
    "kormos_opt.fit_result": (set(), {"numpy", "rich", "scipy"}),
    "kormos_opt.plotting": (set(), {"keras", "matplotlib", "numpy"}),
    "kormos_opt.memory_limits": (set(), {"psutil", "tensorflow"}),
    "kormos_opt.until": (set(), {"keras", "numpy"}),
    "kormos_opt.models": ({*FOLDERS, "root"}, {"keras", "numpy"}),
}
FLOORS = 10  # of imports at most, with the package itself on top


def folder(module):
    """The folder of a module, "root" for the modules beside the folders."""
    name = module.split(".")[1] if "." in module else ""
    return name if name in FOLDERS else "root"


def may_know(module):
    """What a module may bring in: folders of ours, packages of others."""
    return ROOT[module] if module in ROOT else FOLDERS[folder(module)]


@pytest.mark.parametrize("module", sorted(IMPORTS.files.keys() - {"kormos_opt"}))
def test_no_import_goes_upwards(module):
    brought = {folder(each) for each in IMPORTS.closure(module) if folder(each) != folder(module)}
    ours, others = may_know(module)
    assert brought <= ours
    assert IMPORTS.of_others(module) <= others


@pytest.mark.parametrize("module", sorted(each for each in IMPORTS.files if folder(each) == "graph_solvers"))
def test_solvers_in_the_graph_know_no_scipy(module):
    assert not any("scipy" in IMPORTS.of_others(each) for each in IMPORTS.closure(module))


def test_the_floors_of_the_house():
    assert IMPORTS.floor("kormos_opt") <= FLOORS


def test_private_names_of_the_hosts_stay_in_one_folder():
    private = r"keras\.src|tensorflow\.python|tensorflow\.compiler"
    users = {module for module, path in IMPORTS.files.items() if re.search(private, path.read_text())}
    assert {folder(module) for module in users} == {"keras_internals"}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_says_what_it_owns(name):
    path = IMPORTS.files[f"kormos_opt.{name}"]
    assert path.read_text().startswith('"""')
