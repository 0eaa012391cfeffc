"""The public surface: names, docstrings, a quiet and light import, one version."""

import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import kormos_opt

ROOT = Path(kormos_opt.__file__).parent


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
            assert member.__doc__, f"{module.name}.{name}"
            methods = inspect.getmembers(member, inspect.isfunction) if inspect.isclass(member) else []
            for method, function in methods:
                if not method.startswith("_") and function.__module__ == module.name:
                    is_new = not any(hasattr(base, method) for base in member.__mro__[1:])
                    assert function.__doc__ or not is_new, f"{module.name}.{name}.{method}"


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
