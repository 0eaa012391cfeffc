"""What a worker process of `test_multi_worker.py` runs: `python -m tests.support.worker FOLDER`, TF_CONFIG or not."""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kormos_opt
from tests.support.helpers import collectives, with_dropout_and_batchnorm
from tests.support.light_solver import light, register_light_solver
from tests.support.problems import linear, network, prepared, regression


def fit(strategy, optimizer, data, epochs=5, make=network, **arguments):
    """Weights and history of a fit under `strategy`."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    history = model.fit(*data, epochs=epochs, verbose=0, **arguments).history
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return {"weights": weights.tolist(), "history": history, "message": model.optimizer.result.message}


def arrays():
    return regression(rows=61, dtype="float64")


def batches(policy, size=7):
    data = tf.data.Dataset.from_tensor_slices(arrays()).batch(size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return (data.with_options(options),)


def files(folder):
    """Five CSV files of unequal length, sharded by file."""
    names = [str(folder / f"{i}.csv") for i in range(5)]

    def parse(lines):
        columns = tf.io.decode_csv(lines, [tf.constant([], tf.float64)] * 5)
        return tf.stack(columns[:-1], axis=1), columns[-1][:, None]

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    return (
        tf.data.Dataset.from_tensor_slices(names)
        .flat_map(tf.data.TextLineDataset)
        .batch(8)
        .map(parse)
        .with_options(options),
    )


class Slices(keras.utils.PyDataset):
    """Batches of 9 rows."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        x, y = arrays()
        return x[9 * index : 9 * index + 9], y[9 * index : 9 * index + 9]


DATA = tf.data.experimental.AutoShardPolicy.DATA
LBFGS = kormos_opt.LBFGS
CASES = {
    "arrays": lambda strategy, folder: fit(strategy, LBFGS(), arrays()),
    "chunks": lambda strategy, folder: fit(strategy, LBFGS(batch_size=7), arrays()),
    "one row": lambda strategy, folder: fit(strategy, LBFGS(), [part[:1] for part in arrays()]),
    "weights": lambda strategy, folder: fit(
        strategy, LBFGS(), arrays(), sample_weight=np.linspace(0, 2, 61), validation_split=0.3
    ),
    "by element": lambda strategy, folder: fit(strategy, LBFGS(), batches(DATA)),
    "one element": lambda strategy, folder: fit(strategy, LBFGS(), batches(DATA, size=100)),
    "streamed": lambda strategy, folder: fit(strategy, LBFGS(cache=False), batches(DATA)),
    "by file": lambda strategy, folder: fit(strategy, LBFGS(), files(folder)),
    "streamed files": lambda strategy, folder: fit(strategy, LBFGS(cache=False), files(folder)),
    "some steps": lambda strategy, folder: fit(strategy, LBFGS(), (batches(DATA)[0].repeat(),), steps_per_epoch=3),
    "PyDataset": lambda strategy, folder: fit(strategy, LBFGS(), (Slices(),)),
    "newton-cg": lambda strategy, folder: fit(strategy, kormos_opt.NewtonCG(), arrays()),
    "chain": lambda strategy, folder: fit(
        strategy, kormos_opt.Chain([LBFGS(engine="graph"), kormos_opt.NewtonCG()], epochs=[2, 3]), arrays()
    ),
    "trust-exact": lambda strategy, folder: fit(strategy, kormos_opt.TrustExact(), arrays()),
    "tfp": lambda strategy, folder: fit(strategy, LBFGS(engine="tfp"), arrays(), epochs=3),
    "light": lambda strategy, folder: fit(strategy, light(), arrays(), epochs=8),
    "to the end": lambda strategy, folder: fit(strategy, LBFGS(), arrays(), epochs=300, make=linear),
}


class Evaluation(keras.callbacks.Callback):
    """Holds the model, to evaluate it after the fit."""


def with_callbacks(strategy, folder):
    """Early stopping ends it; files are written once, to the same places by all workers."""
    folder = folder / f"files of {strategy.num_replicas_in_sync}"
    folder.mkdir(exist_ok=True)
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", min_delta=0.05, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(folder / "best.keras", save_best_only=True, monitor="val_loss"),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]
    x, y = arrays()
    evaluation = Evaluation()
    result = fit(
        strategy, LBFGS(), (x[:40], y[:40]), 50, callbacks=[*callbacks, evaluation], validation_data=(x[40:], y[40:])
    )
    return {**result, "evaluation": evaluation.model.evaluate(x, y, batch_size=9, verbose=0)}


class Death(keras.callbacks.Callback):
    """Kills one worker."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 3 and worker() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def restartable(strategy, folder, callbacks=()):
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    return fit(strategy, light(), arrays(), 8, callbacks=[backup, *callbacks])


def disagreeing(strategy, folder):
    """One worker has other weights than the others."""

    class Disturbance(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and worker() == 1:
                self.model.set_weights([weight + 1 for weight in self.model.get_weights()])

    return error_of(lambda: fit(strategy, LBFGS(), arrays(), callbacks=[Disturbance()]))


def failing(strategy, folder):
    """One worker cannot read its data the third time."""
    passes = []

    def rows():
        passes.append(1)
        if len(passes) > 3 and worker() == 1:
            raise OSError("a disk is broken")
        yield from zip(*arrays(), strict=True)

    signature = tf.TensorSpec((4,), tf.float64), tf.TensorSpec((1,), tf.float64)
    data = tf.data.Dataset.from_generator(rows, output_signature=signature).batch(5)
    return error_of(lambda: fit(strategy, LBFGS(cache=False), (data,)))


def error_of(fit):
    """What a fit fails with on this worker. The others go on with the next case, so all have to hear of it."""
    try:
        fit()
    except Exception as error:
        return str(error)
    raise AssertionError("no error")


def count_collectives(strategy):
    """All-reduces in the graph of an evaluation over nine chunks, with two metrics, and in that of a product."""
    with strategy.scope():
        model = with_dropout_and_batchnorm()
        model.compile(optimizer=kormos_opt.NewtonCG(batch_size=7), loss="mse", metrics=["mae"])
    objective = prepared(model, *arrays())
    return [collectives(objective, name)["CollectiveReduceV2"] for name in ("gradient", "hvp")]


CASES["callbacks"] = with_callbacks
OTHER_CASES = {
    "dies": lambda strategy, folder: restartable(strategy, folder, [Death()]),
    "restarts": restartable,
    "disagrees": disagreeing,
    "fails": failing,
    "collectives": lambda strategy, folder: count_collectives(strategy),
}


def worker():
    """Which one this is, `None` alone."""
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"] if "TF_CONFIG" in os.environ else None


def main(folder: Path, names: list[str]) -> None:
    """Runs the cases and writes their results."""
    register_light_solver()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    alone = worker() is None
    strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
    results = {name: {**CASES, **OTHER_CASES}[name](strategy, folder) for name in names}
    (folder / f"{'alone' if alone else worker()}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
