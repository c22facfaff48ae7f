# SPDX-License-Identifier: Apache-2.0
"""MLflow: a row becomes one child, once; a server that is down stops nothing."""

import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from mlflow import MlflowClient

from raycomp.errors import without_password
from raycomp.recipe import dense
from raycomp.results.replica import Replica
from raycomp.results.tracking import Tracker, default_uri
from tests.conftest import TINY
from tests.helpers import rows
from tests.helpers.trials import CLASSES, CONFIG, ROWS


def track(tmp_path, warnings: list[str], uri: str | None = None, finished: bool = True, front: int = 0) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir(exist_ok=True)
    artifact = folder / "front.png"
    artifact.write_bytes(b"x")
    tracker = Tracker(uri or default_uri(str(tmp_path)), folder, CONFIG, CLASSES, warnings.append)
    for row in ROWS:
        tracker.log(row)
    tracker.finish([ROWS[front]], finished, 0.25 if finished else 0.3)
    tracker.attach([artifact])


@pytest.mark.slow
def test_runs_are_logged_once_and_filled_in_again(tmp_path):
    warnings: list[str] = []
    track(tmp_path, warnings, finished=False, front=2)
    client = MlflowClient(default_uri(str(tmp_path)))
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    assert warnings == []
    parent = client.search_runs([experiment], "tags.family = 'sweep'")[0]
    assert parent.info.status == "KILLED"
    track(tmp_path, warnings)
    runs = client.search_runs([experiment])
    assert warnings == []
    assert len(runs) == 1 + len(ROWS)
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    assert client.get_run(parent.info.run_id).data.metrics["front_hypervolume"] == 0.25  # the later one, not the larger
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["front.png"]
    children = {
        r.data.tags["recipe_id"]: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    for run in (client.get_run(one.info.run_id) for one in (parent, *children.values())):
        [dataset] = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("streetscenes val", "images")
        [model] = run.inputs.model_inputs
        assert client.get_logged_model(model.model_id).name == "x"
    assert len(client.search_logged_models([experiment])) == 1
    assert f"| `{dense(TINY).id}` |" in client.get_run(parent.info.run_id).data.tags["mlflow.note.content"]
    whole = children[dense(TINY).id]
    assert whole.data.tags["on_front"] == "true"
    assert whole.data.metrics["iou_car"] == pytest.approx(0.7)
    assert "iou_traffic_light" not in whole.data.metrics  # NaN: the class does not occur
    assert whole.data.params["mlp_02"] == "128"
    assert [r.data.tags["on_front"] for r in children.values()].count("true") == 1
    failed = next(r for r in children.values() if r.info.status == "FAILED")
    assert failed.data.tags["error"] == "made to fail"
    assert failed.data.tags["on_front"] == "false"

    mended = replace(next(row for row in ROWS if row.status == "failed"), status="complete", clean_miou=0.25)
    for _ in range(2):  # what failed ran again: a run of its own, once
        tracker = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, warnings.append)
        tracker.log(mended)
        tracker.finish([], finished=True)
    runs = client.search_runs([experiment], "metrics.clean_miou = 0.25")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert len(client.search_runs([experiment])) == 2 + len(ROWS)


@pytest.mark.slow
def test_a_recipe_that_is_refined_anew_replaces_its_run_and_marks_stay_where_none_are_given(tmp_path):
    def track_one(row) -> list:
        tracker = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, pytest.fail)
        tracker.log(row)
        assert tracker.finish([row], finished=True)
        again = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, pytest.fail)
        assert again.missing([row]) == []
        again.log(row)
        assert again.finish(None, finished=False)
        return children(tmp_path)

    row = replace(ROWS[2], stage="refined", seed=0, operating_point="200 steps", recovery_steps=200)
    first = replace(row, started=datetime(2026, 11, 1, tzinfo=UTC))
    second = replace(row, started=datetime(2026, 11, 2, tzinfo=UTC), operating_point="2000 steps", recovery_steps=2000)
    assert [run.data.params["recovery_steps"] for run in track_one(first)] == ["200"]
    [run] = track_one(second)
    assert run.data.params["operating_point"] == "2000 steps"
    assert run.data.tags["on_front"] == "true"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_sweep_that_is_stopped_is_marked_at_once(tmp_path):
    tracker = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, pytest.fail)
    tracker.log(ROWS[0])
    tracker.killed()
    client, deadline = MlflowClient(default_uri(str(tmp_path))), time.monotonic() + 60
    while True:
        experiment = client.get_experiment_by_name("raycomp")
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id], "tags.family = 'sweep'")
        if [run.info.status for run in runs] == ["KILLED"]:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(client.search_runs([experiment.experiment_id])) == 2, "the row before it is there"
    tracker.finish([], finished=True)
    assert client.get_run(runs[0].info.run_id).info.status == "FINISHED"


