"""The pages: their programs run, their links lead somewhere, and every public name has its place."""

import inspect
import logging
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

import kormos_opt
from tests.support.problems import linear, regression

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts and "generated" not in page.parts)
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def programs(page):
    """Each block of Python with the lines before it, so that an error names its line."""
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield "\n" * (text[: block.start()].count("\n") + 1) + block[1]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.fixture
def names(monkeypatch, tmp_path):
    """What a page may take as given: some data and a model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    before = keras.config.floatx(), keras.config.dtype_policy()
    level = logging.getLogger("kormos_opt").level
    x, y = regression()
    model = linear()
    model.compile(optimizer=kormos_opt.LBFGS(), loss="mse")
    yield {"keras": keras, "kormos_opt": kormos_opt, "np": np, "tf": tf, "x": x, "y": y, "model": model}
    logging.getLogger("kormos_opt").setLevel(level)
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.fixture
def retracing(monkeypatch):
    """What TensorFlow says of functions that are traced again and again, counted from here as in a new process."""
    monkeypatch.setattr(
        polymorphic_function,
        "_frequent_tracing_detector_manager",
        polymorphic_function._FrequentTracingDetectorManager(),
    )
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage()) if "retracing" in record.getMessage() else None
    logger = logging.getLogger("tensorflow")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


@pytest.mark.slow_cases(
    "docs/chains.md", "docs/coming_from/tfp.md", "docs/coming_from/torch.md", "docs/fast.md", "docs/physics_informed.md"
)
@pytest.mark.parametrize("page", [page for page in PAGES if any(programs(page))], ids=named)
def test_programs_run(page, names, retracing):
    for program in programs(page):
        exec(compile(program, str(page), "exec"), names)
    assert not retracing


def anchors(page):
    """Of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.quick
@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        target = page.parent / link
        path, _, anchor = str(target).partition("#")
        if "/gallery/" in path:  # made by the build, from the example of that name
            path = str(ROOT / "examples" / Path(path).with_suffix(".py").name)
            path = path.replace("index.py", "GALLERY_HEADER.rst")
        path = Path(path or page)
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.quick
@pytest.mark.parametrize("path", [*TEXTS, ROOT / "pyproject.toml", DOCS / "conf.py"], ids=named)
def test_no_address_of_the_project_is_invented(path):
    """The project has no public home yet: nothing may name one."""
    assert not re.search(r"(github\.com|githubusercontent\.com|github\.io)/\S*kormos[-_]opt", path.read_text())


@pytest.mark.quick
def test_every_public_name_has_a_place():
    pages = " ".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^   (kormos_opt\.[\w.]+)$", pages, flags=re.MULTILINE))
    modules = {"kormos_opt": kormos_opt, "kormos_opt.solvers": kormos_opt.solvers}
    public = {f"{path}.{name}" for path, module in modules.items() for name in module.__all__}
    for name in ("callbacks", "until", "models"):
        members = inspect.getmembers(getattr(kormos_opt, name))
        own = {each for each, member in members if getattr(member, "__module__", "") == f"kormos_opt.{name}"}
        public |= {f"kormos_opt.{name}.{each}" for each in own if not each.startswith("_")}
    unlisted = {name for name in public - listed if not inspect.ismodule(_object(name))}
    assert unlisted == {"kormos_opt.solvers.Request", "kormos_opt.solvers.Solver"}  # types for annotations
    for name in listed:
        assert _object(name).__doc__, name


def _object(path):
    """What a dotted name means."""
    found = kormos_opt
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    return found


@pytest.mark.quick
def test_every_example_has_its_picture():
    for example in (ROOT / "examples").glob("*.py"):
        if example.stem in ("__init__", "data", "physics"):
            continue
        picture = re.search(r"^\.\. image:: /(\S+)$", example.read_text(), flags=re.MULTILINE)
        assert picture, example
        assert (DOCS / picture[1]).exists(), picture[1]


@pytest.mark.quick
def test_every_row_of_the_comparison_has_its_tests():
    rows = re.findall(r"^\|.*\| `(test_\w+\.py)` \|$", (DOCS / "compared.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 20
    assert not [name for name in rows if not list((ROOT / "tests").rglob(name))]
