# SPDX-License-Identifier: Apache-2.0
"""Workers and time left follow from when rows began and ended, and trials from their stages."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from raycomp.report.pace import seconds_left, workers
from raycomp.search.proposer import Proposer
from raycomp.search.schedule import probe_trials, trials_spent
from tests.helpers.search import SPACE
from tests.helpers.sweep_views import sweep_view

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)


def timed(rows, at_once):
    """The rows, as so many workers would measure them in 10 s each."""
    return [
        replace(row, started=BEGAN + timedelta(seconds=10 * (number // at_once)), seconds=10.0)
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_sweep_ends_when_its_trials_are_done_at_their_pace(at_once):
    sweep = sweep_view()
    trials = [row for row in sweep.rows if row.stage == "search" and not row.is_dense]
    rows = timed(trials[:12], at_once)
    assert workers(rows) == at_once
    assert sweep.config.search.trials == 30
    assert seconds_left(sweep.config, rows) == pytest.approx(18 * 10 / at_once)
    assert seconds_left(sweep.config, rows[:2]) is None
    assert workers([]) == 0


def test_full_evaluations_have_a_pace_of_their_own():
    sweep = sweep_view()
    search = timed([row for row in sweep.rows if row.stage == "search"], 2)
    full = [row for row in sweep.rows if row.stage == "full"]
    assert len(full) > 4
    after = BEGAN + timedelta(seconds=1000)
    done = [replace(row, started=after + timedelta(seconds=60 * i), seconds=60.0) for i, row in enumerate(full[:4])]
    assert seconds_left(sweep.config, [*search, *done]) == pytest.approx((len(full) - 4) * 60.0)


def test_rows_count_as_the_trials_that_the_search_counts():
    sweep = sweep_view()
    stages = [
        replace(row, stage="probe" if row.stage == "search" and row.number % 3 else row.stage) for row in sweep.rows
    ]
    for config in (
        sweep.config.changed("search", sampler="tpe"),
        sweep.config.changed("search", sampler="additive"),
        sweep.config.changed("search", sampler="additive").changed("evaluation", early_stopping=None),
    ):
        proposer = Proposer(SPACE, config.search, stages, None, probe_trials(config))
        assert trials_spent(config, stages) == pytest.approx(proposer.spent)
        assert 0 < proposer.spent <= 30