def test_a_server_that_cannot_be_reached_gives_one_warning(tmp_path):
    warnings: list[str] = []
    (tmp_path / "file").write_text("")
    track(tmp_path, warnings, uri=f"sqlite:///{tmp_path}/file/nothing.db")
    assert len(warnings) == 1
    assert "rows are safe" in warnings[0]


def children(tmp_path) -> list:
    client = MlflowClient(default_uri(str(tmp_path)))
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    return client.search_runs([experiment], "tags.`mlflow.parentRunId` LIKE '%'")


@pytest.mark.slow
def test_a_run_that_was_cut_off_while_it_was_logged_is_filled_in(tmp_path, monkeypatch):
    warnings: list[str] = []
    tracker = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, warnings.append)
    log_batch = MlflowClient.log_batch

    def cut_off(self, run, metrics, params):
        if metrics:
            raise ConnectionError("the server at postgresql://user:secret@host went away")
        log_batch(self, run, params=params)

    monkeypatch.setattr(MlflowClient, "log_batch", cut_off)
    for row in ROWS:
        tracker.log(row)
    assert not tracker.finish([], finished=True)
    assert len(warnings) == 1, "told once"
    assert "postgresql://user:***@host" in warnings[0]
    assert "raycomp track --backfill" in warnings[0]
    assert [run.info.status for run in children(tmp_path)] == ["RUNNING"]
    monkeypatch.undo()
    again = Tracker(default_uri(str(tmp_path)), tmp_path / "sweep", CONFIG, CLASSES, pytest.fail)
    assert len(again.missing(ROWS)) == len(ROWS)
    for row in ROWS:
        again.log(row)
    assert again.finish([], finished=True)
    assert again.missing(ROWS) == []
    found = children(tmp_path)
    assert len(found) == len(ROWS)
    assert all(run.data.metrics["gflops"] for run in found)


def test_a_server_that_comes_back_gets_what_it_missed(tmp_path, monkeypatch):
    """Without a server: the order of what is written, over a failure in the middle."""
    written, down, refused, warnings = [], [False], [], []

    class Copy(Replica):
        def connect(self):
            if down[0]:
                refused.append("connect")
                raise ConnectionError("down")

        def write(self, item):
            if down[0]:
                refused.append("write")
                raise ConnectionError("down")
            if item.number not in written:  # all are offered again to one that comes back
                written.append(item.number)

    monkeypatch.setattr("raycomp.results.replica._RETRY_AFTER", 0.0)
    copy = Copy("copy", "somewhere", warnings.append)
    for number in range(9):
        down[0] = 3 <= number < 6
        seen = written if not down[0] else refused
        before, deadline = len(seen), time.monotonic() + 10
        copy.log(rows.row(number=number, recipe_id=f"{number}"))
        while len(seen) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert copy.close()
    assert written == list(range(9))
    assert len(warnings) == 1


def test_passwords_are_not_shown():
    text = "postgresql+psycopg://me:s3cr3t@db/x and http://a:b@c, s3://KEY:SECRET@bucket, sqlite:////x/y.db"
    assert without_password(text) == (
        "postgresql+psycopg://me:***@db/x and http://a:***@c, s3://KEY:***@bucket, sqlite:////x/y.db"
    )


AT_ONCE = """
import sys, time
from pathlib import Path
from mlflow import MlflowClient
from raycomp.results.tracking import Tracker
from tests.helpers import rows
from tests.helpers.trials import CONFIG, ROW

place, name = Path(sys.argv[1]), sys.argv[2]
(place / name).mkdir()
tracker = Tracker(f"sqlite:///{place}/mlflow.db", place / name, CONFIG.model_copy(update={"name": name}), ["a"], print)
(place / f"{name}.ready").touch()
while len(list(place.glob("*.ready"))) < 3:
    time.sleep(0.001)
tracker.log(ROW)
assert tracker.finish([], True)
"""


@pytest.mark.slow
def test_sweeps_that_start_at_once_share_a_new_database(tmp_path):
    """Of processes that make its tables at once, all but one fail; and an experiment can be made once alone."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    assert len(client.search_runs([experiment])) == 6
