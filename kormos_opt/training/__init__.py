"""One fit: its epochs, its runs of solvers, its progress. The only folder where a solver meets an objective.

train_function  what Keras calls, from one `compile` to the next
fit             one `Model.fit`
progress        what survives between two fits
run             one run of a solver: SolverRun in numpy, GraphRun in the graph
"""
