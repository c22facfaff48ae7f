# SPDX-License-Identifier: Apache-2.0
"""A node that is taken away in the middle of a trial, as a spot machine is: its trial runs elsewhere."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from raycomp.results.store import Store
from tests.helpers.services import free_port
from tests.helpers.sweeps import end_session, finish, outcomes, rows_there, start, wait_until

pytestmark = pytest.mark.faults
RAY = str(Path(sys.executable).with_name("ray"))


def started(log: Path, *options: str) -> subprocess.Popen:
    """A node that has joined; Ray gives up after 30 s, which are too few on a busy machine."""
    for _ in range(4):
        process = ray(log, *options)
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.2)
        end_session(process)
    raise AssertionError(log.read_text())


def ray(log: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [RAY, "start", "--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0", *options],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.fixture
def cluster(place):
    """A head without CPUs and two nodes of one each, all on ports that are free: address and the nodes' processes."""
    folder, port = tempfile.mkdtemp(prefix="rc-", dir="/tmp"), free_port()
    ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "ray-client-server-port")]
    head = started(
        place / "head.log", "--head", "--num-cpus=0", f"--port={port}", f"--temp-dir={folder}",
        "--include-dashboard=false", *ports,
    )  # fmt: skip
    address, agent = f"127.0.0.1:{port}", "--dashboard-agent-listen-port"
    nodes = [
        started(place / f"node{n}.log", f"--address={address}", "--num-cpus=1", f"{agent}={free_port()}")
        for n in range(2)
    ]
    yield address, nodes
    for process in (*nodes, head):
        process.send_signal(signal.SIGTERM)
    for process in (*nodes, head):
        process.wait(60)
        end_session(process)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_goes_in_the_middle_of_a_trial_costs_nothing_but_time(place, undisturbed_random, cluster):
    options = ("--space", "random.yaml", "--workers", "2")
    address, nodes = cluster
    own = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    process = start(place, "spot", *options, **own)
    wait_until(lambda: rows_there(place, "spot") >= 3, process, "rows", place / "spot.log")
    end_session(nodes[0])  # raylet and workers, at once
    finish(process, place, "spot")
    assert outcomes(place, "spot") == undisturbed_random
    died = [row for row in Store(place / "results" / "spot").rows() if row.status != "complete"]
    assert died == []
