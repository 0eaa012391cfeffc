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
        optimizer: The optimizer that the model is compiled with. It has the variables of solvers in the graph.
        oracle: Who answers in this fit.
        warn: Called with a topic and a message, which is logged once for each topic.
        evaluation: The evaluation at the starting point. Defaults to `None`: it is not known.
        before: The run that the new one goes on from. Defaults to `None`: there is none.
    """
    objective = oracle.objective
    units = SolverUnits(optimizer.x_scale, objective, warn)
    stage = stage.chosen(objective.parameters, isinstance(objective.data, WholeTensors))
    run: Run | None = None
    if isinstance(stage, GraphStage):
        run = _run_in_graph(stage, model, optimizer, oracle, units)
    elif evaluation is None:
        run = _run_from_file(stage, optimizer, oracle, units)
    run = run or _new_run(stage, oracle, units, evaluation, before)
    run.is_in_float64 = optimizer.precision == "auto" and objective.objective.settings.float64
    if isinstance(run, GraphRun) and before is not None and evaluation is not None:
        run.go_on_from(before, evaluation)
    optimizer.watch(run)
    return run


def _run_in_graph(stage, model, optimizer, oracle, units):
    """A run in the graph. It shares the trace of an earlier run over the same variables."""
    objective, method = oracle.objective.objective, stage.method
    dtype = vector_dtype(objective.parameters.variables, optimizer.precision)
    variables = optimizer.variables_for(model, stage.remembered(objective.parameters.size), dtype)
    key = method.name, repr(stage.settings), stage.stops_at_precision, id(variables.nit)
    if key not in objective.traces:
        resolution = _resolution(stage, objective)
        objective.traces[key] = GraphStep(method, variables, stage.settings, resolution)
    return GraphRun(oracle, objective.traces[key], variables, method, stage.settings["gtol"], units)


def _run_from_file(stage, optimizer, oracle, units):
    """The run in numpy that a file has brought; `None` if there is none of these weights, this f and this method."""
    objective, specs = oracle.objective, stage.remembered(oracle.objective.parameters)
    state = None if specs is None else optimizer.take_loaded_state()
    if state is None:
        return None
    is_same = functools.partial(np.array_equal, state.jac)
    evaluation = evaluation_at(objective, state.x, state.fun, is_same, state.seeds)
    shapes = {name: array.shape for name, array in state.arrays.items()}
    if evaluation is None or shapes != {name: spec.shape for name, spec in specs.items()}:
        _log.warning(RestartReason.OTHER_MEMORY.message)
        return None
    solver_units = units.loaded(state.scale, state.shift)
    solver = stage.solver(objective.parameters, objective.parameters.ravel(), state.arrays, solver_units, None)
    solver = safeguard(solver, objective.objective.dtype, _resolution(stage, objective.objective), evaluation)
    run = SolverRun.from_state(solver, oracle, evaluation, state, stage.name)
    run.units = solver_units
    return run


def _new_run(stage, oracle, units, evaluation, before):
    """A run in numpy that begins; with what the run before hands over, where f has changed."""
    objective, method = oracle.objective, stage.method
    specs, kept = stage.remembered(objective.parameters), {}
    if specs is not None and before is not None and method.on_objective_change is not None:
        kept = dict(method.on_objective_change(before.arrays))
    arrays = None
    if specs is not None:
        arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items() if name not in kept} | kept
    if before is not None and before.units is not None:
        solver_units, first_step = before.units, None
    else:
        solver_units, first_step = units.new(method, stage.centers(objective.parameters)), units.resolution
    start = objective.parameters.ravel() if evaluation is None else evaluation.x
    solver = stage.solver(objective.parameters, start, arrays, solver_units, first_step)
    solver = safeguard(solver, objective.objective.dtype, _resolution(stage, objective.objective))
    run = SolverRun(solver, oracle, evaluation, before, arrays, method.name)
    run.keeps_state = bool(kept)
    run.units = solver_units
    return run


def _resolution(stage, objective):
    return precision.resolution(objective.dtype) if stage.stops_at_precision else None
