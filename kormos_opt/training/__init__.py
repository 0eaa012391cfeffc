"""One fit: its epochs, its runs of solvers, its progress. The only folder where a solver meets an objective.

train_function      what Keras calls, from one `compile` to the next
fit                 one `Model.fit`
progress            what survives between two fits
runs/               one run of a solver
verdict             whether a run that has ended may say "Converged"
fit_result          what a fit says of itself afterwards
model_warnings      what a user should know of the model before a fit
progress_heartbeat  shows that a long epoch is at work
flat_objective      f as a function of the flat vector, the way kormos gave it
"""
