"""Fits on several processes of this host under `MultiWorkerMirroredStrategy`: every worker has the iterates of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.problems import regression
from tests.worker import CASES


def start(count, arguments, folder, **environment):
    """Starts `count` workers, or with `None` a process alone, each running `python ARGUMENTS` and logging to `folder`."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count or 0)]
    processes = []
    for index in range(count or 1):
        variables = {**os.environ, **environment}
        variables.pop("TF_CONFIG", None)
        if count:
            task = {"type": "worker", "index": index}
            variables["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, *arguments]
        with open(folder / f"{index if count else 'alone'}.log", "w") as log:
            processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT))
            processes[-1].log = folder / log.name
    return processes


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def finish(processes, timeout=300):
    """Waits for all, and fails with the log of one that failed."""
    try:
        for process in processes:
            assert process.wait(timeout) == 0, process.log.read_text()[-6000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    table = np.hstack(regression(rows=61, dtype="float64"))
    for i, part in enumerate(np.split(table, [3, 20, 21, 50])):
        np.savetxt(folder / f"{i}.csv", part, delimiter=",", fmt="%.17g")
    return folder


@pytest.fixture(scope="session")
def two_workers(folder):
    command = ["-m", "tests.worker", str(folder)]
    finish([*start(2, command, folder), *start(None, command, folder)])
    return [json.loads((folder / f"{worker}.json").read_text()) for worker in ("alone", 0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_iterates_are_those_of_one_process(case, two_workers):
    alone, *workers = (results[case] for results in two_workers)
    assert workers[0] == workers[1]
    assert_same(alone, workers[0])


def assert_same(alone, worker):
    np.testing.assert_allclose(worker["weights"], alone["weights"], rtol=1e-10, atol=1e-12)
    assert list(worker["history"]) == list(alone["history"])
    for name, column in alone["history"].items():
        np.testing.assert_allclose(worker["history"][name], column, rtol=1e-6, err_msg=name)
