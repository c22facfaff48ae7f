# SPDX-License-Identifier: Apache-2.0
"""The main job on a running Ray head, as `ray job submit` starts it: to its end, stopped, and gone on with."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raycomp.results.query import completed
from raycomp.results.store import Store
from tests.helpers.jobs import command

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(place):
    """The address of a Ray head of its own, with as long to stop a job as `cluster.yaml` gives it."""
    folder = tempfile.mkdtemp(prefix="rc-", dir="/tmp")  # sockets of Ray need a short path
    port, dashboard = free_port(), free_port()
    settings = {"RAY_AUTH_MODE": "disabled", "RAYCOMP_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "ray-client-server-port")]
    options = ["--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", *ports]
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", "--disable-usage-stats", *options],
            env={**os.environ, **settings, "RAY_JOB_STOP_WAIT_TIME_S": "60"},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    while job("list", address).returncode != 0:
        assert process.poll() is None, (place / "head.log").read_text()
        assert time.monotonic() < deadline, (place / "head.log").read_text()
        time.sleep(1)
    yield address
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def job(action: str, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", action, "--address", address, *options],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def parent(place: Path, name: str) -> str:
    """Status of a sweep's MLflow run."""
    client = MlflowClient(f"sqlite:///{place}/results/mlflow.db")
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    found = client.search_runs([experiment], f"tags.family = 'sweep' and attributes.run_name = '{name}'")
    return found[0].info.status


def submit(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Submit a job; a head that has just started may have nobody yet to take it."""
    deadline = time.monotonic() + 120
    while True:
        done = job("submit", address, *options)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


@pytest.mark.slow
def test_a_job_is_followed_stopped_and_gone_on_with(place, head):
    options = ("--name", "job", "--trials", "40", "--budget", "80%")
    folder = place / "results" / "job"
    submitted = submit(head, "--no-wait", "--submission-id", "first", "--", *command(place, *options))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 240
    while len(list((folder / "trials").glob("*.parquet"))) < 4:
        assert time.monotonic() < deadline, job("logs", head, "first").stdout
        time.sleep(0.2)
    assert job("stop", head, "first").returncode == 0
    logs = job("logs", head, "first").stdout
    assert "'first' was stopped" in job("status", head, "first").stdout
    assert "interrupted: run the same command to resume" in logs
    assert "Pareto front" in logs
    before = Store(folder).rows()
    assert 4 <= len(before) < 41
    assert all(row.status == "complete" for row in before)
    assert parent(place, "job") == "KILLED"
    again = submit(head, "--submission-id", "second", "--", *command(place, *options))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(completed(before, 'search')) - 1} of 40 trials done, resuming" in again.stdout
    assert "trial 40/40" in again.stdout
    rows = Store(folder).rows()
    assert len([row for row in completed(rows, "search") if row.origin != "reference"]) == 40
    assert {row.recipe_id for row in before} <= {row.recipe_id for row in rows}
    assert parent(place, "job") == "FINISHED"


@pytest.mark.slow
def test_a_job_with_bad_input_fails_with_one_line(place, head):
    done = submit(head, "--submission-id", "bad", "--", *command(place, "--budget", "1%"))
    assert done.returncode == 1
    assert "error: search.budget 1.0%" in done.stdout
    assert "exit code 2" in job("status", head, "bad").stdout
