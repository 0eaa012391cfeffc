"""The wheel, installed in a new folder; what the page of the package index shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
    for name in (
        "pyproject.toml",
        "setup.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "MANIFEST.in",
    ):
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


METADATA = "import setuptools.build_meta, sys; setuptools.build_meta.prepare_metadata_for_build_wheel(sys.argv[1])"


def metadata(folder, **variables):
    """What the package index is told, built with these environment variables."""
    source, built = folder / "source", folder / "built"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "kormos_opt").mkdir()
    shutil.copy(ROOT / "kormos_opt" / "__init__.py", source / "kormos_opt")
    built.mkdir()
    run = [sys.executable, "-c", METADATA, str(built)]
    subprocess.run(run, cwd=source, env={**os.environ, **variables}, check=True, capture_output=True)
    (path,) = built.glob("*/METADATA")
    return path.read_text()


def test_without_an_address_the_package_names_none(tmp_path):
    text = metadata(tmp_path)
    assert "Project-URL" not in text
    assert "](docs/start.md)" in text


def test_with_an_address_all_links_of_the_readme_are_absolute(tmp_path):
    """The page of the package index has no folder `docs` beside it."""
    home = "https://example.org/some/repository"
    text = metadata(tmp_path, PROJECT_ADDRESS=home)
    assert f"Project-URL: Source, {home}" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 20
    for link in links:
        place, _, path = link.partition("/main/")
        assert place in (f"{home}/blob", f"{home}/raw")
        assert (place == f"{home}/raw") == path.endswith(".png")
        assert (ROOT / path).exists()
