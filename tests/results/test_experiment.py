# SPDX-License-Identifier: Apache-2.0
"""MLflow's copy after what people and machines do to it: deleted, broken, copied elsewhere."""

import shutil
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as repositories

from raycomp.commands.manage import track_command
from raycomp.results import experiment
from raycomp.results.store import Store
from raycomp.results.tracking import Tracker, default_uri
from tests.helpers.trials import CLASSES, CONFIG, ROWS
from tests.results.databases import fresh_database


def tracker(results: Path, warn=pytest.fail) -> Tracker:
    return Tracker(default_uri(str(results)), results / "sweep", CONFIG, CLASSES, warn)


def logged(results: Path, artifact: str = "", warn=pytest.fail) -> Tracker:
    """All rows, and a file."""
    (results / "sweep").mkdir(exist_ok=True)
    one = tracker(results, warn)
    for row in ROWS:
        one.log(row)
    assert one.finish([ROWS[0]], finished=True)
    if artifact:
        (results / "sweep" / artifact).write_text("x")
        one.attach([results / "sweep" / artifact])
    return one


def parents(results: Path) -> list:
    client = MlflowClient(default_uri(str(results)))
    return client.search_runs([experiment.active(client).experiment_id], "tags.family = 'sweep'")


@pytest.fixture
def results(tmp_path):
    fresh_database(tmp_path / "results")
    return tmp_path / "results"


def test_a_deleted_experiment_is_put_aside_and_filled_from_the_rows(results):
    logged(results)
    client, lines = MlflowClient(default_uri(str(results))), []
    before = experiment.active(client).experiment_id
    client.delete_experiment(before)
    assert tracker(results).missing(ROWS) == ROWS
    logged(results, warn=lines.append)
    assert lines == [
        f"MLflow's experiment raycomp was deleted: renamed to raycomp-deleted-{before}; "
        "this sweep's rows go into a new experiment"
    ]
    assert tracker(results).missing(ROWS) == []
    assert client.get_experiment(before).name == f"raycomp-deleted-{before}"
    assert client.get_experiment(before).lifecycle_stage == "deleted"
    assert len(parents(results)) == 1


def test_a_deleted_run_of_the_sweep_is_made_again(results):
    logged(results)
    [parent] = parents(results)
    MlflowClient(default_uri(str(results))).delete_run(parent.info.run_id)
    assert tracker(results).missing(ROWS) == ROWS
    logged(results)
    assert tracker(results).missing(ROWS) == []


@pytest.mark.parametrize(
    "broken",
    [lambda whole: b"no database at all", lambda whole: whole[:8192] + b"\0" * (len(whole) - 8192)],
    ids=["other", "zeros"],
)
def test_a_broken_database_is_put_aside_and_filled_from_the_rows(results, broken):
    whole, lines = (results / "mlflow.db").read_bytes(), []
    (results / "mlflow.db").write_bytes(broken(whole))
    (results / "mlflow.db-wal").write_bytes(b"")
    assert experiment.damage(results / "mlflow.db")
    assert tracker(results).missing(ROWS) == ROWS
    logged(results, warn=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith(f"{results / 'mlflow.db'} was damaged (")
    assert (results / "mlflow.db.broken-1").read_bytes() == broken(whole)
    assert tracker(results).missing(ROWS) == []


def test_a_file_elsewhere_is_never_renamed(tmp_path):
    (tmp_path / "results" / "sweep").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    lines: list[str] = []
    one = Tracker(f"sqlite:///{tmp_path}/notes.txt", tmp_path / "results" / "sweep", CONFIG, CLASSES, lines.append)
    one.log(ROWS[0])
    assert not one.finish([], finished=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(lines) == 1


def test_copied_results_are_whole_and_write_where_they_are(results, tmp_path):
    logged(results, "front.png")
    copy = tmp_path / "else where#"
    shutil.copytree(results, copy)
    here = sorted(path.relative_to(results) for path in results.rglob("*") if path.is_file())
    repositories.clear()  # by run, which a new process has none of
    assert tracker(copy).missing(ROWS) == []
    logged(copy, "report.html")
    [parent] = parents(copy)
    assert parent.data.tags["raycomp.folder"] == str(copy / "sweep")
    client = MlflowClient(default_uri(str(copy)))
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"front.png", "report.html"}
    where = urlsplit(parent.info.artifact_uri)
    assert Path(unquote(where.path)).is_relative_to(copy)
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1
    other = Tracker(default_uri(str(copy)), copy / "other", CONFIG, CLASSES, pytest.fail)  # a new sweep of the copy
    other.log(ROWS[0])
    assert other.finish([], finished=True)
    other.attach([copy / "sweep" / "report.html"])
    assert len(list(copy.glob("mlartifacts/*/artifacts/report.html"))) == 2
    assert sorted(path.relative_to(results) for path in results.rglob("*") if path.is_file()) == here
    assert tracker(results).missing(ROWS) == []


def test_the_advised_backfill_fills_a_deleted_experiment(results, capsys):
    store = Store(results / "sweep")
    store.open(CONFIG)
    for row in ROWS:
        store.write(row)
    store.lock.drop()
    client = MlflowClient(default_uri(str(results)))
    client.delete_experiment(client.create_experiment("raycomp"))
    track = partial(track_command, sweep="sweep", results=str(results), as_json=False)
    track()
    assert f"has 0 of {len(ROWS)} rows; --backfill adds the rest" in " ".join(capsys.readouterr().out.split())
    track(backfill=True)
    told = capsys.readouterr()
    assert f"{len(ROWS)} of {len(ROWS)} rows added" in " ".join(told.out.split())
    assert "MLflow's experiment raycomp was deleted" in told.err
    track()
    assert f"has {len(ROWS)} of {len(ROWS)} rows" in " ".join(capsys.readouterr().out.split())
