# SPDX-License-Identifier: Apache-2.0
"""Intervals against scipy's own, and the table of a refined front."""

from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from rich.console import Console
from scipy import stats

from raycomp.report.figures import Figure, duration, moment
from raycomp.report.tables import refined_table
from tests.helpers import rows


def test_the_interval_is_student_s():
    values = [0.61, 0.64, 0.60]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    found = Figure.of(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert Figure.of([0.5]).percent() == "50.00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.6, "1 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (90000, "25.0 h")],
)
def test_a_duration_is_in_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
def test_a_moment_is_told_in_utc(zone):
    assert moment(datetime(2026, 3, 1, 17, 5, 59, tzinfo=UTC).astimezone(zone)) == "2026-03-01 17:05 UTC"


def row(recipe: str, clean: float, status: str = "complete", **more):
    values = {"gflops": 0.3, "gflops_share": 0.5, "clean_miou": clean, "corrupted_miou": clean - 0.2}
    return rows.row(recipe_id=recipe, status=status, **values, **more)


def test_a_refined_front_has_means_over_seeds_and_says_what_failed():
    refined = [row("a", 0.61, seed=0), row("a", 0.63, seed=1), row("b", 0.0, "failed", seed=0)]
    table = refined_table([row("a", 0.5), row("b", 0.4)], refined, row("dense", 0.7))
    console = Console(width=150, record=True, file=StringIO())
    console.print(table)
    text = console.export_text()
    assert "62.00 ± 12.71" in text  # t(0.975, 1) = 12.706, sem = 1 point
    assert "-8.0 / -8.0" in text
    assert "failed" in text
