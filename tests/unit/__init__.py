"""One part by itself: solvers, stages, runs, the objective. Without `Model.fit`, or next to it."""
