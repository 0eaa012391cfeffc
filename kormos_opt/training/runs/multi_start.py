"""Many starts, of which the best go on: successive halving over one objective.

Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import numpy as np

from kormos_opt.objective.bound_objective import BoundObjective
from kormos_opt.training.runs.run import Run


@dataclass
class Start:
    """One start and how far it has come.

    Attributes:
        x: Its last accepted iterate, float64 of shape `(n,)`.
        number: Its place among all, from 0.
        loss: f there, infinite where it is not finite.
        iterations: How many it has had.
        fg_evals: Its evaluations.
        hessp_evals: Its Hessian-vector products.
        has_ended: Whether the solver has ended there.
    """

    x: np.ndarray
    number: int
    loss: float = np.inf
    iterations: int = 0
    fg_evals: int = 0
    hessp_evals: int = 0
    has_ended: bool = False

    def advance(self, begin: Callable[[np.ndarray], Run], iterations: int) -> None:
        """So many more iterations of a run that begins where this start is."""
        if self.has_ended:
            return
        run = begin(self.x)
        try:
            moved = 0
            while moved < iterations and run.result is None:
                moved += run.iterate(iterations - moved)
        except ValueError:  # f or its gradient is not finite here
            self.has_ended = run.accepted is None
            if not self.has_ended:
                raise
        finally:
            run.close()
        self.fg_evals += run.nfev
        self.hessp_evals += run.nhev
        if run.accepted is not None:
            self.x, self.loss = run.accepted.x, float(run.accepted.fun)
            self.iterations += moved
            self.has_ended = run.result is not None

    def row(self) -> dict:
        """This start in a table."""
        return {name: value for name, value in vars(self).items() if name not in ("x", "has_ended")}


def best_of_many(
    model: keras.Model, optimizer, objective: BoundObjective, state, begin: Callable[[], Run]
) -> list[Start]:
    """All starts of a `MultiStart`, the best first; the model has the weights of this one.

    Whatever interrupts this leaves the weights as they were.

    Args:
        model: The model.
        optimizer: The `MultiStart`.
        objective: f.
        state: The state of the model, the same for all starts.
        begin: Begins a run at the weights as they are.
    """
    parameters = objective.parameters
    usual = parameters.ravel()
    points = [usual]

    def begin_at(x):
        objective.state.restore(state)
        parameters.assign(x)
        return begin()

    try:
        for number in range(1, optimizer.starts):
            optimizer.draw(model, number)
            points.append(parameters.ravel())
        starts = halve(points, begin_at, optimizer.first_iterations, optimizer.keep)
        usual = starts[0].x
    finally:
        objective.state.restore(state)
        parameters.assign(usual)
    optimizer.record_starts(starts)
    return starts


def halve(points: Iterable[np.ndarray], begin: Callable[[np.ndarray], Run], iterations: int, keep: int) -> list[Start]:
    """All starts, the best first. In every round the better half of them goes on, for twice as many iterations.

    Args:
        points: Where to start, each float64 of shape `(n,)`.
        begin: Begins a run at a point.
        iterations: How many iterations a start has in the first round.
        keep: How many are left after the last round.
    """
    alive = [Start(x, number) for number, x in enumerate(points)]
    done: list[Start] = []
    while True:
        for start in alive:
            start.advance(begin, iterations)
        alive.sort(key=lambda start: start.loss)
        half = max(keep, len(alive) // 2)
        alive, done = alive[:half], alive[half:] + done
        if len(alive) <= keep:
            return alive + done
        iterations *= 2
