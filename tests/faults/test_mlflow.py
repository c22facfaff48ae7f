# SPDX-License-Identifier: Apache-2.0
"""An MLflow server that is down at the start, or ends midway: the sweep goes on, and a backfill completes it."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.jobs import environment
from tests.helpers.services import free_port, mlflow_server
from tests.helpers.sweeps import finish, outcomes, rows_there, start, wait_until

pytestmark = pytest.mark.faults


def track(place: Path, *options: str) -> str:
    tool = Path(sys.executable).with_name("raycomp")
    done = subprocess.run(
        [str(tool), "track", *options],
        env=environment(place),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return f"{done.returncode}: {' '.join((done.stdout + done.stderr).split())}"


def keys(uri: str, name: str) -> list[str]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    [parent] = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    assert parent.info.status == "FINISHED"
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.status for run in children} == {"FINISHED"}
    assert any(run.data.tags["on_front"] == "true" for run in children)
    return sorted(run.data.tags["raycomp.row"] for run in children)


def test_a_sweep_does_without_its_server_and_is_completed_afterwards(place, tmp_path):
    port, store = free_port(), f"sqlite:///{tmp_path}/server.db"
    uri = f"http://127.0.0.1:{port}"
    tracking = ("--tracking", uri)
    output = finish(start(place, "down", *tracking), place, "down")
    assert output.count(f"MLflow at {uri} failed") == 1
    assert "`raycomp track --backfill` adds missing rows later" in output
    assert track(place, "down", *tracking).startswith(f"2: error: MLflow at {uri}: ")
    with mlflow_server(store, tmp_path / "artifacts", port):
        process = start(place, "midway", *tracking, faults={"": 0.4})
        wait_until(lambda: rows_there(place, "midway") >= 4, process, "rows", place / "midway.log")
    output = finish(process, place, "midway")
    assert output.count(f"MLflow at {uri} failed") == 1
    assert outcomes(place, "midway") == outcomes(place, "down")
    rows = len(outcomes(place, "down"))
    with mlflow_server(store, tmp_path / "artifacts", port):
        assert f"{rows} of {rows} rows added" in track(place, "down", "--backfill", *tracking)
        assert f" of {rows} rows; --backfill adds the rest" in track(place, "midway", *tracking)
        assert " rows added" in track(place, "midway", "--backfill", *tracking)
        assert f"has {rows} of {rows} rows" in track(place, "midway", "--backfill", *tracking)
        for name in ("down", "midway"):
            assert keys(uri, name) == sorted("-".join(key) for key in outcomes(place, name))
