"""How an evaluation and an iteration grow with rows, parameters, replicas and workers, and what the network carries.

    python -m benchmarks.scaling [--only rows,parameters,replicas,workers,memory] [--largest 1e7]

Each measurement is a process of its own. The growth exponent is the slope of log(seconds) over log(size), fitted to the
sizes from a tenth of the largest on and to all of them. Bytes are those that the loopback device has carried.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import psutil
import tensorflow as tf

import kormos_opt
from kormos_opt.objective.bound_objective import BoundObjective

RUNS = 5
NEVER = {"ftol": 0, "gtol": 0}


def main() -> None:
    """Measures the tables asked for and prints them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TABLES), help="tables, separated by commas")
    parser.add_argument("--largest", type=float, default=1e7, help="rows and parameters to go up to")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what = arguments.measure.pop("what")
        print(json.dumps(MEASURES[what](**arguments.measure)))
        return
    for name in arguments.only.split(","):
        title, rows = TABLES[name]
        table = pd.DataFrame(rows(int(arguments.largest)))
        print(f"\n{title}\n\n{table.to_markdown(index=False, floatfmt='.3g')}", flush=True)
        for parameters, part in table.groupby("parameters") if name == "workers" else [(None, table)]:
            for column in [column for column in part if column.startswith("ms/")]:
                of = "" if parameters is None else f" with {parameters:,} parameters"
                print(
                    f"\nGrowth exponent of {column} over {name}{of}: {exponents(part[name], part[column])}", flush=True
                )


def exponents(sizes, seconds):
    """The slopes over the last decade and over all sizes, in words."""
    x, y = np.log10(sizes.to_numpy(float)), np.log10(seconds.to_numpy(float))
    last = x >= x.max() - 1
    whole = np.polyfit(x, y, 1)[0]
    return (
        f"{whole:.2f}"
        if last.all()
        else f"{np.polyfit(x[last], y[last], 1)[0]:.2f} in the last decade, {whole:.2f} in all"
    )


def by_rows(largest):
    """A tanh layer on 20 columns."""
    for rows in powers(3, largest):
        yield {"rows": rows, **measured("evaluation", rows=rows, columns=20, outputs=1)}


def by_parameters(largest):
    """Ten tanh units on 100 rows: an evaluation, and the iteration of L-BFGS-B around it."""
    for parameters in powers(2, largest):
        yield {
            "parameters": parameters,
            **measured("evaluation", rows=100, columns=parameters // 10, outputs=10, engine="scipy", iterations=20),
        }


def by_replicas(largest):
    """Logical devices of the same cores: what the replicas cost, not what they gain."""
    for replicas in (1, 2):
        yield {
            "replicas": replicas,
            **measured("evaluation", rows=largest // 10, columns=50, outputs=10, replicas=replicas),
        }


def by_workers(largest):
    """Processes of one host, each with its share of the rows."""
    for columns in (100, 10_000, 100_000):
        for workers in (1, 2, 4):
            rows = max(largest // (10 * columns), 400)
            answers = together(workers, "evaluation", rows=rows, columns=columns, outputs=10)
            size = 10 * columns + 10
            row = {"parameters": size, "workers": workers, "rows": rows, **answers[0]}
            if workers > 1:
                row["MB carried"] = answers[0].pop("carried") / 1e6
                row["2 (workers - 1) 8 n, MB"] = 16e-6 * (workers - 1) * size
            row.pop("carried", None)
            yield row


def by_memory(largest):
    """Arrays of 2 GB: the peak of a process that fits for two epochs."""
    rows = largest // 10
    for optimizer in ("adam", "l-bfgs-b"):
        peaks = [measured("peak", rows=rows, columns=512, optimizer=optimizer)["GiB"] for _ in range(3)]
        yield {"optimizer": optimizer, "data, GB": rows * 513 * 4 / 1e9, "peak, GiB": statistics.median(peaks)}


def evaluation(rows, columns, outputs, replicas=0, engine=None, iterations=0):
    """Milliseconds of an evaluation, and with `engine` of an iteration; with several workers, bytes on the network."""
    strategy = tf.distribute.get_strategy()
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((columns,)), keras.layers.Dense(outputs, "tanh")])
        model.compile(kormos_opt.LBFGS(iterations_per_epoch=max(iterations, 1), options=NEVER), "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns), dtype="float32")
    y = rng.standard_normal((rows, outputs), dtype="float32")
    times, carried = [], []
    evaluate = BoundObjective.evaluate

    def timed(*arguments, **keywords):
        before, begin = psutil.net_io_counters(pernic=True)["lo"].bytes_sent, time.perf_counter()
        answer = evaluate(*arguments, **keywords)
        times.append(time.perf_counter() - begin)
        carried.append(psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before)
        return answer

    BoundObjective.evaluate = timed
    model.fit(x, y, epochs=1, verbose=0)
    first = len(times)
    begin, epochs, before = time.perf_counter(), RUNS if iterations else 20, int(model.optimizer.iterations.numpy())
    model.fit(x, y, epochs=1 + epochs, initial_epoch=1, verbose=0)
    whole = time.perf_counter() - begin
    answer = {"ms/evaluation": 1e3 * statistics.median(times[first:]), "carried": statistics.median(carried[first:])}
    if iterations:
        answer["ms/iteration"] = 1e3 * whole / (int(model.optimizer.iterations.numpy()) - before)
        answer["peak, GiB"] = peak_memory()
    return answer


def peak(rows, columns, optimizer):
    """Peak memory of a process that holds arrays of `rows` rows and fits a linear model to them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns), dtype="float32")
    y = rng.standard_normal((rows, 1), dtype="float32")
    model = keras.Sequential([keras.Input((columns,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    model.fit(x, y, epochs=2, batch_size=1024, verbose=0)
    return {"GiB": peak_memory()}


def peak_memory():
    """Of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(what, **arguments):
    """The answer of a process of its own."""
    answer = together(0, what, **arguments)[0]
    answer.pop("carried", None)
    return answer


def together(workers, what, **arguments):
    """The answers of `workers` processes that work together, or of one that works alone."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    command = [sys.executable, "-m", "benchmarks.scaling", "--measure", json.dumps({"what": what, **arguments})]
    processes = []
    for index in range(max(workers, 1)):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)} if workers else os.environ
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def powers(first, largest):
    """Powers of ten."""
    return [10**power for power in range(first, int(np.log10(largest)) + 1)]


MEASURES = {"evaluation": evaluation, "peak": peak}
TABLES = {
    "rows": ("Rows: 20 columns, one tanh unit", by_rows),
    "parameters": ("Parameters: ten tanh units, 100 rows", by_parameters),
    "replicas": ("Replicas on the same cores: 50 columns, ten tanh units", by_replicas),
    "workers": ("Workers on one host", by_workers),
    "memory": ("Peak memory, arrays of 2 GB", by_memory),
}

if __name__ == "__main__":
    main()
