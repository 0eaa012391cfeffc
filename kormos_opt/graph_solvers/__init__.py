"""Solvers in TensorFlow operations, which run inside the graph. They know no scipy and no model."""
