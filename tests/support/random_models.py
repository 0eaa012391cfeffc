"""Draws a small model with its loss, weights, masks, metrics, train step and data from one seed."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
STEPS = ("stock", "compute_loss", "scale_loss", "own compute_loss")


class Case(NamedTuple):
    """What a fit is given.

    Attributes:
        model: The model, not compiled.
        compile: Arguments of `compile`, but the optimizer. Losses and metrics are made anew by every call.
        x: As in `fit`, like the next two.
        y: As in `fit`.
        sample_weight: As in `fit`.
        is_stock: Whether `test_on_batch` computes the same loss.
        words: What was drawn.
    """

    model: keras.Model
    compile: Any
    x: Any
    y: Any
    sample_weight: Any
    is_stock: bool
    words: str


class ComputeLossStep(keras.Model):
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.compute_metrics(x, y, y_pred, sample_weight)


class ScaleLossStep(keras.Model):
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.optimizer.scale_loss(self.compute_loss(x, y, y_pred, sample_weight))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(x, y, y_pred, sample_weight)


class OwnComputeLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        first = keras.tree.flatten(y_pred)[0]
        return loss + 0.1 * keras.ops.mean(keras.ops.tanh(first))


_MODELS = dict(zip(STEPS, (keras.Model, ComputeLossStep, ScaleLossStep, OwnComputeLoss), strict=True))


class AddsMean(layers.Layer):
    """Adds the mean of its input to the loss."""

    supports_masking = True

    def call(self, x):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(x)))
        return x


class Nested(keras.losses.Loss):
    """Calls a loss of its own for every entry."""

    def __init__(self, reduction):
        super().__init__(reduction=reduction)
        self.inner = keras.losses.MeanSquaredError(reduction=None)

    def call(self, y_true, y_pred):
        return self.inner(y_true, y_pred)


def _mean_function(y, y_pred):
    return keras.ops.mean(keras.ops.square(y - y_pred) + keras.ops.square(y_pred))


def draw(seed: int) -> Case:
    """The case of that seed. Keras's defaults must be float64."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(5, 24))
    is_sequence = rng.random() < 0.4
    classes = int(rng.integers(2, 5)) if rng.random() < 0.35 else None
    step = str(rng.choice(STEPS, p=[0.4, 0.2, 0.2, 0.2]))
    outputs = 2 if classes is None and not is_sequence and rng.random() < 0.3 else 1
    x, inputs, hidden, words = _inputs(rng, rows, is_sequence)
    hidden = _hidden(rng, hidden)
    heads = [layers.Dense(classes or int(rng.integers(1, 4)), name=f"head{i}")(hidden) for i in range(outputs)]
    model = _MODELS[step](inputs, heads if outputs > 1 else heads[0])
    y, loss, loss_words, scalar = _targets_and_loss(rng, rows, heads, classes, x if is_sequence else None)
    sample_weight = None if scalar else _weights(rng, rows, outputs, is_sequence)
    loss_weights = [float(each) for each in rng.uniform(0.2, 2, outputs)] if outputs > 1 else None
    metrics = _metrics(rng, outputs, classes)

    def compile_arguments():
        return {"loss": loss(), "loss_weights": loss_weights, **metrics()}

    words = f"{words}, {rows} rows, {step} step, {loss_words}, weights {np.shape(sample_weight)}, outputs {outputs}"
    return Case(model, compile_arguments, x, y, sample_weight, step != "own compute_loss", words)


def _inputs(rng, rows, is_sequence):
    if is_sequence:
        x = rng.normal(size=(rows, 5, 3))
        masked = rng.random() < 0.7
        if masked:
            x[np.arange(5) >= rng.integers(1, 6, rows)[:, None]] = 0
        inputs = keras.Input((5, 3))
        hidden = layers.Masking()(inputs) if masked else inputs
        recurrent = rng.random() < 0.25
        hidden = layers.SimpleRNN(4, return_sequences=True)(hidden) if recurrent else layers.Dense(4, "tanh")(hidden)
        return x, inputs, hidden, f"sequences{' with a mask' if masked else ''}"
    if rng.random() < 0.3:
        x = {"a": rng.normal(size=(rows, 2)), "b": rng.integers(0, 6, (rows, 2))}
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((2,), name="b", dtype="int64")}
        joined = layers.Concatenate()([inputs["a"], layers.Flatten()(layers.Embedding(6, 2)(inputs["b"]))])
        return x, inputs, joined, "two inputs"
    inputs = keras.Input((4,))
    return rng.normal(size=(rows, 4)), inputs, inputs, "vectors"


def _hidden(rng, hidden):
    for _ in range(rng.integers(0, 3)):
        regularizer = rng.choice([None, "l2", "l1"], p=[0.6, 0.3, 0.1])
        activation = str(rng.choice(["tanh", "softplus", "gelu", "linear"]))
        hidden = layers.Dense(int(rng.integers(2, 6)), activation, kernel_regularizer=regularizer)(hidden)
        if rng.random() < 0.2:
            hidden = layers.LayerNormalization()(hidden)
        if rng.random() < 0.2:
            hidden = AddsMean()(hidden)
    return hidden


