"""Physics-informed networks: how accurate each solver becomes, on a grid that no point of the training lies on.

    python -m benchmarks.pinn [--only burgers,poisson,allen-cahn,inverse,solvers,arithmetic,deepxde] [--seeds 3]

The problems are those of `examples/`. All solvers of one table start from the weights that Adam leaves. The table of
deepxde needs `pip install deepxde torch`.
"""

import argparse
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import threadpoolctl

from benchmarks import measured
from benchmarks.engines import solver_alone
from examples import allen_cahn, burgers, inverse_burgers, physics, poisson
from kormos_opt.solvers.self_scaled import broyden, minimize


def main():
    """Trains, and prints the tables asked for as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TABLES), help="tables, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="of each solver in the table of solvers")
    parser.add_argument("--solvers", default=",".join(physics.SOLVERS), help="in the table of solvers")
    parser.add_argument("--picture", default="pinn.png", help="of the table of solvers")
    arguments = parser.parse_args()
    physics.double_precision()
    for name in arguments.only.split(","):
        table = pd.DataFrame(TABLES[name](arguments))
        measured.record("pinn", name, table)
        print(f"\n{name}\n\n{table.to_markdown(index=False, floatfmt='.3g')}\n", flush=True)


def over_seeds(arguments, make, points, errors, budgets):
    """SSBroyden for several seeds: the error and the seconds after so many evaluations, the median and the worst."""
    rows = []
    for seed in range(arguments.seeds):
        made = points(seed)
        limits = {"iterations": 10**6, "evaluations": budgets[-1], "adam": 500}
        history, _ = physics.solve(physics.seeded(make, seed), made, "ss-broyden", errors, **limits)
        rows += [{"seed": seed} | after(history, budget) for budget in budgets]
    for budget in budgets:
        found = [row["relative error"] for row in rows if row["evaluations at most"] == budget]
        rows.append({"seed": "median", "evaluations at most": budget, "relative error": np.median(found)})
        rows.append({"seed": "worst", "evaluations at most": budget, "relative error": np.max(found)})
    return rows


def after(history, budget):
    """The last row of a history within so many evaluations."""
    last = np.searchsorted(history["fg_evals"], budget, side="right") - 1
    return {
        "evaluations at most": budget,
        "relative error": history["error"][last],
        "loss": history["loss"][last],
        "seconds": history["seconds"][last],
    }


def burgers_table(arguments):
    """Burgers' equation within 3,000 and 11,000 evaluations."""
    points = functools.partial(burgers.collocation_points, 4000)
    make = functools.partial(burgers.Burgers, units=30)
    return over_seeds(arguments, make, points, burgers.errors, [3000, 11_000])


def poisson_table(arguments):
    """Poisson's equation within 2,000 evaluations."""

    def points(seed):
        return np.random.default_rng(seed).uniform(0, 1, (2000, 2))

    return over_seeds(arguments, poisson.Poisson, points, poisson.errors, [2000])


def allen_cahn_table(arguments):
    """The Allen-Cahn equation with new points every 500 iterations, for 10,000 evaluations or 20 minutes at most."""
    points = allen_cahn.candidates(np.random.default_rng(0), 5000)
    model = physics.seeded(allen_cahn.AllenCahn, 0)
    resampling = allen_cahn.resampling(every=500, count=50_000)
    limits = {"seconds": 1200, "evaluations": 10_000, "callbacks": [resampling], "adam": 500}
    history, _ = physics.solve(model, points, "ss-broyden", allen_cahn.errors, 10**6, **limits)
    return [after(history, budget) for budget in (2000, 4000, 10_000)]


def inverse_table(arguments):
    """The viscosity of Burgers' equation from 500 measurements without noise: its relative error."""
    places, values = inverse_burgers.measure(500, 0.0, 0)

    def make():
        return inverse_burgers.InverseBurgers(places, values)

    points = functools.partial(burgers.collocation_points, 2500)
    return over_seeds(arguments, make, points, inverse_burgers.errors, [2000, 5000])


def solvers_table(arguments):
    """All solvers on Burgers' equation, from the same weights, on the same points, for the same time."""
    flags = physics.parser("", rows=2500).parse_args([])
    flags.solvers, flags.seconds, flags.iterations = arguments.solvers, arguments.seconds, 10**6
    points = burgers.collocation_points(flags.rows, flags.seed)
    histories, model = physics.compare(burgers.Burgers, points, burgers.errors, flags)
    burgers.draw(arguments.picture, histories, model)
    return [
        {
            "solver": solver,
            "evaluations": history["fg_evals"][-1],
            "products": history["hessp_evals"][-1],
            "loss": history["loss"][-1],
            "relative error": history["error"][-1],
            "seconds": history["seconds"][-1],
        }
        for solver, history in histories.items()
    ]


def deepxde_table(arguments):
    """deepxde on its own Burgers example, in a process of its own: two packages would share the threads."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.npz"
        np.savez(grid, points=burgers.POINTS, solution=burgers.SOLUTION)
        command = [sys.executable, "-m", "benchmarks.deepxde_rival", str(grid), "--lbfgs", "3000"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.split() for line in run.stdout.splitlines() if line.startswith("deepxde "))
    return [
        {"by": f"deepxde, {stage}", "relative error": float(error), "seconds": float(seconds)}
        for stage, (_, error, seconds) in zip(("Adam", "then L-BFGS"), lines, strict=True)
    ]


def arithmetic_table(arguments, iterations=200):
    """What an iteration of SSBroyden takes beside the evaluations, on one core, for a quadratic."""
    rows = []
    for size in (921, 3021):
        with threadpoolctl.threadpool_limits(1, "blas"):
            alone = solver_alone(minimize(broyden, np.ones(size)), np.logspace(0, 3, size), iterations, iterations)
        rows.append({"weights": size, "ms an iteration": alone})
    return rows


TABLES = {
    "burgers": burgers_table,
    "poisson": poisson_table,
    "allen-cahn": allen_cahn_table,
    "inverse": inverse_table,
    "solvers": solvers_table,
    "arithmetic": arithmetic_table,
    "deepxde": deepxde_table,
}

if __name__ == "__main__":
    main()
