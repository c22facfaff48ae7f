# SPDX-License-Identifier: Apache-2.0
"""However a job ends, its MLflow run ends, Ray is left, and the folder is free for the next."""

from io import StringIO
from typing import cast

import pytest
from rich.console import Console

from raycomp.cluster import connection
from raycomp.errors import UserError
from raycomp.jobs import session as sessions
from raycomp.jobs.session import INTERRUPTED, session
from raycomp.results.store import Store
from tests.helpers.trials import CONFIG


class FakeTracker:
    """Keeps how its run was said to end."""

    ended: list[bool]

    def __init__(self, *_):
        self.ended = []

    def killed(self):
        """As the real one's."""

    def log(self, row):
        """As the real one's."""

    def finish(self, front, finished, hypervolume):
        self.ended.append(finished)


@pytest.fixture
def left(monkeypatch):
    """How often Ray was left, in place of a Ray."""
    calls: list[bool] = []
    monkeypatch.setattr(connection, "connect", lambda: None)
    monkeypatch.setattr(connection, "disconnect", lambda: calls.append(True))
    monkeypatch.setattr(connection, "stop_like_ctrl_c", lambda before: None)
    monkeypatch.setattr(sessions, "Tracker", FakeTracker)
    monkeypatch.setattr(sessions, "leave_memory_to_the_system", lambda: None)
    return calls


@pytest.mark.parametrize(
    ("tracked", "finished", "raised", "seen", "ended", "said"),
    [
        (True, True, None, None, [True], ""),
        (True, False, UserError("x"), UserError, [False], ""),
        (True, False, ZeroDivisionError(), ZeroDivisionError, [False], ""),
        (False, False, UserError("x"), UserError, [], ""),
        (False, False, KeyboardInterrupt(), KeyboardInterrupt, [], ""),
        (True, False, KeyboardInterrupt(), SystemExit, [False], "interrupted: run the same command to resume\n"),
        (True, True, KeyboardInterrupt(), SystemExit, [True], "interrupted: run the same command to resume\n"),
        (True, True, UserError("x"), UserError, [True], ""),
    ],
)
def test_a_job_is_closed_however_it_ends(left, tmp_path, tracked, finished, raised, seen, ended, said):
    out, store, tracker = StringIO(), Store(tmp_path / "sweep"), FakeTracker()

    def job():
        nonlocal tracker
        with session(CONFIG, store, "sqlite:///x", Console(file=out, width=100)) as running:
            store.open(CONFIG)
            if tracked:
                tracker = cast(FakeTracker, running.track([]))
            if finished:
                running.finish([], True)
            if raised is not None:
                raise raised

    if seen is None:
        job()
    else:
        with pytest.raises(seen) as told:
            job()
        assert seen is not SystemExit or told.value.code == INTERRUPTED
    assert (tracker.ended, out.getvalue(), len(left)) == (ended, said, 1)
    Store(tmp_path / "sweep").open(CONFIG)  # which another job that holds it would refuse
