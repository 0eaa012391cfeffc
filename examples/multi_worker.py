"""Several processes that act as one
=================================

Softmax regression on MNIST, each process with its part of the images::

    python -m examples.multi_worker --workers 2 [--data FOLDER] [--epochs 30] [--engine graph] [--backup FOLDER]

.. image:: /multi_worker.png

This starts them all on one host. On several machines start one process on each, with its own TF_CONFIG and without
``--workers``, and a ``--backup`` folder that all of them see::

    TF_CONFIG='{"cluster": {"worker": ["host-a:12345", "host-b:12345"]}, "task": {"type": "worker", "index": 0}}' \\
        python -m examples.multi_worker --backup /shared/backup

FOLDER of ``--data`` holds ``mnist.npz``; without it Keras downloads the images. With ``--backup`` a run that was killed
goes on from its last epoch when it is started again. ``--picture PNG`` draws the loss.
"""

# sphinx_gallery_thumbnail_path = "multi_worker.png"

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import keras
import pandas as pd
import tensorflow as tf

import kormos_opt
from examples.data import mnist


def main() -> None:
    """Starts the workers, or is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, help="processes to start on this host")
    parser.add_argument("--data", help="folder with mnist.npz")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--engine", choices=["scipy", "graph", "tfp"], default="scipy")
    parser.add_argument("--backup", help="folder to go on from after a crash")
    parser.add_argument("--rows", type=int, default=60_000, help="images to take")
    parser.add_argument("--picture", help="file for the picture of the loss")
    arguments = parser.parse_args()
    if arguments.workers:
        sys.exit(start(arguments.workers, drop_workers(sys.argv[1:])))
    train(arguments)


def train(arguments: argparse.Namespace) -> None:
    """What every worker runs: all of them the same."""
    is_worker = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if is_worker else tf.distribute.get_strategy()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10, "softmax")])
        model.compile(kormos_opt.LBFGS(engine=arguments.engine), "categorical_crossentropy", metrics=["accuracy"])
    x, y = mnist(arguments.data)
    callbacks = [keras.callbacks.BackupAndRestore(arguments.backup)] if arguments.backup else []
    begin = time.perf_counter()
    rows = arguments.rows
    history = model.fit(x[:rows], y[:rows], epochs=arguments.epochs, callbacks=callbacks, verbose=0).history
    if not is_worker or strategy.cluster_resolver.task_id == 0:
        print(pd.DataFrame(history).rename_axis("epoch").to_string(max_rows=10, float_format="{:.6g}".format))
        print(model.optimizer.result.message)
        print(f"{strategy.num_replicas_in_sync} workers, {time.perf_counter() - begin:.1f} s")
        if arguments.picture:
            kormos_opt.plot_history(history)[0].figure.savefig(arguments.picture, dpi=110)


def start(workers: int, arguments: list[str]) -> int:
    """Runs this program in `workers` processes. Returns the exit status of the first that failed, else 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    processes = []
    for index in range(workers):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, "-m", "examples.multi_worker", *arguments]
        processes.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}))
    return max(abs(process.wait()) for process in processes)


def drop_workers(arguments: list[str]) -> list[str]:
    """The command line for one worker."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--workers")
    return parser.parse_known_args(arguments)[1]


if __name__ == "__main__":
    main()
