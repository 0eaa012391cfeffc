"""The wheel, installed in a new folder; what the page of the package shows; versions that agree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"


def address(name):
    """An address of the project. Python 3.10 has no `tomllib`."""
    lines = PROJECT.read_text().split("[project.urls]")[1].split("\n[")[0]
    return re.search(rf'^{name} = "(.*)"$', lines, re.MULTILINE).group(1)


FIT = """
import keras, kormos_opt, numpy as np, pkgutil, sys
assert kormos_opt.__file__.startswith(sys.argv[1]), kormos_opt.__file__
names = [module.name for module in pkgutil.walk_packages(kormos_opt.__path__, "kormos_opt.")]
for name in names:
    __import__(name)
x = np.linspace(-1, 1, 50)[:, None]
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile(optimizer=kormos_opt.LBFGS(), loss="mse")
model.fit(x, 2 * x + 1, epochs=20, verbose=0)
print(len(names), model.evaluate(x, 2 * x + 1, verbose=0) < 1e-6)
"""


def test_the_wheel_installs_in_a_new_folder_and_fits(tmp_path):
    source, wheels, installed = tmp_path / "source", tmp_path / "wheels", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "kormos_opt", source / "kormos_opt", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(installed), str(wheel)], check=True)
    run = subprocess.run(
        [sys.executable, "-c", FIT, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    modules = len(list((ROOT / "kormos_opt").rglob("*.py"))) - 1  # the package itself is no module of its own
    assert run.stdout.split() == [str(modules), "True"]
    assert (installed / "kormos_opt" / "py.typed").exists()


def test_pictures_of_the_readme_are_there_wherever_it_is_shown():
    """The page of the package index has no folder `docs` beside it."""
    raw = address("Source").replace("github.com", "raw.githubusercontent.com") + "/main/"
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert pictures
    for picture in pictures:
        assert picture.startswith(raw)
        assert (ROOT / picture.removeprefix(raw)).exists()


def test_links_of_the_readme_are_whole():
    links = re.findall(r"[^!]\[[^]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert links and all(link.startswith("https://") for link in links)


@pytest.mark.parametrize("name", ["Homepage", "Source", "Documentation", "Changelog", "Issues"])
def test_the_project_says_where_it_lives(name):
    assert address(name).startswith("https://")
