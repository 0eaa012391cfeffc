"""Handwritten digits, to the end
==============================

Softmax regression on 1797 real images of scikit-learn, trained until L-BFGS has converged::

    python -m examples.demo [PICTURE]

.. image:: /demo.png
"""

# sphinx_gallery_thumbnail_path = "demo.png"

import sys

import keras
import pandas as pd
from sklearn import datasets, model_selection

import kormos_opt

keras.utils.set_random_seed(0)
x, y = datasets.load_digits(return_X_y=True)
x, x_val, y, y_val = model_selection.train_test_split(x / 16, y, test_size=0.25, random_state=0)

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(10, "softmax", kernel_regularizer=keras.regularizers.L2(1e-3)),
    ]
)
model.compile(optimizer=kormos_opt.LBFGS(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(x, y, epochs=300, validation_data=(x_val, y_val), validation_batch_size=len(x_val), verbose=0)

columns = ["loss", "grad", "fg_evals", "accuracy", "val_loss", "val_accuracy"]
with pd.option_context("display.width", 120, "display.max_rows", 24, "display.float_format", "{:.6g}".format):
    print(pd.DataFrame(history.history)[columns].rename_axis("epoch"))
print(model.optimizer.result)
if len(sys.argv) > 1:
    kormos_opt.plot_history(history)[0].figure.savefig(sys.argv[1], dpi=110)
