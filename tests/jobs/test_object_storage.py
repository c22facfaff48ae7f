# SPDX-License-Identifier: Apache-2.0
"""A sweep away from this machine's disk: rows in S3, the study in PostgreSQL, runs on an MLflow server over that."""

import sys
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from raycomp.results.query import completed
from raycomp.results.store import Store, sweep_folder
from tests.helpers.jobs import command, execute
from tests.helpers.services import SECRET, mlflow_server, postgres, s3

RESULTS = "s3://sweeps/results"


def texts(folder: Path) -> str:
    return "".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_sweep_in_object_storage_and_databases(place, tmp_path, monkeypatch):
    artifacts = tmp_path / "artifacts"
    with s3() as storage, postgres() as server, mlflow_server(f"{server}mlflow", artifacts) as tracking:
        for name, value in storage.items():
            monkeypatch.setenv(name, value)
        options = [
            "--results",
            RESULTS,
            "--name",
            "far",
            "--trials",
            "5",
            "--tracking",
            tracking,
            "--study",
            f"{server}optuna",
        ]

        def run(*arguments: str) -> str:
            done = execute(place, *arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        first = run(*command(place, *options))
        assert "rows:   s3://sweeps/results/far/trials/*.parquet" in first
        store = Store(sweep_folder(RESULTS, "far"))
        rows = store.rows()
        assert len([row for row in completed(rows, "search") if row.origin != "reference"]) == 5
        assert completed(rows, "full")
        assert (store.folder / "front.png").is_file()
        options[options.index("5")] = "7"
        again = run(*command(place, *options))
        assert f"{RESULTS}/far: 5 of 7 trials done, resuming" in again
        rows = store.rows()
        study = optuna.load_study(study_name="far", storage=f"{server}optuna")
        assert len(study.trials) == len(completed(rows, "search")) == 8
        client = MlflowClient(tracking)
        experiment = client.get_experiment_by_name("raycomp").experiment_id
        runs = client.search_runs([experiment])
        assert len(runs) == len(rows) + 1
        parent = next(run for run in runs if run.data.tags["family"] == "sweep")
        assert (parent.info.status, parent.data.tags["raycomp.folder"]) == ("FINISHED", f"{RESULTS}/far")
        assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"sweep.yaml", "front.png", "report.html"}
        tool = str(Path(sys.executable).with_name("raycomp"))
        assert "Pareto front" in run(tool, "front", "far", "--results", RESULTS)
        recipe = rows[3].recipe_id
        assert f"Recipe {recipe}" in run(tool, "explain", recipe, "--results", RESULTS)
        compacted = " ".join(run(tool, "compact", "far", "--results", RESULTS).split())
        assert f"{len(rows)} files merged into one" in compacted
        assert store.rows() == rows
        track = run(tool, "track", "far", "--results", RESULTS, "--tracking", tracking)
        assert f"has {len(rows)} of {len(rows)} rows" in " ".join(track.split())
        held = b"".join(path.read_bytes() for path in (store.folder / "trials").glob("*"))
        logged = " ".join(str(run.data.tags | run.data.params) for run in runs)
        everything = first + again + track + held.decode(errors="replace") + logged + texts(tmp_path)
        everything += (store.folder / "sweep.yaml").read_text()
        assert "127.0.0.1" in everything
        assert SECRET not in everything
