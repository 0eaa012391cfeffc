"""Starts a run of a stage. The one place that knows which kind of run a solver gets, and what it goes on from."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import keras
import numpy as np

from kormos_opt.data.full_batch import WholeTensors
from kormos_opt.graph_solvers.variables import vector_dtype
from kormos_opt.objective import precision
from kormos_opt.objective.evaluation import Evaluation
from kormos_opt.solvers.safeguards import safeguard
from kormos_opt.stages.stage import GraphStage, Stage
from kormos_opt.training.runs.graph_run import GraphRun
from kormos_opt.training.runs.graph_step import GraphStep
from kormos_opt.training.runs.host_optimizer import HostOptimizer
from kormos_opt.training.runs.oracle import ObjectiveOracle
from kormos_opt.training.runs.restart_reason import RestartReason
from kormos_opt.training.runs.run import Run
from kormos_opt.training.runs.run_state import evaluation_at
from kormos_opt.training.runs.solver_run import SolverRun
from kormos_opt.training.runs.solver_units import SolverUnits

_log = logging.getLogger("kormos_opt")


def start_run(
    stage: Stage,
    model: keras.Model,
    optimizer: HostOptimizer,
    oracle: ObjectiveOracle,
    warn: Callable[[str, str], None],
    evaluation: Evaluation | None = None,
    before: Run | None = None,
) -> Run:
    """A run of a stage, from the weights as they are.

    It goes on from what a file has brought if that fits these weights and data, or from what the run before hands over
    because f has changed.

    Args:
        stage: The stage.
        model: The model.
        optimizer: The one that the model is compiled with, which has the variables of solvers in the graph.
        oracle: Who answers in this fit.
        warn: Called with a topic and a message, which is logged once for each topic.
        evaluation: The one at the starting point. Defaults to `None`: it is not known.
        before: The run that the new one goes on from. Defaults to `None`: there is none.
    """
    objective = oracle.objective
    units = SolverUnits(optimizer.x_scale, objective, warn)
    stage = stage.chosen(objective.parameters, isinstance(objective.data, WholeTensors))
    run: Run
    if isinstance(stage, GraphStage):
        run = _run_in_graph(stage, model, optimizer, oracle, units)
    else:
        run = _run_in_numpy(stage, optimizer, oracle, units, evaluation, before)
    run.is_in_float64 = optimizer.precision == "auto" and objective.objective.settings.float64
    if isinstance(run, GraphRun) and before is not None and evaluation is not None:
        run.go_on_from(before, evaluation)
    optimizer.watch(run)
    return run


def _run_in_graph(stage, model, optimizer, oracle, units):
    """With the trace of an earlier run over the same variables if there was one."""
    objective, method = oracle.objective.objective, stage.method
    dtype = vector_dtype(objective.parameters.variables, optimizer.precision)
    variables = optimizer.variables_for(model, stage.remembered(objective.parameters.size), dtype)
    key = method.name, repr(stage.settings), stage.stops_at_precision, id(variables.nit)
    if key not in objective.traces:
        resolution = _resolution(stage, objective)
        objective.traces[key] = GraphStep(method, variables, stage.settings, resolution)
    return GraphRun(oracle, objective.traces[key], variables, method, stage.settings["gtol"], units)


def _run_in_numpy(stage, optimizer, oracle, units, evaluation, before):
    objective, method = oracle.objective, stage.method
    specs = stage.remembered(objective.parameters)
    start = objective.parameters.ravel() if evaluation is None else evaluation.x
    loaded = _loaded(optimizer, objective, specs) if specs is not None and evaluation is None else None
    arrays, kept = None, {}
    if loaded is not None:
        arrays = loaded[1].arrays
    elif specs is not None:
        if before is not None and method.on_objective_change is not None:
            kept = method.on_objective_change(before.arrays)
        arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items() if name not in kept}
        arrays |= kept
    first_step = None
    if loaded is not None:
        solver_units = units.loaded(loaded[1].scale, loaded[1].shift)
    elif before is not None and before.units is not None:
        solver_units = before.units
    else:
        solver_units, first_step = units.new(method, stage.centers(objective.parameters)), units.resolution
    solver = stage.solver(objective.parameters, start, arrays, solver_units, first_step)
    iterate = None if loaded is None else loaded[0]
    solver = safeguard(solver, objective.objective.dtype, _resolution(stage, objective.objective), iterate)
    if loaded is None:
        run = SolverRun(solver, oracle, evaluation, before, arrays, method.name)
    else:
        run = SolverRun.from_state(solver, oracle, loaded[0], loaded[1], method.name)
    run.keeps_state = bool(kept)
    run.units = solver_units
    return run


def _loaded(optimizer, objective, specs):
    """What a file has brought, and the evaluation there, if it is of these weights, this f and this method."""
    loaded = optimizer.take_loaded_state()
    if loaded is None:
        return None
    is_same = functools.partial(np.array_equal, loaded.jac)
    evaluation = evaluation_at(objective, loaded.x, loaded.fun, is_same, loaded.seeds)
    shapes = {name: array.shape for name, array in loaded.arrays.items()}
    if evaluation is not None and shapes == {name: spec.shape for name, spec in specs.items()}:
        return evaluation, loaded
    _log.warning(RestartReason.OTHER_MEMORY.message)
    return None


def _resolution(stage, objective):
    return precision.resolution(objective.dtype) if stage.stops_at_precision else None
