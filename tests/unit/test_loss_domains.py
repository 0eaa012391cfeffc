"""Labels and outputs that a loss is not defined for are errors before any work."""

import keras
import numpy as np
import pytest

import kormos_opt
from tests.support.helpers import flat_weights
from tests.support.problems import compiled, regression

X, _ = regression()
RNG = np.random.default_rng(0)
BINARY = (X.sum(axis=1, keepdims=True) > 0).astype("float32")
CLASSES = RNG.integers(0, 3, len(X))
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
LABELS = "entries of y that are none"
OUTPUTS = "outputs at the first weights that are none"
LOSSES = keras.losses


def model(units, activation, loss):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(units, activation)]
    return compiled(keras.Sequential(layers), kormos_opt.LBFGS(), loss)


WRONG = {
    "labels 0 and 2": (1, "sigmoid", "binary_crossentropy", 2 * BINARY, LABELS),
    "labels -1 and 1": (1, "sigmoid", LOSSES.BinaryCrossentropy(), 2 * BINARY - 1, LABELS),
    "labels -1 and 1, logits": (1, None, LOSSES.BinaryCrossentropy(from_logits=True), 2 * BINARY - 1, LABELS),
    "focal": (1, "sigmoid", LOSSES.BinaryFocalCrossentropy(), 5 * BINARY, LABELS),
    "counts for probabilities": (3, "softmax", "categorical_crossentropy", 4 * ONE_HOT, LABELS),
    "classes from 1": (3, "softmax", "sparse_categorical_crossentropy", CLASSES + 1, LABELS),
    "negative classes": (3, "softmax", "sparse_categorical_crossentropy", CLASSES - 1, LABELS),
    "negative counts": (1, "exponential", "poisson", BINARY - 1, LABELS),
    "logits for probabilities": (1, None, "binary_crossentropy", BINARY, OUTPUTS),
    "logits for classes": (3, None, "sparse_categorical_crossentropy", CLASSES, OUTPUTS),
    "logits for one-hot": (3, None, "categorical_crossentropy", ONE_HOT, OUTPUTS),
}


@pytest.mark.parametrize("case", WRONG)
def test_is_an_error_before_any_work(case):
    units, activation, loss, y, message = WRONG[case]
    made = model(units, activation, loss)
    before = flat_weights(made)
    with pytest.raises(ValueError, match=message):
        made.fit(X, y, epochs=5, verbose=0)
    np.testing.assert_array_equal(flat_weights(made), before)


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize(
    ("units", "activation", "loss", "y"),
    [
        (1, "sigmoid", LOSSES.BinaryCrossentropy(from_logits=True), BINARY),
        (3, "softmax", LOSSES.SparseCategoricalCrossentropy(from_logits=True), CLASSES),
    ],
)
def test_probabilities_where_logits_are_expected(units, activation, loss, y):
    with pytest.raises(ValueError, match=r"Expected logits for .*outputs of a sigmoid or a softmax"):
        model(units, activation, loss).fit(X, y, verbose=0)


RIGHT = {
    "soft labels": (1, "sigmoid", "binary_crossentropy", 0.1 + 0.8 * BINARY, None),
    "logits": (1, None, LOSSES.BinaryCrossentropy(from_logits=True), BINARY, None),
    "smoothing": (3, "softmax", LOSSES.CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT, None),
    "an ignored class": (
        3,
        "softmax",
        LOSSES.SparseCategoricalCrossentropy(ignore_class=-1),
        np.where(CLASSES == 1, -1, CLASSES),
        None,
    ),
    "weight 0": (1, "sigmoid", "binary_crossentropy", np.where(BINARY > 0, BINARY, 7), BINARY[:, 0]),
    "hinge": (1, None, "hinge", 2 * BINARY - 1, None),
}


@pytest.mark.parametrize("case", RIGHT)
def test_is_taken(case):
    units, activation, loss, y, weights = RIGHT[case]
    assert model(units, activation, loss).fit(X, y, sample_weight=weights, epochs=1, verbose=0).history["loss"]


@pytest.mark.parametrize("settings", [{"batch_size": 16}, {"cache": False}])
def test_all_chunks_and_streams_are_looked_at(settings):
    y = BINARY.copy()
    y[-1] = 3
    layers = [keras.Input((4,)), keras.layers.Dense(1, "sigmoid")]
    made = compiled(keras.Sequential(layers), kormos_opt.LBFGS(**settings), "binary_crossentropy")
    with pytest.raises(ValueError, match=f"1 {LABELS}"):
        made.fit(X, y, batch_size=16, verbose=0)
