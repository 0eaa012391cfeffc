"""Solvers in TensorFlow operations, which run inside the graph. Know no scipy and no model."""
