"""deepxde with its own L-BFGS on its own Burgers example, in float64: prints its errors and seconds.

python -m benchmarks.deepxde_rival GRID.npz [--adam 15000] [--lbfgs 15000]

GRID.npz holds `points` and the exact `solution` there: torch and TensorFlow do not share a process.

The problem is that of `examples/burgers.py`. As in the example of deepxde the network has 3 layers of 20 and learns the
initial and boundary values from points of their own, after 15,000 iterations of Adam. It needs deepxde and torch.
"""

import argparse
import os
import time

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np

VISCOSITY = 0.01 / np.pi


def equation(points, u):
    """The residual of Burgers' equation."""
    u_x, u_t = (dde.grad.jacobian(u, points, j=j) for j in (0, 1))
    return u_t + u * u_x - VISCOSITY * dde.grad.hessian(u, points, i=0, j=0)


def main():
    """Trains as the example of deepxde does, until its L-BFGS ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid")
    parser.add_argument("--adam", type=int, default=15_000, help="iterations")
    parser.add_argument("--lbfgs", type=int, default=15_000, help="iterations at most")
    arguments = parser.parse_args()
    grid = np.load(arguments.grid)
    solution = np.ravel(grid["solution"])
    dde.config.set_default_float("float64")
    dde.optimizers.set_LBFGS_options(maxiter=arguments.lbfgs)
    dde.config.set_random_seed(0)
    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    on_boundary = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, is_there: is_there)
    at_start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, is_there: is_there)
    data = dde.data.TimePDE(
        domain, equation, [on_boundary, at_start], num_domain=2540, num_boundary=80, num_initial=160
    )
    model = dde.Model(data, dde.nn.FNN([2] + [20] * 3 + [1], "tanh", "Glorot normal"))
    start = time.perf_counter()

    def report():
        error = np.linalg.norm(np.ravel(model.predict(grid["points"])) - solution) / np.linalg.norm(solution)
        print(f"deepxde {error} {time.perf_counter() - start}", flush=True)

    model.compile("adam", lr=1e-3)
    model.train(iterations=arguments.adam, display_every=arguments.adam, verbose=0)
    report()
    model.compile("L-BFGS")
    model.train(verbose=0)
    report()


if __name__ == "__main__":
    main()
