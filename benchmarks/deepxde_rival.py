"""deepxde with its own L-BFGS on its own Burgers example, in float64: prints its errors and seconds.

python -m benchmarks.deepxde_rival

The problem is that of `examples/burgers.py`. As in the example of deepxde the network has 3 layers of 20 and learns the
initial and boundary values from points of their own, after 15,000 iterations of Adam. It needs deepxde and torch.
"""

import os
import time

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np

from examples import burgers, physics


def equation(points, u):
    """The residual of Burgers' equation."""
    u_x, u_t = (dde.grad.jacobian(u, points, j=j) for j in (0, 1))
    return u_t + u * u_x - burgers.VISCOSITY * dde.grad.hessian(u, points, i=0, j=0)


def main():
    """Trains as the example of deepxde does, until its L-BFGS ends."""
    dde.config.set_default_float("float64")
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
        error = physics.relative_error(np.ravel(model.predict(burgers.POINTS)), burgers.SOLUTION.ravel())
        print(f"deepxde {error} {time.perf_counter() - start}", flush=True)

    model.compile("adam", lr=1e-3)
    model.train(iterations=15_000, display_every=15_000, verbose=0)
    report()
    model.compile("L-BFGS")
    model.train(verbose=0)
    report()


if __name__ == "__main__":
    main()
