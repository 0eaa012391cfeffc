"""What type checkers find in programs of users, by mypy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRONG = {
    'kormos_opt.LBFGS(memory="ten")': 'Argument "memory" to "LBFGS"',
    'kormos_opt.LBFGS(precision="float32")': 'Argument "precision" to "LBFGS"',
    "kormos_opt.LBFGS(iteration_per_epoch=3)": 'Unexpected keyword argument "iteration_per_epoch"',
    'kormos_opt.LBFGS(engine="gpu")': 'Argument "engine" to "LBFGS"',
    "kormos_opt.SLSQP(memory=3)": 'Unexpected keyword argument "memory"',
    'kormos_opt.NewtonCG(cache="never")': 'Argument "cache" to "NewtonCG"',
    'kormos_opt.ScipyBatchOptimizer(iterations_per_epoch="2")': 'Argument "iterations_per_epoch"',
    'kormos_opt.TrustConstr(tol="small")': 'Argument "tol" to "TrustConstr"',
}
RIGHT = [
    'kormos_opt.LBFGS(memory=4, engine="tfp", batch_size="auto", cache=False, bounds=[(0, 1), (None, 2)])',
    'kormos_opt.TNC(bounds={"kernel": (0, None)}, options={"ftol": 1e-9}, tol=1e-3, name="x", precision="float64")',
    'kormos_opt.ScipyBatchOptimizer(method=["cg", "newton-cg"], epochs=[3, 4], tol=[None, 1e-3])',
]


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy says, by line of a program with all calls."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "program.py").write_text("\n".join(["import kormos_opt", *WRONG, *RIGHT]))
    arguments = ["--ignore-missing-imports", "--follow-imports=silent", "--no-site-packages", "--hide-error-context"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, "program.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    lines = [
        line.split(":", 2) for line in run.stdout.splitlines() if "error" in line and line.startswith("program.py")
    ]
    return {int(number): message for _, number, message in lines}


@pytest.mark.parametrize("call", WRONG)
def test_wrong_arguments_are_found(call, checked):
    assert WRONG[call] in checked[2 + list(WRONG).index(call)]


@pytest.mark.parametrize("call", RIGHT)
def test_right_arguments_are_taken(call, checked):
    assert 2 + len(WRONG) + RIGHT.index(call) not in checked
