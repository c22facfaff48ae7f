# SPDX-License-Identifier: Apache-2.0
"""What ends a sweep before its time; Ray's part of it is tested with whole jobs."""

import signal

import pytest

from raycomp.recipe import dense
from raycomp.search.proposal import Proposal
from raycomp.search.sweep import _Searcher
from tests.conftest import TINY
from tests.helpers.trials import fake_row


class One:
    """Hands out one proposal after the other."""

    def __init__(self, proposals):
        self.waiting, self.rows, self.finished = list(proposals), {}, False

    def next(self):
        return self.waiting.pop(0)

    def tell(self, row):
        self.rows[row.stage, row.recipe_id] = row


class Kept:
    """A store that holds what a trial is to have written."""

    def __init__(self):
        self.lock, self.steering, self.held = self, self, {}

    def lost(self):
        return False

    asked = ""

    def request(self):
        return self.asked

    def read(self, stage, recipe_id):
        return self.held[stage, recipe_id]


@pytest.mark.parametrize(
    ("origin", "status", "problem"),
    [
        ("reference", "failed", "the dense model could not be measured: made to fail"),
        ("reference", "complete", ""),
        ("baseline", "failed", ""),
    ],
)
def test_without_the_dense_model_no_more_trials_are_proposed(origin, status, problem):
    first = Proposal(0, "search", origin, "", dense(TINY))
    second = Proposal(1, "search", "baseline", "", dense(TINY).model_copy(update={"embed": 16}))
    store, told = Kept(), []
    store.held[first.key] = fake_row(TINY, first, status)
    searcher = _Searcher(One([first, second]), store, None, told.append, print)  # type: ignore[arg-type]
    assert searcher.suggest("a") == {"proposal": first}
    searcher.on_trial_complete("a", {"done": True})
    assert searcher.problem == problem
    assert [row.status for row in told] == [status]
    assert (searcher.suggest("b") == _Searcher.FINISHED) == bool(problem)


def test_a_pause_ends_with_ctrl_c_and_with_the_last_trial(monkeypatch):
    """Tune, whose handler is taken back at the first Ctrl-C, looks at it only after a trial."""
    before, store, source = signal.getsignal(signal.SIGINT), Kept(), One([])
    store.asked = "pause"
    searcher = _Searcher(source, store, None, print, print)  # type: ignore[arg-type]
    assert searcher.suggest("a") is None, "not in the main thread, Tune has no handler"
    try:
        signal.signal(signal.SIGINT, lambda *_: None)  # Tune's
        assert searcher.suggest("a") is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert searcher.suggest("a") == _Searcher.FINISHED
    source.finished = True
    monkeypatch.setattr(source, "next", lambda: None)
    assert _Searcher(source, store, None, print, print).suggest("a") == _Searcher.FINISHED  # type: ignore[arg-type]
