"""torch-levenberg-marquardt on the network of `benchmarks/least_squares.py`: prints its seconds and its loss.

python -m benchmarks.levenberg_marquardt_rival PROBLEM.npz
"""

import sys
import time

import numpy as np
import torch
from torch_levenberg_marquardt.training import LevenbergMarquardtModule

ITERATIONS, RUNS = 30, 3


def main():
    """The median of several fits after one to warm up."""
    problem = np.load(sys.argv[1])
    inputs, targets = torch.tensor(problem["x"]), torch.tensor(problem["y"])
    seconds = []
    for _ in range(1 + RUNS):
        network = torch.nn.Sequential(torch.nn.Linear(8, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1)).double()
        with torch.no_grad():
            for i, layer in enumerate((network[0], network[2])):
                layer.weight.copy_(torch.tensor(problem[f"start{2 * i}"].T))
                layer.bias.copy_(torch.tensor(problem[f"start{2 * i + 1}"]))
        solver, begin = LevenbergMarquardtModule(network), time.perf_counter()
        for _ in range(ITERATIONS):
            solver.training_step(inputs, targets)
        seconds.append(time.perf_counter() - begin)
    with torch.no_grad():
        print(np.median(seconds[1:]), float(torch.mean((network(inputs) - targets) ** 2)))


if __name__ == "__main__":
    main()
