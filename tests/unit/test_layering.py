"""Who may know whom: over everything that an import of a module brings in, not only over its own lines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import FLOORS, Imports

pytestmark = pytest.mark.quick

IMPORTS = Imports()

# Which packages of others the files of a folder import.
OTHERS = {
    "the package": {"keras", "matplotlib", "numpy"},
    "integration": {"keras", "numpy", "tensorflow"},
    "optimizers": {"keras", "numpy", "scipy", "typing_extensions"},
    "training": {"keras", "numpy", "rich", "scipy", "tensorflow"},
    "training.runs": {"keras", "numpy", "scipy", "tensorflow"},
    "inference": {"keras", "numpy", "pandas", "rich", "scipy"},
    "stages": {"keras", "numpy", "psutil", "scipy", "typing_extensions"},
    "objective": {"keras", "ml_dtypes", "numpy", "tensorflow"},
    "graph_solvers": {"keras", "numpy", "tensorflow", "tensorflow_probability"},
    "data": {"keras", "numpy", "psutil", "tensorflow"},
    "solvers": {"numpy", "scipy", "threadpoolctl"},
    "keras_internals": {"keras", "numpy", "tensorflow"},
}


def test_no_import_goes_upwards():
    assert not list(IMPORTS.upwards())


def test_no_circles():
    assert not list(IMPORTS.circles())


@pytest.mark.parametrize("name", [name for floor in FLOORS for name in floor])
def test_a_folder_imports_few_packages_of_others(name):
    files = [module for module in IMPORTS.files if IMPORTS.folder(module) == name]
    assert set().union(*map(IMPORTS.of_others, files)) <= OTHERS[name]


@pytest.mark.parametrize("module", sorted(each for each in IMPORTS.files if IMPORTS.folder(each) == "graph_solvers"))
def test_solvers_in_the_graph_know_no_scipy(module):
    assert not any("scipy" in IMPORTS.of_others(each) for each in IMPORTS.closure(module))


def test_private_names_of_the_hosts_stay_in_one_folder():
    private = r"keras\.src|tensorflow\.python|tensorflow\.compiler"
    users = {module for module, path in IMPORTS.files.items() if re.search(private, path.read_text())}
    assert {IMPORTS.folder(module) for module in users} == {"keras_internals"}


@pytest.mark.parametrize("name", [name for floor in FLOORS[1:] for name in floor])
def test_a_folder_says_what_it_owns(name):
    path = IMPORTS.files[f"kormos_opt.{name}"]
    assert path.read_text().startswith('"""')


def walks():
    """The files of each walk through the code in docs/how_it_works.md."""
    text = (Path(__file__).parents[2] / "docs" / "how_it_works.md").read_text()
    text = text[text.index("Three walks") : text.index("Where the code is not")]
    blocks = re.findall(r"(?:^    [a-z_/]+\.py .*\n)+", text, flags=re.MULTILINE)
    return [re.findall(r"^    ([a-z_/]+)\.py", block, flags=re.MULTILINE) for block in blocks]


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk[0])
def test_a_walk_goes_down(walk):
    """Every file is there and comes once, and its floor is not above that of the file before."""
    modules = [f"kormos_opt.{path.replace('/', '.')}" for path in walk]
    floors = [IMPORTS.floor(module) for module in modules if module in IMPORTS.files]
    assert len(floors) == len(walk) == len(set(walk)) > 4
    assert floors == sorted(floors)


def test_there_are_three_walks():
    assert len(walks()) == 3


WRONG = {
    "solvers/rule.py": "from kormos_opt.training import fit\n",  # upwards
    "training/fit.py": "from kormos_opt.training import other\n",
    "training/other.py": "if TYPE_CHECKING:\n    from kormos_opt.training import fit\n",  # a circle, for types alone
}


@pytest.mark.parametrize(("files", "status"), [(WRONG, 1), ({"solvers/rule.py": "import numpy\n"}, 0)])
def test_the_command_fails_where_an_import_is_wrong(files, status, tmp_path):
    for name, text in files.items():
        path = tmp_path / "kormos_opt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-m", "tests.imports", str(tmp_path / "kormos_opt")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == status
    assert ("upwards: kormos_opt.solvers.rule brings in kormos_opt.training.fit" in run.stdout) == bool(status)
    assert ("circle: kormos_opt.training.fit, kormos_opt.training.other" in run.stdout) == bool(status)
