# SPDX-License-Identifier: Apache-2.0
"""What the tables say, from rows made by hand."""

import warnings
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from raycomp.data.corruptions import VARIANTS
from raycomp.report.compare import compare, rank_text
from raycomp.report.plot import plot_front
from raycomp.report.tables import budget_table, console, front_table
from raycomp.results.query import (
    Origins,
    at_budgets,
    final_front,
    final_stage,
    origins,
    refined_front,
    refined_rows,
    spearman,
    stage_agreement,
    stage_changes,
)
from raycomp.results.row import Row
from tests.helpers import rows
from tests.helpers.figures import series


def row(recipe: str, share: float, clean: float, corrupted: float, label: str = "", stage: str = "full") -> Row:
    origin = "reference" if label == "dense" else "baseline" if label else "proposed"
    return rows.row(
        recipe_id=recipe, stage=stage, origin=origin, label=label, family="tome",
        gflops=10 * share, gflops_share=share, clean_miou=clean, corrupted_miou=corrupted,
    )  # fmt: skip


FULL = [
    row("d", 1.0, 0.80, 0.60, "dense"),
    row("t3", 0.3, 0.30, 0.20, "uniform ToMe 30%"),
    row("t5", 0.5, 0.60, 0.40, "uniform ToMe 50%"),
    row("p5", 0.5, 0.50, 0.45, "uniform pruning 50%"),
    row("a", 0.4, 0.70, 0.50),
    row("b", 0.5, 0.75, 0.55),
    row("over", 0.7, 0.79, 0.59),
]


def test_front_is_of_the_full_stage_and_within_the_budget():
    search = [row("s", 0.2, 0.9, 0.9, stage="search")]
    assert [r.recipe_id for r in final_front(FULL + search, 0.6)] == ["t3", "a", "b"]
    assert [r.recipe_id for r in final_front(search, 0.6)] == ["s"]
    assert final_front([], 0.6) == []


def test_a_full_stage_that_is_half_measured_does_not_stand_for_the_front():
    """Which would be its costliest members alone, as they come first."""
    search = [replace(one, stage="search") for one in FULL[:-1]]
    costliest = [one for one in FULL if one.recipe_id in ("d", "b", "p5")]
    assert final_stage(search + costliest) == "search"
    assert [r.recipe_id for r in final_front(search + costliest, 0.6)] == ["t3", "a", "b"]
    assert {r.stage for r in final_front(search + costliest, 0.6)} == {"search"}
    assert {r.stage for r in final_front(search + FULL, 0.6)} == {"full"}
    failed = [replace(one, status="failed") if one.recipe_id == "a" else one for one in FULL]
    assert [r.recipe_id for r in final_front(search + failed, 0.6)] == ["t3", "b"]


def test_a_recipe_that_was_refined_twice_is_told_by_its_latest_training():
    def refined(recipe: str, setting: str, seed: int, day: int, clean: float) -> Row:
        began = datetime(2026, 11, day, tzinfo=UTC)
        return replace(row(recipe, 0.5, clean, 0.5, stage="refined"), operating_point=setting, seed=seed, started=began)

    tuned = [
        refined("a", "200 steps", 1, 1, 0.6),
        refined("a", "2000 steps", 0, 2, 0.7),
        refined("b", "200 steps", 0, 1, 0.5),
    ]
    assert [(r.recipe_id, r.operating_point) for r in refined_rows([*FULL, *tuned])] == [
        ("a", "2000 steps"),
        ("b", "200 steps"),
    ]
    assert [r.clean_miou for r in refined_front(tuned)] == [0.7]


def test_an_empty_front_is_said_to_be_empty():
    out = console()
    with out.capture() as captured:
        out.print(front_table([], True, Origins(3, 0)))
    assert "baselines at equal time" in captured.get()
    assert "no recipe within the budget has been measured" in captured.get()
    assert "3 baselines, none proposed by the search" in captured.get()


def test_the_best_of_known_recipes_alone_is_not_called_found():
    known = [one for one in FULL if one.origin != "proposed"]
    refined = row("a", 0.4, 0.9, 0.9, stage="refined")
    search = [replace(one, stage="search") for one in FULL]
    for measured, count, best in (
        (known, Origins(3, 0), "best baseline"),
        ([*FULL, *search, refined], Origins(3, 3), "best found"),
    ):
        assert origins(measured) == count
        with (out := console()).capture() as captured:
            out.print(budget_table(at_budgets(measured, (0.5, 0.3), 0.6), count))
        assert [name in captured.get() for name in ("best baseline", "best found")] == [
            best == "best baseline",
            best == "best found",
        ]
    assert str(Origins(12, 10)) == "12 baselines, 10 proposed by the search"
    assert str(Origins(1, 0)) == "1 baseline, none proposed by the search"


def test_a_front_of_the_search_stage_says_so():
    said = []
    for stage in ("search", "full"):
        staged = [replace(one, stage=stage) for one in FULL]
        with (out := console()).capture() as captured:
            out.print(front_table(compare(staged, 0.6), False, origins(staged)))
        said.append("Pareto front by the search stage, on fewer images: mIoU" in captured.get())
    assert said == [True, False]


