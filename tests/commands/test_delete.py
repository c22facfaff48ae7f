# SPDX-License-Identifier: Apache-2.0
"""`raycomp delete` removes a sweep's folder and its MLflow runs, and nothing of another sweep."""

import optuna
import pytest
from mlflow import MlflowClient

from raycomp.commands.manage import delete_command
from raycomp.errors import UserError
from raycomp.results.store import Store
from raycomp.results.tracking import Tracker, default_uri
from tests.helpers.sweep_views import sweep_view


def written(folder, rows):
    store, sweep = Store(folder), sweep_view()
    store.open(sweep.config)
    for row in rows:
        store.write(row)
    (folder / "models").mkdir()
    (folder / "models" / "one.safetensors").write_bytes(b"weights")
    store.lock.drop()
    return store


def test_only_what_is_asked_for_and_not_in_use_is_deleted(tmp_path, capsys):
    store = written(tmp_path / "tiny", sweep_view().rows[:2])
    with pytest.raises(UserError, match="stdin is not a terminal; confirm with --yes"):
        delete_command("tiny", results=str(tmp_path))
    store.lock.take()
    with pytest.raises(UserError, match="is writing to it"):
        delete_command("tiny", yes=True, keep_runs=True, results=str(tmp_path))
    store.lock.drop()
    assert len(store.rows()) == 2
    with pytest.raises(UserError, match=r"MLflow at nothing://.*the sweep is kept"):
        delete_command("tiny", yes=True, tracking="nothing://here", results=str(tmp_path))
    assert len(store.rows()) == 2
    delete_command("tiny", yes=True, keep_runs=True, results=str(tmp_path))
    assert not (tmp_path / "tiny").exists()
    assert "deleted, with 2 files of rows and 0 runs" in capsys.readouterr().out


def test_a_study_in_a_database_goes_with_its_sweep(tmp_path):
    uri = f"sqlite:///{tmp_path}/studies.db"
    for name in ("tiny", "other"):
        optuna.create_study(storage=uri, study_name=name)
    written(tmp_path / "tiny", [])
    with pytest.raises(UserError, match=r"--study nothing://.*the sweep is kept"):
        delete_command("tiny", yes=True, keep_runs=True, study="nothing://here", results=str(tmp_path))
    delete_command("tiny", yes=True, keep_runs=True, study=uri, results=str(tmp_path))
    assert optuna.get_all_study_names(uri) == ["other"]


@pytest.mark.slow
def test_runs_of_the_sweep_go_and_those_of_another_stay(tmp_path, capsys):
    uri, rows = default_uri(str(tmp_path)), sweep_view().rows[:2]
    for name in ("tiny", "other"):
        store = written(tmp_path / name, rows)
        tracker = Tracker(uri, store.folder, store.config(), [], print)
        for row in rows:
            tracker.log(row)
        tracker.finish(None, finished=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    assert len(client.search_runs([experiment])) == 6
    delete_command("tiny", yes=True, results=str(tmp_path))
    assert "with 2 files of rows and 3 runs in MLflow" in capsys.readouterr().out
    left = client.search_runs([experiment])
    assert {run.data.tags["raycomp.folder"] for run in left if "raycomp.folder" in run.data.tags} == {
        str((tmp_path / "other").resolve())
    }
    assert len(left) == 3
    assert not (tmp_path / "tiny").exists()
    assert len(Store(tmp_path / "other").rows()) == 2
