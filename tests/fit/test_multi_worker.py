"""Fits on several processes of this host under `MultiWorkerMirroredStrategy`: every worker has the iterates of one."""

import json
import os
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest

from tests.support.problems import regression
from tests.support.slow import matches
from tests.support.worker import CASES, main

pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.timeout(900)]


def start(count, arguments, folder):
    """Starts `count` workers; each runs `python ARGUMENTS` and logs to `folder`."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        variables = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        with open(folder / f"{index}.log", "w") as log:
            command = [sys.executable, *arguments]
            processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT))
            processes[-1].log = folder / log.name
    return processes


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def finish(processes, timeout=700):
    """Waits for all, and fails with the log of one that failed."""
    try:
        for process in processes:
            assert process.wait(timeout) == 0, process.log.read_text()[-6000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    table = np.hstack(regression(rows=61, dtype="float64"))
    for i, part in enumerate(np.split(table, [3, 20, 21, 50])):
        np.savetxt(folder / f"{i}.csv", part, delimiter=",", fmt="%.17g")
    return folder


def command(folder, *cases):
    return ["-m", "tests.support.worker", str(folder), *cases]


def answers(folder, *workers):
    return [json.loads((folder / f"{worker}.json").read_text()) for worker in workers]


@pytest.fixture(scope="module")
def death(folder):
    """Two workers, one of which is killed in its fourth epoch: what the other one did."""
    survivor, dead = start(2, command(folder, "dies"), folder)
    assert dead.wait(120) == -9
    begin = time.monotonic()
    code = survivor.wait(60)
    return code, time.monotonic() - begin, survivor.log.read_text()


@pytest.fixture(scope="module")
def two_workers(folder, death, request):
    """What this process alone and each of two workers says of the cases. They begin where the dead ones ended."""
    marks = test_iterates_are_those_of_one_process.pytestmark
    slow = next(mark.args for mark in marks if mark.name == "slow_cases")
    is_thorough = request.config.getoption("--thorough")
    cases = [case for case in CASES if is_thorough or not matches(case, slow)]
    pair = start(2, command(folder, "restarts", *cases, "collectives", "disagrees", "fails"), folder)
    try:
        main(folder, cases)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        finish(pair)
    return answers(folder, "alone", 0, 1)


def assert_same(case, alone, *workers):
    alone, first, *others = (each[case] for each in (alone, *workers))
    assert all(other == first for other in others)
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-10, atol=1e-12)
    assert list(first["history"]) == list(alone["history"])
    for name, column in alone["history"].items():
        np.testing.assert_allclose(first["history"][name], column, rtol=1e-6, err_msg=name)
    assert first["message"] == alone["message"]
    np.testing.assert_allclose(first.get("evaluation", 0), alone.get("evaluation", 0), rtol=1e-6)


@pytest.mark.slow_cases(
    "*-cg",
    "PyDataset",
    "by element",
    "by file",
    "callbacks",
    "chain",
    "chunks",
    "one element",
    "one row",
    "some steps",
    "streamed",
    "tfp",
    "to the end",
    "trust-*",
    "weights",
)
@pytest.mark.parametrize("case", CASES)
def test_iterates_are_those_of_one_process(case, two_workers):
    assert_same(case, *two_workers)


def test_one_all_reduce_an_evaluation(two_workers):
    assert [results["collectives"] for results in two_workers[1:]] == [[1, 1]] * 2


@pytest.mark.slow  # shown by test_multi_worker.py, test_a_restart_goes_on too
def test_files_are_written_once(two_workers, folder):
    alone, two = [pd.read_csv(folder / f"files of {count}" / "log.csv") for count in (1, 2)]
    pd.testing.assert_frame_equal(two, alone, rtol=1e-6)
    best = [keras.models.load_model(folder / f"files of {count}" / "best.keras").get_weights() for count in (1, 2)]
    for one, two in zip(*best, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6)


@pytest.mark.slow  # shown by test_multi_worker.py, by file and streamed too
def test_three_workers_with_uneven_shards(folder, two_workers):
    """61 rows, five files and nine batches: no worker has as much as another."""
    cases = ["streamed files", "callbacks"]
    finish(start(3, command(folder, *cases), folder))
    for case in cases:
        assert_same(case, two_workers[0], *answers(folder, *range(3)))


def test_a_death_is_noticed(death):
    code, seconds, log = death
    assert code != 0
    assert seconds < 60
    assert "Expected every worker to take part in an evaluation" in log


def test_a_restart_goes_on(two_workers):
    alone, *both = two_workers
    first, second = (each["restarts"] for each in both)
    assert first == second
    assert len(first["history"]["loss"]) == 8 - 4
    never_stopped = alone["light"]
    np.testing.assert_allclose(first["weights"], never_stopped["weights"], rtol=1e-10)
    np.testing.assert_allclose(first["history"]["loss"], never_stopped["history"]["loss"][4:], rtol=1e-10)


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("disagrees", ["Expected the same weights on every worker", "Expected the same weights on every worker"]),
        ("fails", ["Expected every worker to get through its data", "a disk is broken"]),
    ],
)
def test_what_goes_wrong_on_one_worker_ends_all(case, messages, two_workers):
    for worker, message in zip(two_workers[1:], messages, strict=True):
        assert message in worker[case]
