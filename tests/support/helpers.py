"""What several files of tests share: functions of numpy, callbacks that look, fits in one go and in pieces."""

from collections import Counter

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

import kormos_opt
from tests.support.problems import compiled, prepared, regression

SCIPY = tuple(int(number) for number in scipy.__version__.split(".")[:2])
COBYLA_TAKES_EQUALITIES = SCIPY >= (1, 16)


def rosenbrock(x):
    return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)


def quadratic(x):
    scales = np.arange(1.0, x.size + 1)
    return 0.5 * x @ (scales * x), scales * x


def flat_weights(model):
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


class Iterates(keras.callbacks.Callback):
    """Collects the weights at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.x = []

    def on_epoch_end(self, epoch, logs=None):
        self.x.append(flat_weights(self.model))


def with_dropout_and_batchnorm():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, "tanh"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )


def whole_and_pieces(make, pieces, optimizer=kormos_opt.LBFGS, **fit):
    whole, cut = Iterates(), Iterates()
    model = compiled(make(), optimizer())
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for one, other in zip(model.non_trainable_variables, copy.non_trainable_variables, strict=True):
        other.assign(one)
    history = model.fit(*regression(), epochs=pieces[-1], callbacks=[whole], verbose=0, **fit).history
    compiled(copy, optimizer())
    rows = {name: [] for name in history}
    for start, end in zip((0, *pieces), pieces, strict=False):
        more = copy.fit(*regression(), epochs=end, initial_epoch=start, callbacks=[cut], verbose=0, **fit).history
        for name in rows:
            rows[name] += more[name]
    return whole.x, cut.x, history, rows, model, copy


def two_loop_direction(s, y, gradient):
    """-H g by algorithm 7.4 of Nocedal and Wright; the rows of `s` and `y` are the pairs, newest last."""
    q, alphas = gradient.copy(), []
    for si, yi in zip(s[::-1], y[::-1], strict=True):
        alphas.append(si @ q / (yi @ si))
        q -= alphas[-1] * yi
    q *= s[-1] @ y[-1] / (y[-1] @ y[-1])
    for si, yi, alpha in zip(s, y, alphas[::-1], strict=True):
        q += si * (alpha - yi @ q / (yi @ si))
    return -q


def assert_weights(model, weights):
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def operations_of_an_iteration(model, x, y):
    """The operations in the graph of an iteration of a solver in the graph, at any depth."""
    (step,) = model.train_function._progress.run._step.compiled.values()
    _, data = prepared(model, x, y).graph_function()
    graph = step.get_concrete_function(tf.constant(1), (), *data).graph.as_graph_def()
    return {node.op for node in graph.node} | {node.op for f in graph.library.function for node in f.node_def}


def collectives(objective, name):
    """How often each operation occurs in the graph of an evaluation or product; those of loops' bodies count once.

    AddN is counted outside of the replicas only, where it is the sum over them.
    """
    size = objective.parameters.size
    run, data = objective.objective.passes[name].graph_function(objective.data, 7)
    point = (tf.zeros(size, tf.float64),) * (2 if name == "hvp" else 1)
    whole = tf.function(lambda: run(point, objective.rows, objective.loss_denominators, *data))
    graph = whole.get_concrete_function().graph.as_graph_def()
    outside = Counter(node.op for node in graph.node)
    inside = Counter(node.op for function in graph.library.function for node in function.node_def)
    del inside["AddN"]
    return outside + inside


def from_file(model, path, make):
    """The model from a `.keras` file, or what `make` returns with the weights from a `.weights.h5` file."""
    if path.suffix == ".keras":
        model.save(path)
        with model.distribute_strategy.scope():
            return keras.models.load_model(path)
    model.save_weights(path)
    loaded = make()
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(path)
    return loaded
