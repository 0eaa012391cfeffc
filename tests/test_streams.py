"""Data that is read anew in every pass: the same iterates, one batch at a time, and errors when it changes."""

import logging
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kormos_opt
from kormos_opt.data.batches import Batches
from tests.helpers import flat_weights, with_dropout_and_batchnorm
from tests.problems import compiled, network, regression

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


class Watch(keras.callbacks.Callback):
    """The weights and seeds that a callback sees after every batch."""

    def __init__(self):
        super().__init__()
        self.epochs, self.steps = [], []

    def look(self):
        return flat_weights(self.model), [each.numpy() for each in self.model.non_trainable_variables]

    def on_train_begin(self, logs=None):
        self.epochs.append(self.look())

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append([])

    def on_train_batch_end(self, batch, logs=None):
        self.steps[-1].append((batch, logs, *self.look()))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.look())


@pytest.mark.parametrize("make", [network, with_dropout_and_batchnorm])
def test_progress_is_shown_batch_by_batch_at_the_last_iterate(make, float64):
    watch = Watch()
    _, history, _ = fitted(batches(), kormos_opt.LBFGS(cache=False), make=make, epochs=4, callbacks=[watch])
    assert [[batch for batch, *_ in steps] for steps in watch.steps] == [list(range(BATCHES))] * 4
    for epoch, steps in enumerate(watch.steps):
        weights, state = watch.epochs[epoch]
        for _, logs, seen, seen_state in steps[:-1]:
            np.testing.assert_array_equal(seen, weights)
            for one, other in zip(seen_state, state, strict=True):
                np.testing.assert_array_equal(one, other)
            if epoch:
                assert logs["loss"] == history["loss"][epoch - 1]
    assert watch.steps[1][-1][1]["loss"] == history["loss"][1]


@pytest.mark.parametrize("optimizer", [kormos_opt.LBFGS, kormos_opt.NewtonCG, kormos_opt.NelderMead, kormos_opt.COBYQA])
def test_going_batch_by_batch_changes_nothing(optimizer, monkeypatch, float64):
    stepping = fitted(batches(), optimizer(cache=False), epochs=4)
    monkeypatch.setattr("kormos_opt.data.full_batch.BatchList.steps", 1)
    at_once = fitted(batches(), optimizer(cache=False), stepping[-1], epochs=4)
    np.testing.assert_array_equal(flat_weights(stepping[0]), flat_weights(at_once[0]))
    assert stepping[1] == at_once[1]


@pytest.mark.parametrize("when", ["stop", "raise"])
def test_an_end_between_two_batches_keeps_the_last_iterate(when, float64):
    whole = fitted(batches(), kormos_opt.LBFGS(cache=False), epochs=6)

    class End(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4 and self.model.optimizer.iterations == 3:
                if when == "raise":
                    raise InterruptedError
                self.model.stop_training = True

    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    model.set_weights(whole[-1])
    try:
        model.fit(batches(), epochs=6, callbacks=[End()], verbose=0)
    except InterruptedError:
        assert when == "raise"
    third = fitted(batches(), kormos_opt.LBFGS(cache=False), whole[-1], epochs=3)
    np.testing.assert_array_equal(flat_weights(model), flat_weights(third[0]))
    if when == "stop":
        rows = model.fit(batches(), epochs=6, initial_epoch=3, verbose=0).history
        assert rows["loss"] == whole[1]["loss"][3:]
    else:
        assert len(model.fit(batches(), epochs=2, verbose=0).history["loss"]) == 2


@pytest.mark.parametrize("how", ["raise", "stop"])
def test_an_end_in_the_very_first_evaluation(how, float64):
    class End(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if how == "raise":
                raise InterruptedError
            self.model.stop_training = True

    model = compiled(network(), kormos_opt.LBFGS(cache=False))
    before = flat_weights(model)
    try:
        model.fit(batches(), epochs=3, callbacks=[End()], verbose=0)
    except InterruptedError:
        assert how == "raise"
    np.testing.assert_array_equal(flat_weights(model), before)
    assert len(model.fit(batches(), epochs=2, verbose=0).history["loss"]) == 2


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


def test_a_callback_may_evaluate_between_batches(float64):
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
    watch = Watch()
    with pytest.raises(RuntimeError, match=message):
        model.fit(changing(change), epochs=9, callbacks=[watch], verbose=0)
    np.testing.assert_array_equal(flat_weights(model), watch.epochs[-1][0])
    assert len(watch.epochs) > 1


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
