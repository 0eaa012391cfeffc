"""Data that is read anew in every pass: the same iterates, one batch at a time, and errors when it changes."""

import logging
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.data.batches import Batches
from tests.support.helpers import flat_weights
from tests.support.problems import compiled, network, regression

X, Y = regression(dtype="float64")
BATCHES = 9  # of 7 rows, the last of 4


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)


def tf_record(folder):
    path = str(folder / "rows.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for row in np.hstack([X, Y]):
            writer.write(row.tobytes())

    def parse(records):
        table = tf.reshape(tf.io.decode_raw(records, tf.float64), (-1, 5))
        return table[:, :4], table[:, 4:]

    return tf.data.TFRecordDataset(path).batch(7).map(parse)


def csv(folder):
    path = folder / "rows.csv"
    np.savetxt(path, np.hstack([X, Y]), delimiter=",", fmt="%.17g", header="a,b,c,d,y", comments="")
    table = tf.data.experimental.make_csv_dataset(
        str(path), 7, label_name="y", num_epochs=1, shuffle=False, column_defaults=[tf.float64] * 5
    )
    return table.map(lambda x, y: (tf.stack(list(x.values()), axis=1), y[:, None]))


class Slices(keras.utils.PyDataset):
    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        return X[7 * index : 7 * index + 7], Y[7 * index : 7 * index + 7]


SOURCES = {
    "data set": lambda folder: batches(),
    "TFRecord": tf_record,
    "CSV": csv,
    "PyDataset with threads": lambda folder: Slices(workers=2),
    "generator data set": lambda folder: tf.data.Dataset.from_generator(
        lambda: (Slices()[i] for i in range(BATCHES)),
        output_signature=(tf.TensorSpec((None, 4), X.dtype), tf.TensorSpec((None, 1), Y.dtype)),
    ),
}


def fitted(data, optimizer, start=None, make=network, epochs=5, **fit):
    model = compiled(make(), optimizer, metrics=["mae"])
    if start is not None:
        model.set_weights(start)
    start = model.get_weights()
    history = model.fit(data, epochs=epochs, verbose=0, **fit).history
    return model, history, start


def assert_same_fit(one, other):
    (model, history, _), (streamed, rows, _) = one, other
    np.testing.assert_allclose(flat_weights(streamed), flat_weights(model), rtol=1e-10)
    for name in history:
        np.testing.assert_allclose(rows[name], history[name], rtol=1e-9, err_msg=name)


@pytest.mark.slow_cases("*-TFRecord", "*-data set", "*-generator data set", "False-CSV", "auto-PyDataset with threads")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("cache", [False, "auto"])
def test_streams_have_the_iterates_of_data_in_memory(source, cache, tmp_path, monkeypatch, caplog, float64):
    data = SOURCES[source](tmp_path)
    kept = fitted(data, kormos_opt.LBFGS(cache=True))
    monkeypatch.setattr("kormos_opt.data.memory_limits.half_of_all", lambda: 1000.0)
    with caplog.at_level(logging.WARNING, "kormos_opt"):
        streamed = fitted(data, kormos_opt.LBFGS(cache=cache), kept[-1])
    assert_same_fit(kept, streamed)
    said = [record.getMessage() for record in caplog.records if "every evaluation reads it anew" in record.getMessage()]
    assert len(said) == (cache == "auto")


def test_the_budget_counts_what_arrives(monkeypatch, caplog):
    """60 rows of 5 float64 numbers are 2400 bytes."""
    for budget, streams in ((2400, 0), (2399, 1)):
        monkeypatch.setattr("kormos_opt.data.memory_limits.half_of_all", lambda budget=budget: budget)
        caplog.clear()
        fitted(batches(), kormos_opt.LBFGS(), epochs=1)
        assert sum("reads it anew" in record.getMessage() for record in caplog.records) == streams


def test_an_epoch_is_one_batch_for_callbacks(float64):
    """As for data in memory: at its end the weights are those of the iterate."""
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append((batch, logs["loss"])))
    _, history, _ = fitted(batches(), kormos_opt.LBFGS(cache=False), epochs=4, callbacks=[watch])
    assert seen == [(0, loss) for loss in history["loss"]]


@pytest.mark.parametrize("how", ["raise", "stop"])
def test_an_end_in_a_callback_keeps_the_last_iterate(how, float64):
    whole = fitted(batches(), kormos_opt.LBFGS(cache=False), epochs=6)

    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.stop_training = True
                if how == "raise":
                    raise InterruptedError

    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    model.set_weights(whole[-1])
    try:
        model.fit(batches(), epochs=6, callbacks=[End()], verbose=0)
    except InterruptedError:
        assert how == "raise"
    rows = model.fit(batches(), epochs=6, initial_epoch=3, verbose=0).history
    assert rows["loss"] == whole[1]["loss"][3:]


def interrupted_batches(at):
    """The batches, and an interruption at one of them."""
    count = 0

    def rows():
        nonlocal count
        for start in range(0, len(X), 7):
            count += 1
            if count == at:
                raise InterruptedError("the disk is gone")
            yield X[start : start + 7], Y[start : start + 7]

    specs = tuple(tf.TensorSpec((None, part.shape[1]), part.dtype) for part in (X, Y))
    return tf.data.Dataset.from_generator(rows, output_signature=specs)


