# SPDX-License-Identifier: Apache-2.0
"""Sweeps to break, and what an undisturbed one finds."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from raycomp.results.store import Store
from tests.helpers.jobs import command, environment

INJECT = Path(__file__).parents[1] / "faults" / "inject"
Outcomes = dict[tuple[str, str], Any]


def start(place: Path, name: str, *options: str, faults: dict[str, Any] | None = None, **own: str) -> subprocess.Popen:
    """A sweep with one worker, in a session of its own, logging to NAME.log."""
    paths = os.pathsep.join(p for p in (str(INJECT), os.environ.get("PYTHONPATH", "")) if p)
    variables = {"RAYCOMP_FAULTS": json.dumps(faults), "PYTHONPATH": paths} if faults else {}
    with (place / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            command(place, "--name", name, "--workers", "1", *options),
            env={**environment(place), **variables, **own},
            cwd=place,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, place: Path, name: str, code: int = 0) -> str:
    """Wait for a sweep; returns what it printed."""
    assert process.wait(300) == code, log(place, name)
    return log(place, name)


def log(place: Path, name: str) -> str:
    return (place / f"{name}.log").read_text()


def outcomes(place: Path, name: str, results: str = "results") -> Outcomes:
    """What was measured of every recipe at every stage; each once, and whole."""
    rows = Store(place / results / name).rows()
    keys = [(row.stage, row.recipe_id) for row in rows]
    assert len(keys) == len(set(keys))
    return {
        key: (row.clean_miou, row.corrupted_miou, row.gflops) if row.status == "complete" else row.error
        for key, row in zip(keys, rows, strict=True)
    }


def logged(place: Path, name: str) -> list[str]:
    """Keys of the sweep's MLflow runs, with repetitions."""
    client = MlflowClient(f"sqlite:///{place}/results/mlflow.db")
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    parents = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    assert len(parents) == 1
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'")
    return sorted(run.data.tags["raycomp.row"] for run in children)


def rows_there(place: Path, name: str, results: str = "results") -> int:
    return len(list((place / results / name / "trials").glob("[a-z]*.parquet")))


def at_least(place: Path, name: str, rows: int) -> Callable[[], bool]:
    """Whether a sweep has this many rows."""
    return lambda: rows_there(place, name) >= rows


def wait_until(condition: Callable[[], object], process: subprocess.Popen, what: str, log: Path) -> Any:
    """Wait for something that happens while a process that logs to a file runs."""
    deadline = time.monotonic() + 300
    while not (value := condition()):
        assert process.poll() is None, f"the sweep ended before {what}: {log.read_text()}"
        assert time.monotonic() < deadline, f"no {what}: {log.read_text()}"
        time.sleep(0.02)
    return value


def trial_workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The Ray actors below a driver that runs its own Ray."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        return [child for child in below if "ray::Trial" in " ".join(child.cmdline() or [child.name()])]
    except psutil.NoSuchProcess:
        return []


def end_session(process: subprocess.Popen) -> None:
    """Kill what a test left of a sweep."""
    for child in psutil.process_iter():
        try:
            if os.getsid(child.pid) == process.pid:
                child.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    process.wait()