def test_gains_against_dense_and_interpolated_baselines():
    found = {c.row.recipe_id: c for c in compare(FULL, 0.6)}
    assert found["a"].dense["clean"] == pytest.approx(-0.10)
    tome = found["a"].baselines["uniform ToMe"]  # half way between 30 % and 50 %
    assert (tome["clean"], tome["corrupted"]) == pytest.approx((0.70 - 0.45, 0.50 - 0.30))
    assert found["a"].baselines["uniform pruning"] is None  # not measured that cheap
    assert found["b"].baselines["uniform pruning"]["corrupted"] == pytest.approx(0.10)
    assert found["b"].baselines["uniform prune+ToMe"] is None


def test_relative_degradation_against_dense():
    """Dense loses 0.2 of 0.8 under every variant; half and twice that must read 0.5 and 2."""
    dense = replace(row("d", 1.0, 0.80, 0.60, "dense"), corrupted_by_variant=[0.6] * 80)
    half = replace(row("h", 0.4, 0.70, 0.60), corrupted_by_variant=[0.6] * 80)
    twice = replace(row("t", 0.5, 0.75, 0.35), corrupted_by_variant=[0.35] * 80)
    found = {c.row.recipe_id: c.rcd for c in compare([dense, half, twice], 0.6)}
    assert found["h"] == pytest.approx(0.5)
    assert found["t"] == pytest.approx(2.0)
    assert compare(FULL, 0.6)[0].rcd is None  # rows without variants


def test_best_at_each_budget_is_affordable():
    at = {item.share: item for item in at_budgets(FULL, (0.3, 0.45, 0.5), 0.6)}
    assert at[0.5].best.recipe_id == "b"
    assert at[0.45].best.recipe_id == "a"
    assert at[0.5].baselines["uniform ToMe"].recipe_id == "t5"
    assert at[0.45].baselines["uniform ToMe"] is None


def test_stages_that_rank_alike_agree():
    search = [row(r.recipe_id, r.gflops_share, r.clean_miou / 2, 1 - r.corrupted_miou, stage="search") for r in FULL]
    agreement = stage_agreement(FULL + search)
    assert agreement["clean_miou"] == pytest.approx(1)
    assert agreement["corrupted_miou"] == pytest.approx(-1)
    assert stage_agreement(FULL) == {}
    lower = [replace(one, stage="search", clean_miou=one.clean_miou - 0.03, corrupted_miou=one.corrupted_miou - 0.02)
             for one in FULL if not one.is_dense]  # fmt: skip
    assert stage_changes(FULL + lower) == pytest.approx({"clean_miou": 0.03, "corrupted_miou": 0.02})
    assert stage_changes(FULL) == {}


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([1, 2, 3], [2, 4, 9], "1.00"),
        ([1, 2, 3], [3, 2, 1], "-1.00"),
        ([1, 1, 1], [1, 2, 3], "undefined, as all values are equal"),
        ([1, 2, 3], [0, 0, 0], "undefined, as all values are equal"),
    ],
)
def test_what_has_no_order_has_no_rank_correlation(a, b, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rank_text(spearman(a, b)) == said


def test_against_a_dense_model_of_no_accuracy_there_is_no_relative_degradation():
    whole = replace(row("d", 1.0, 0.0, 0.0, "dense"), corrupted_by_variant=[0.0] * len(VARIANTS))
    cheap = replace(row("a", 0.4, 0.1, 0.1), corrupted_by_variant=[0.1] * len(VARIANTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [found] = compare([whole, cheap], 0.6)
    assert found.rcd is None
    assert found.dense == {"clean": 0.1, "corrupted": 0.1}


def test_tables_hold_every_front_member():
    with (out := console()).capture() as captured:
        out.print(front_table(compare(FULL, 0.6), False, origins(FULL)))
        out.print(budget_table(at_budgets(FULL, (0.5, 0.3), 0.6), origins(FULL)))
    text = captured.get()
    assert "+25.0 / +20.0" in text
    assert "75.00 / 55.00" in text


def test_the_plot_has_the_front_the_dense_model_and_every_baseline(figures, tmp_path):
    plot_front(FULL, 0.6, "title", tmp_path / "front.png")
    assert [p.name for p in tmp_path.iterdir()] == ["front.png"]
    clean, corrupted = figures[0].axes
    assert (clean.get_xlabel(), clean.get_ylabel()) == ("GFLOPs per image", "clean mIoU (%)")
    assert series(clean) == {
        "Pareto front": [(3, 30), (4, 70), (5, 75)],
        "dense": [(10, 80)],
        "uniform ToMe": [(3, 30), (5, 60)],
        "uniform pruning": [(5, 50)],
        "uniform prune+ToMe": [],
        "trials, on fewer images": [],
    }
    assert series(corrupted)["Pareto front"] == [(3, 20), (4, 50), (5, 55)]


def test_a_sweep_without_rows_gives_an_empty_plot_and_table(figures, tmp_path):
    plot_front([], 0.6, "nothing yet", tmp_path / "front.png")
    assert not any(points for axes in figures[0].axes for points in series(axes).values())
    assert compare([], 0.6) == []
    assert at_budgets([], (0.5,), 0.6) == []
