"""One model of every kind of layer, for tests of first and second derivatives."""

import keras
import numpy as np

layers = keras.layers


class SelfAttention(layers.Layer):
    """Multi-head attention of a sequence to itself."""

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(2, 3, dtype=self.dtype_policy)
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


# One of every kind of layer: the shape of a row, and the layers up to a flat output.
LAYERS = {
    "Dense": ((4,), lambda: [layers.Dense(3, "tanh")]),
    "Dense gelu": ((4,), lambda: [layers.Dense(3, "gelu")]),
    "Dense softmax": ((4,), lambda: [layers.Dense(3, "softmax")]),
    "EinsumDense": ((3, 4), lambda: [layers.EinsumDense("abc,cd->abd", (3, 3), bias_axes="d")]),
    "PReLU": ((4,), lambda: [layers.PReLU(alpha_initializer="normal")]),
    "Conv1D": ((6, 2), lambda: [layers.Conv1D(3, 2, activation="tanh")]),
    "Conv2D": ((5, 5, 2), lambda: [layers.Conv2D(3, 2, padding="same")]),
    "Conv2DTranspose": ((3, 3, 2), lambda: [layers.Conv2DTranspose(2, 2)]),
    "DepthwiseConv2D": ((4, 4, 2), lambda: [layers.DepthwiseConv2D(2)]),
    "SeparableConv2D": ((4, 4, 2), lambda: [layers.SeparableConv2D(3, 2)]),
    "MaxPooling2D": ((4, 4, 2), lambda: [layers.Conv2D(3, 1), layers.MaxPooling2D()]),
    "AveragePooling1D": ((6, 2), lambda: [layers.Conv1D(3, 1), layers.AveragePooling1D(2)]),
    "Embedding": ((3,), lambda: [layers.Embedding(7, 2)]),
    "LayerNormalization": ((4,), lambda: [layers.Dense(4), layers.LayerNormalization()]),
    "GroupNormalization": ((4,), lambda: [layers.Dense(6), layers.GroupNormalization(2)]),
    "BatchNormalization": ((4,), lambda: [layers.Dense(4), layers.BatchNormalization()]),
    "Dropout": ((4,), lambda: [layers.Dense(8), layers.Dropout(0.5)]),
    "GaussianNoise": ((4,), lambda: [layers.Dense(8), layers.GaussianNoise(0.5)]),
    "RandomTranslation": ((6, 6, 1), lambda: [layers.RandomTranslation(0.3, 0.3), layers.Conv2D(2, 2)]),
    "LSTM": ((3, 2), lambda: [layers.LSTM(3)]),
    "GRU": ((3, 2), lambda: [layers.GRU(3)]),
    "Bidirectional SimpleRNN": ((3, 2), lambda: [layers.Bidirectional(layers.SimpleRNN(2))]),
    "MultiHeadAttention": ((3, 4), lambda: [SelfAttention()]),
    "regularizers": ((4,), lambda: [layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2")]),
}


def model_and_data(kind, rows=20):
    """A model with that kind of layer, with inputs and targets."""
    shape, make = LAYERS[kind]
    rng = np.random.default_rng(1)
    x = rng.integers(0, 7, (rows, *shape)) if kind == "Embedding" else rng.normal(size=(rows, *shape))
    model = keras.Sequential([keras.Input(shape), *make(), layers.Flatten(), layers.Dense(1)])
    return model, x, rng.normal(size=(rows, 1))
