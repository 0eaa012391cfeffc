"""Defects of Keras under a strategy, each worked around for our optimizers alone."""

import keras
import tensorflow as tf

from kormos_opt.keras_internals import trainer
from kormos_opt.keras_internals.model import build, strategy_of
from kormos_opt.training.train_function import TrainFunction


def symbolic_build(stock, model, iterator=None, data_batch=None):
    """Under a strategy Keras builds from the mean of the parts of a batch, and fails where they differ in rows."""
    strategy = strategy_of(model)
    if strategy is None or is_fitting(model) or trainer.is_built(model):  # a fit has built it, of real batches
        return
    if data_batch is None:
        *_, batches = next(iter(iterator))
        data_batch = keras.tree.map_structure(
            lambda leaf: None if leaf is None else strategy.experimental_local_results(leaf)[0], next(batches)
        )
    build(model, data_batch)


def make_test_function(stock, model, force=False):
    """With several workers the logs of `evaluate` have no axis to take a mean along."""
    if model.test_function is not None and not force:
        return
    stock(model, force)
    test_function = model.test_function
    if not isinstance(strategy_of(model), tf.distribute.MultiWorkerMirroredStrategy):
        return

    def reducing(iterator):
        with trainer.mean_over_replicas():
            return test_function(iterator)

    model.test_function = reducing


def is_fitting(model: keras.Model) -> bool:
    """Whether one of our fits runs on this model."""
    return isinstance(model.train_function, TrainFunction) and model.train_function.is_fitting
