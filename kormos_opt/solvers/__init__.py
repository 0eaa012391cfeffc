"""Solvers as coroutines: they ask for f and its gradient and know neither Keras nor TensorFlow."""