def _targets_and_loss(rng, rows, heads, classes, sequences):
    reduction = str(rng.choice(["sum_over_batch_size", "sum", "mean_with_sample_weight", "mean"]))
    inner = () if sequences is None else (5,)
    if classes is not None:
        labels = rng.integers(0, classes, (rows, *inner))
        ignored = int(rng.integers(0, classes)) if rng.random() < 0.5 else None
        if ignored is not None:
            labels.flat[0] = (ignored + 1) % classes
        arguments = {"from_logits": True, "ignore_class": ignored, "reduction": reduction}
        words = f"crossentropy ({reduction}, ignore_class={ignored})"
        return labels, lambda: keras.losses.SparseCategoricalCrossentropy(**arguments), words, False
    kind = str(rng.choice(["MeanSquaredError", "Huber", "LogCosh", "nested", "function"]))
    y = [rng.normal(size=(rows, *inner, head.shape[-1])) for head in heads]

    def loss():
        if kind == "function":
            return [_mean_function for _ in heads] if len(heads) > 1 else _mean_function
        make = Nested if kind == "nested" else getattr(keras.losses, kind)
        made = [make(reduction=reduction) for _ in heads]
        return made if len(heads) > 1 else made[0]

    return (y if len(heads) > 1 else y[0]), loss, f"{kind} ({reduction})", kind == "function"


def _weights(rng, rows, outputs, is_sequence):
    if rng.random() < 0.5:
        return None
    shape = (rows, 5) if is_sequence and rng.random() < 0.5 else (rows, 1) if is_sequence else (rows,)
    weights = [rng.uniform(0.1, 2, shape) for _ in range(outputs)]
    return weights if outputs > 1 else weights[0]


def _metrics(rng, outputs, classes):
    name = "sparse_categorical_accuracy" if classes is not None else str(rng.choice(["mae", "mse"]))
    kind = str(rng.choice(["metrics", "weighted_metrics"]))
    return lambda: {kind: [[name] for _ in range(outputs)] if outputs > 1 else [name]}


class Noise(layers.Layer):
    """Adds random numbers from a generator of its own, in training or not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator_of_noise = keras.random.SeedGenerator(3)

    def call(self, x):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.generator_of_noise)


class Counts(layers.Layer):
    """Changes with every call, by a weight or by a variable that Keras does not know."""

    def __init__(self, is_weight, **kwargs):
        super().__init__(**kwargs)
        self.is_weight = is_weight
        self.calls = [None] if is_weight else [tf.Variable(1.0, trainable=False, dtype="float64")]

    def build(self, shape):
        if self.is_weight:
            self.counter = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        counter = self.counter if self.is_weight else self.calls[0]
        counter.assign(counter + 1.0)
        return x * keras.ops.cast(counter, x.dtype)


class Mixes(layers.Layer):
    """Looks at other rows, in one of several ways."""

    WAYS = ("mean", "largest", "before", "softmax")

    def __init__(self, way, **kwargs):
        super().__init__(**kwargs)
        self.way = way

    def call(self, x):
        ops = keras.ops
        if self.way == "mean":
            return x - ops.mean(x, axis=0, keepdims=True)
        if self.way == "largest":
            return x / (1 + ops.max(ops.abs(x), axis=0, keepdims=True))
        if self.way == "before":
            return x - 0.5 * ops.roll(x, 1, axis=0)
        return x * ops.softmax(x, axis=0)


def draw_special(seed: int) -> tuple[keras.Model, np.ndarray, np.ndarray, str]:
    """A model with a layer that is stateful, random or looks at other rows, or data in raw units; x, y and its kind."""
    rng = np.random.default_rng(5000 + seed)
    kind = ("mixing", "random", "weight", "variable", "raw")[seed % 5]
    rows, columns = int(rng.integers(20, 60)), int(rng.integers(2, 5))
    x = rng.normal(size=(rows, columns))
    y = x @ rng.normal(size=(columns, 1)) + 0.1 * rng.normal(size=(rows, 1))
    if kind == "raw":
        x = x * 10.0 ** rng.uniform(-3, 4, columns) + 10.0 ** rng.uniform(-2, 5, columns)
        return keras.Sequential([keras.Input((columns,)), layers.Dense(1)]), x, y, kind
    special = {
        "mixing": lambda: Mixes(str(rng.choice(Mixes.WAYS))),
        "random": Noise,
        "weight": lambda: Counts(True),
        "variable": lambda: Counts(False),
    }[kind]()
    inner = [layers.Dense(int(rng.integers(2, 5)), "tanh"), special]
    inner = inner if rng.random() < 0.5 else inner[::-1]
    return keras.Sequential([keras.Input((columns,)), *inner, layers.Dense(1)]), x, y, kind
