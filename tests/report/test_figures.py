"""Intervals against scipy's own, and the table of a refined front."""

from io import StringIO

import pytest
from rich.console import Console
from scipy import stats

from raycomp.report.figures import Figure
from raycomp.report.tables import refined_table
from tests.helpers import rows


def test_the_interval_is_student_s():
    values = [0.61, 0.64, 0.60]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    found = Figure.of(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert Figure.of([0.5]).percent() == "50.00"


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
