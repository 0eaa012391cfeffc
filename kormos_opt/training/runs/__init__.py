"""A run of one solver: from its start, iteration by iteration, to its result.

start           starts a run of a stage: `start_run`
run             what all runs have in common
solver_run      of a solver in numpy
graph_run       of a solver in the graph, whose iterations graph_step traces
multi_start     many runs, of which the best goes on
host_optimizer  what is asked of the optimizer
oracle          answers what a solver asks
solver_units    the units in which a solver sees the weights
run_state       what a suspended run has to keep
restart_reason  why a run starts afresh
"""
