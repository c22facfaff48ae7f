# SPDX-License-Identifier: Apache-2.0
"""Results in folders of any name: rows, resuming, MLflow, study, status, report; and nothing lands beside them."""

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from raycomp.commands.choose import report_command
from raycomp.commands.manage import status_command, track_command
from raycomp.errors import UserError
from raycomp.results.experiment import sqlite_file, sqlite_uri
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import Tracker, default_uri
from raycomp.search.study_replica import StudyReplica, study_uri
from raycomp.storage import located
from tests.helpers.search import SPACE
from tests.helpers.sweep_views import CLASSES, sweep_view
from tests.results.databases import fresh_database

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@given(NAMES)
@example("a?b#c%20d%")
def test_a_database_is_where_its_uri_says(name):
    file = Path("/a") / name / "mlflow.db"
    assert make_url(sqlite_uri(file)).database == str(file)
    assert sqlite_file(sqlite_uri(file)) == file


def test_a_plain_path_is_a_plain_uri():
    assert sqlite_uri(Path("/a/b c/mlflow.db")) == "sqlite:////a/b c/mlflow.db"
    assert sqlite_file("postgresql://host/name") is None


@pytest.mark.slow
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(NAMES)
@example("it's")
@example("what? #1 100%")
@example("a%3Fb")
@example("\"both' quotes`")
@example("[x] {y} *")
@example("back\\slash;$HOME")
@example("ünï 図")
def test_a_sweep_lives_in_a_folder_of_any_name(name):
    with TemporaryDirectory() as top:
        results = str(Path(top) / name)
        fresh_database(Path(results))
        sweep = sweep_view()
        rows = [replace(row, sweep="tiny") for row in sweep.rows[:4]]
        store = Store(sweep_folder(results, "tiny"))
        store.open(sweep.config)
        for row in rows:
            store.write(row)
        store.lock.drop()
        again = Store(sweep_folder(results, "tiny"))
        again.open(sweep.config)
        again.lock.drop()
        assert len(again.rows()) == len(rows)

        copy = StudyReplica(str(study_uri(None, store.folder)), "tiny", SPACE, pytest.fail)
        tracker = Tracker(default_uri(results), store.folder, sweep.config, CLASSES, pytest.fail)
        for row in rows:
            copy.log(row)
            tracker.log(row)
        assert copy.close()
        assert tracker.finish([rows[0]], finished=True)
        tracker.attach([store.folder / "sweep.yaml"])
        assert list(Path(results).glob("mlartifacts/*/artifacts/sweep.yaml"))
        for backfill in (False, True):
            told = json.loads(output(track_command, "tiny", backfill=backfill, results=results, as_json=True))
            assert (told["rows"], told["missing"], told["added"]) == (len(rows), 0, 0)
        assert json.loads(output(status_command, results=results, as_json=True))[0]["sweep"] == "tiny"
        said = output(report_command, ["tiny"], results=results)
        assert said == f"report: {store.folder / 'report.html'}\n"
        assert [path.name for path in Path(top).iterdir()] == [name]
        assert {path.name for path in Path(results).iterdir()} == {".mlflow.lock", "mlartifacts", "mlflow.db", "tiny"}


def test_a_folder_whose_name_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"not UTF-8"):
        located("/tmp/\udcff/results")


def output(command, *arguments, **options) -> str:
    """What a command prints."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(StringIO()):
        command(*arguments, **{"as_json": False, **options})
    return out.getvalue()
