# SPDX-License-Identifier: Apache-2.0
"""`raycomp stop`, `pause`, `resume` ask what a running search looks at; its part is in tests/search/test_workers.py."""

import json

import pytest

from raycomp.commands.steer import pause_command, resume_command, stop_command
from raycomp.errors import UserError
from raycomp.report.status import status_of
from raycomp.results import steering
from raycomp.results.store import Store
from tests.helpers.sweep_views import sweep_view


@pytest.fixture
def running(tmp_path, monkeypatch):
    """The store of a sweep that this process writes to."""
    monkeypatch.setattr(steering, "_EVERY", 0.0)
    store = Store(tmp_path / "tiny")
    store.open(sweep_view().config)
    store.ask("")
    yield store
    store.lock.drop()


def test_a_running_search_is_asked_and_its_state_says_so(running, tmp_path, capsys):
    results = str(tmp_path)
    assert (running.steering.request(), status_of(running).state) == ("", "running")
    pause_command("tiny", results=results)
    assert (running.steering.request(), status_of(running).state) == ("pause", "paused")
    resume_command("tiny", results=results)
    assert (running.steering.request(), status_of(running).state) == ("", "running")
    capsys.readouterr()
    stop_command("tiny", results=results, as_json=True)
    assert (running.steering.request(), status_of(running).state) == ("stop", "stopping")
    assert json.loads(capsys.readouterr().out)["asked"] == "stop"
    with pytest.raises(UserError, match="tiny: the search is stopping already"):
        pause_command("tiny", results=results)


def test_what_cannot_be_asked_is_said(running, tmp_path):
    results = str(tmp_path)
    with pytest.raises(UserError, match="tiny: not paused"):
        resume_command("tiny", results=results)
    running.steering.end()
    with pytest.raises(UserError, match=r"process .* runs no trials of a search now; Ctrl-C ends it"):
        stop_command("tiny", results=results)
    running.finish()
    running.lock.drop()
    with pytest.raises(UserError, match="no search is running; there is nothing to pause"):
        pause_command("tiny", results=results)
    with pytest.raises(UserError, match="no search is running; the same command"):
        resume_command("tiny", results=results)
    with pytest.raises(UserError, match=r"no sweep in .*did you mean 'tiny'"):
        stop_command("tny", results=results)
    assert status_of(running).state == "finished"