@pytest.mark.parametrize("at", [BATCHES + 3, 3 * BATCHES + 3], ids=["in the first evaluation", "later"])
def test_an_error_between_two_batches_keeps_the_last_iterate(at, float64):
    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    before, seen = flat_weights(model), []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(flat_weights(model)))
    with pytest.raises(Exception, match="the disk is gone"):
        model.fit(interrupted_batches(at), epochs=6, callbacks=[watch], verbose=0)
    np.testing.assert_array_equal(flat_weights(model), [before, *seen][-1])
    assert len(model.fit(batches(), epochs=2, verbose=0).history["loss"]) == 2


@pytest.mark.slow  # shown by test_chain.py, test_streams too
@pytest.mark.parametrize("methods", [["l-bfgs-b", "bfgs"], ["nelder-mead", "l-bfgs-b"], ["l-bfgs-b", "newton-cg"]])
def test_chains_go_on_from_stage_to_stage(methods, float64):
    def frozen(model):
        model.layers[0].trainable = False

    def thawed(model):
        model.layers[0].trainable = True

    def chain(cache):
        return kormos_opt.optimizers.ScipyBatchOptimizer(
            method=methods, epochs=[3, 4], pretrain_fn=[frozen, thawed], cache=cache
        )

    kept = fitted(batches(), chain(True), epochs=7)
    assert_same_fit(kept, fitted(batches(), chain(False), kept[-1], epochs=7))


def test_a_callback_may_evaluate_in_an_epoch(float64):
    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.evaluate(X[:3], Y[:3], verbose=0)

    kept = fitted(batches(), kormos_opt.LBFGS(cache=True), epochs=3)
    streamed = fitted(batches(), kormos_opt.LBFGS(cache=False), kept[-1], epochs=3, callbacks=[Evaluate()])
    assert_same_fit(kept, streamed)


def changing(change):
    """A data set whose pass `number` is that of `change(number, X, Y)`."""
    passes = []

    def rows():
        passes.append(1)
        yield from zip(*change(len(passes), X.copy(), Y.copy()), strict=True)

    return tf.data.Dataset.from_generator(
        rows, output_signature=(tf.TensorSpec((4,), X.dtype), tf.TensorSpec((1,), Y.dtype))
    ).batch(7)


def shorter(number, x, y):
    return (x, y) if number < 6 else (x[:-1], y[:-1])


def other_values(number, x, y):
    return (x, y) if number < 6 else (x + 1e-9, y)


def other_values_at_the_end(number, x, y):
    return (x, y) if number < 6 else (x, y + (np.arange(len(y)) == 59)[:, None])


def other_labels(number, x, y):
    return (x, y) if number < 6 else (x, np.roll(y, 1))


@pytest.mark.slow_cases("other_labels-*", "other_values-*")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, "Expected 60 rows in every pass .* Received: 59 rows"),
        (other_values, "Expected the same data in every pass"),
        (other_values_at_the_end, "Expected the same data in every pass"),
        (other_labels, "Expected the same data in every pass"),
    ],
)
def test_data_that_changes_is_an_error(change, message, float64):
    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(flat_weights(model)))
    with pytest.raises(RuntimeError, match=message):
        model.fit(changing(change), epochs=9, callbacks=[watch], verbose=0)
    np.testing.assert_array_equal(flat_weights(model), seen[-1])


def shuffled(number, x, y):
    order = np.random.default_rng(number).permutation(len(x))
    return x[order], y[order]


class Shuffled(Slices):
    order = np.arange(len(X))

    def on_epoch_end(self):
        self.order = np.random.default_rng(self.order[0]).permutation(self.order)

    def __getitem__(self, index):
        rows = self.order[7 * index : 7 * index + 7]
        return X[rows], Y[rows]


@pytest.mark.slow_cases("<lambda>0", "<lambda>1", "<lambda>2")
@pytest.mark.parametrize(
    "data",
    [
        lambda: changing(shuffled),
        lambda: batches().unbatch().shuffle(60).batch(7),
        lambda: batches().shuffle(9),
        Shuffled,
    ],
)
def test_another_order_is_said_once(data, caplog, float64):
    kept = fitted(batches(), kormos_opt.LBFGS())
    with caplog.at_level(logging.WARNING, "kormos_opt"):
        assert_same_fit(kept, fitted(data(), kormos_opt.LBFGS(cache=False), kept[-1]))
    assert sum("another order in every pass" in record.getMessage() for record in caplog.records) == 1


def test_sparse_and_ragged_data_is_checked_too(float64):
    passes = []

    def rows():
        passes.append(1)
        for i in range(60):
            yield X[i] + 1e-9 * (len(passes) > 5), Y[i]

    signature = (tf.TensorSpec((4,), X.dtype), tf.TensorSpec((1,), Y.dtype))
    data = tf.data.Dataset.from_generator(rows, output_signature=signature).batch(7)
    data = data.map(lambda x, y: (tf.sparse.from_dense(x), y))
    model = keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(1)])
    with pytest.raises(RuntimeError, match="Expected the same data in every pass"):
        compiled(model, kormos_opt.LBFGS(cache=False)).fit(data, epochs=9, verbose=0)


def test_the_next_batch_is_read_while_one_is_evaluated():
    read = []

    def rows():
        for i in range(9):
            read.append(i)
            yield X[i : i + 1], Y[i : i + 1]

    signature = (tf.TensorSpec((None, 4), X.dtype), tf.TensorSpec((None, 1), Y.dtype))
    data = tf.data.Dataset.from_generator(rows, output_signature=signature)
    batches = iter(Batches(None, data, None, None, None, None, None))  # without a name it would stop reading here
    next(batches)
    deadline = time.monotonic() + 10
    while len(read) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 2 <= len(read) <= 5
