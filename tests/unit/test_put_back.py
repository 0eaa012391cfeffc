"""f is a function of the weights: whatever a train step assigns is put back, what draws anew is noticed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.keras_internals.graphs import assigned_variables, random_operations, reads_python
from kormos_opt.solvers.termination import TerminationReason
from tests.support.helpers import flat_weights
from tests.support.problems import compiled, linear, prepared, regression

X, Y = regression()
RNG = np.random.default_rng(0)
SEQUENCES, TARGETS = RNG.normal(size=(12, 5, 2)), RNG.normal(size=(12, 1))
STATEFUL = {
    "LSTM": lambda: keras.layers.LSTM(3, stateful=True),
    "GRU": lambda: keras.layers.GRU(3, stateful=True),
    "SimpleRNN": lambda: keras.layers.SimpleRNN(3, stateful=True),
}


def stateful(kind, batch_size=4):
    model = keras.Sequential([keras.Input(batch_shape=(4, 5, 2)), STATEFUL[kind](), keras.layers.Dense(1)])
    return compiled(model, kormos_opt.LBFGS(batch_size=batch_size))


@pytest.mark.slow_cases("GRU", "SimpleRNN")
@pytest.mark.parametrize("kind", STATEFUL)
def test_states_of_recurrent_layers(kind, float64):
    """Against a pass over the three batches from zero states, by Keras."""
    model = stateful(kind)
    objective = prepared(model, SEQUENCES, TARGETS)
    x0 = objective.parameters.ravel()
    losses = []
    model.layers[0].reset_state()
    for i in (0, 4, 8):
        losses.append(np.mean(np.square(np.asarray(model(SEQUENCES[i : i + 4])) - TARGETS[i : i + 4])))
    model.layers[0].reset_state()
    values = [objective.evaluate(x).fun for x in (x0, x0 + 1, x0)]
    np.testing.assert_allclose(values[0], np.mean(losses), rtol=1e-12)
    assert values[2] == values[0]
    assert all(not np.asarray(state).any() for state in model.layers[0].states)


def test_a_fixed_batch_shape_is_said():
    model = stateful("LSTM", batch_size=None)
    with pytest.raises(ValueError, match=r"rows in batches of 4.*12 rows and batch_size=None.*batch_size=4"):
        model.fit(SEQUENCES, TARGETS, verbose=0)


class Drawing(keras.Model):
    """Random points inside of the loss."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.net = draw, keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def build(self, shape=None):
        """It is built."""

    def call(self, t):
        return self.net(t)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        t = self.draw((20, 1))
        return tf.reduce_mean(tf.square(self(t) - tf.sin(6 * t)))


def drawing(draw, **compile_arguments):
    return compiled(Drawing(draw), kormos_opt.LBFGS(), loss=None, **compile_arguments)


@pytest.mark.parametrize("draw", ["keras.random", "Generator"])
def test_random_numbers_with_a_state_stand_still(draw):
    generator = tf.random.Generator.from_seed(1)
    draws = {"keras.random": lambda shape: keras.random.uniform(shape), "Generator": generator.uniform}
    model = drawing(draws[draw])
    objective = prepared(model, X[:, :1])
    x0 = objective.parameters.ravel()
    assert len({objective.evaluate(x).fun for x in (x0, x0 + 1, x0)}) == 2
    first = objective.evaluate(x0).fun
    assert objective.evaluate(x0).fun == first


@pytest.mark.slow_cases("dropout", "normal", "shuffle")
@pytest.mark.parametrize("kind", ["uniform", "normal", "dropout", "shuffle"])
def test_random_numbers_without_a_state_are_never_converged(kind, caplog):
    draws = {
        "uniform": tf.random.uniform,
        "normal": tf.random.normal,
        "dropout": lambda shape: tf.nn.dropout(tf.ones(shape), 0.5),
        "shuffle": lambda shape: (
            tf.random.shuffle(tf.reshape(tf.linspace(0.0, 1.0, 20), shape))
            * tf.reshape(tf.linspace(0.0, 1.0, 20), shape)
        ),
    }
    model = drawing(draws[kind])
    model.fit(X[:, :1], epochs=100, verbose=0)
    assert not model.optimizer.result.success
    assert "draws other random numbers in every evaluation" in caplog.text
    reasons = TerminationReason.NOT_A_FUNCTION, TerminationReason.NO_BETTER_POINT, TerminationReason.INTERRUPTED
    assert model.optimizer.result.ending in reasons


class TwoOptimizers(keras.Model):
    """One half of the weights is trained by Adam inside of the step."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.adam = keras.layers.Dense(1), keras.layers.Dense(1), keras.optimizers.Adam(0.1)

    def call(self, x):
        return self.a(x) + self.b(x)

    def train_step(self, data):
        x, y = data
        for weights, optimizer in ((self.a.trainable_weights, self.adam), (self.b.trainable_weights, self.optimizer)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x) - y))
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def spectral():
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    return keras.Sequential([keras.Input((4,)), dense, keras.layers.Dense(1)])


@pytest.mark.parametrize(("make", "culprit"), [(TwoOptimizers, "TwoOptimizers"), (spectral, "SpectralNormalization")])
def test_what_is_refused_leaves_no_trace(make, culprit):
    model = compiled(make())
    model(X)
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"leaves the trainable weights alone.*kernel.*{culprit}"):
        model.fit(X, Y, epochs=2, verbose=0)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("eager", [False, True])
def test_an_error_before_the_first_iterate_leaves_no_trace(eager):
    def broken(y, p):
        return keras.ops.mean(p) * np.nan

    model = compiled(linear(), loss=broken, run_eagerly=eager)
    before = flat_weights(model)
    with pytest.raises(ValueError, match="finite loss at the starting point"):
        model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(flat_weights(model), before)


def test_what_a_graph_assigns_and_draws():
    """In functions, loops and branches that it calls too."""
    outer, inner, looped, read = (tf.Variable(value) for value in (1.0, 2.0, 0, 3.0))

    @tf.function
    def called(x):
        outer.assign_add(x)
        return x * read

    @tf.function(autograph=False)
    def step(x):
        y = called(x)
        y = tf.cond(y > 0, lambda: inner.assign(y).read_value(), lambda: y)

        def body(i, y):
            looped.assign_add(1)
            return i + 1, y

        return tf.while_loop(lambda i, y: i < 2, body, (0, y))[1] + tf.random.normal(())

    graph = step.get_concrete_function(tf.constant(1.0)).graph
    assert {id(each) for each in assigned_variables(graph)} == {id(each) for each in (outer, inner, looped)}
    assert random_operations(graph) == ["RandomStandardNormal"]
    assert not reads_python(graph)
