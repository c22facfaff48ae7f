# SPDX-License-Identifier: Apache-2.0
"""Figures and texts of a sweep's page, without a browser."""

from dataclasses import replace

import pytest

from raycomp.flops import profile
from raycomp.merging import ToMe, WindowsToMe
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.report.page.charts import beside_paper_figure, describe, front_figure, fronts_figure, history_figure
from raycomp.report.page.importance import importance
from raycomp.report.page.recipe_charts import class_changes, depth_figure, importance_figure
from raycomp.report.page.sweep_page import _cheapest, write_sweep_page
from raycomp.report.plot import plot_front
from raycomp.report.sweep_view import SweepView, difference
from raycomp.report.tables import recipe_table
from raycomp.results.query import origins
from raycomp.results.row import Row
from raycomp.results.tracked_rows import params
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.sweep_views import CLASSES, measured, proposed, sweep_view


def test_points_carry_recipes_and_pointers_tell_them():
    sweep = sweep_view()
    figure = front_figure(sweep)
    front = next(trace for trace in figure.data if trace.name == "Pareto front")
    assert list(front.customdata) == [row.recipe_id for row in sweep.front]
    assert list(front.y) == pytest.approx([100 * row.clean_miou for row in sweep.front])
    recipe = Recipe(
        embed=24, blocks=(BlockWidths(heads=2, qk=8, v=8, mlp=80),) * 3, merge=ToMe(ratios=(0.5, 0.25, 0.0))
    )
    text = describe(measured(Proposal(1, "search", "proposed", "", recipe)))
    assert "embedding 24; heads 2; MLP 80" in text
    assert "merged 50 25 0 %" in text


def test_recipes_in_int8_have_markers_of_their_own(tmp_path):
    sweep = sweep_view()
    chosen = {row.recipe_id for row in sweep.front[::2]} | {sweep.trials[-1].recipe_id}
    rows = [in_int8(row) if row.recipe_id in chosen else row for row in sweep.rows]
    mixed = SweepView("mixed", sweep.config, rows)
    traces = {trace.name: trace for trace in front_figure(mixed).data if trace.showlegend}
    fronts = {"Pareto front": "fp32", "Pareto front, INT8": "int8"}
    for name, precision in fronts.items():
        assert list(traces[name].customdata) == [row.recipe_id for row in mixed.front if row.precision == precision]
    symbols = {name.removeprefix("search stage: "): trace.marker.symbol for name, trace in traces.items()}
    assert {symbol.endswith("-open") for family, symbol in symbols.items() if family.endswith("int8")} == {True}
    assert not [family for family, symbol in symbols.items() if symbol == symbols["Pareto front, INT8"] != "diamond"]
    described = describe(next(row for row in mixed.front if row.precision == "int8"))
    assert "+int8" in described
    assert params(mixed.front[0])["precision"] == "int8"
    plot_front(rows, 1.0, "mixed", tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    cost = profile(TINY, dense(TINY))
    assert "INT8" in recipe_table(mixed.front[0].recipe, cost, cost).title


def in_int8(row: Row) -> Row:
    recipe = row.recipe.at("int8")
    named = replace(row, label="", precision="int8", family=recipe.family(TINY))
    return replace(named, recipe_id=recipe.id, recipe_json=recipe.canonical_json())


@pytest.mark.parametrize(("of_dense", "panels"), [((0.8, 0.6), {"x", "x2"}), ((0.0, 0.6), {"x2"}), ((0.0, 0.0), set())])
def test_of_a_dense_model_of_no_accuracy_no_share_is_kept(of_dense, panels):
    sweep = sweep_view()
    clean, corrupted = of_dense
    rows = [
        replace(row, clean_miou=clean, corrupted_miou=corrupted) if row.origin == "reference" else row
        for row in sweep.rows
    ]
    figure = beside_paper_figure(SweepView(sweep.name, sweep.config, rows))
    assert {trace.xaxis for trace in figure.data if trace.name == "this sweep's front"} == panels


def test_the_papers_figures_stand_where_the_sweep_is_of_its_data_and_model():
    sweep = sweep_view()
    names = {trace.name for trace in front_figure(sweep).data}
    assert not any(name.startswith("paper") for name in names)
    config = sweep.config.changed("data", dataset="ade20k", root="data")
    rows = [replace(row, gflops=row.gflops * 129.7 / sweep.dense.gflops) for row in sweep.rows]
    names = {trace.name for trace in front_figure(SweepView("ade", config, rows)).data}
    assert {"paper: dense", "paper: NViT+ToMe"} <= names


def test_nothing_of_a_front_is_cut_off_at_the_top():
    sweep = sweep_view()
    refined = replace(sweep.front[0], stage="refined", operating_point="", clean_miou=0.97, corrupted_miou=0.91)
    figure = front_figure(SweepView("tiny", sweep.config, [*sweep.rows, refined]))
    assert figure.layout.yaxis.range[1] > 97
    assert figure.layout.yaxis2.range[1] > 91


def test_fronts_of_other_models_and_units_are_beside_each_other_by_their_share():
    sweep = sweep_view()
    larger = sweep_view(gflops=2 * sweep.dense.gflops, gflops_share=0.5)
    in_time = SweepView(
        "timed", sweep.config, [replace(row, predicted_ms=7.0, predicted_share=0.5) for row in sweep.rows]
    )
    assert fronts_figure([sweep, sweep_view(seed=1)]).layout.xaxis.title.text == "GFLOPs per image"
    assert fronts_figure([in_time, in_time]).layout.xaxis.title.text == "predicted ms per batch"
    for other in (larger, in_time):
        figure = fronts_figure([sweep, other])
        assert figure.layout.xaxis.title.text == "% of each sweep's dense cost"
        assert list(figure.data[0].x) == pytest.approx([100 * row.gflops_share for row in sweep.front])
        assert set(figure.data[2].x) == {50}


def test_a_history_without_a_dense_model_is_left_out_and_the_others_keep_their_colour():
    whole = sweep_view()
    alone = SweepView("alone", whole.config, [row for row in whole.rows if row.origin != "reference"])
    drawn = history_figure([alone, whole]).data
    assert [trace.name for trace in drawn] == ["tiny", "tiny: joined the front"]
    assert drawn[0].line.color == history_figure([whole, whole]).data[2].line.color


def test_blocks_count_from_0_as_they_do_elsewhere():
    row = measured(proposed(0)[-1])
    assert list(depth_figure(row, None).data[0].x) == [0, 1, 2]
    assert list(importance_figure({"clean mIoU": {"mlp_2": 0.7, "embed": 0.3}}).data[0].x) == ["0", "1", "2"]
    windows = importance_figure({"clean mIoU": {"merge_windows_0": 0.6, "merge_1": 0.4}}).data[0]
    assert (list(windows.y), windows.z[0, 0], windows.z[1, 1]) == (["merge_windows", "merge"], 0.6, 0.4)


def test_windows_that_merge_are_told():
    merge = WindowsToMe(windows=0.25, ratios=(0.1, 0.0, 0.0))
    row = measured(Proposal(1, "search", "proposed", "", dense(TINY).merging(merge)))
    note = "25.0% of the 2x2 windows merge first, in block 0"
    assert note in describe(row)
    assert params(row)["merge_windows_0"] == "0.125"
    cost = profile(TINY, row.recipe)
    assert note in recipe_table(row.recipe, cost, cost).caption


def test_the_page_begins_with_the_cheapest_recipes_that_lose_little():
    sweep = sweep_view()
    losses = {row.recipe_id: loss for row, loss in zip(sweep.front, (0.06, 0.045, 0.019, 0.015), strict=False)}
    whole, rows = sweep.dense, []
    for row in sweep.rows:
        loss = losses.get(row.recipe_id, 0.0 if row.origin == "reference" else 0.2)
        rows.append(replace(row, clean_miou=whole.clean_miou - loss, corrupted_miou=whole.corrupted_miou - loss / 2))
    sweep = SweepView("tiny", sweep.config, rows)
    assert [(loss, item and item.row.recipe_id) for loss, item in _cheapest(sweep.comparisons)] == [
        (1, None), (2, list(losses)[2]), (5, list(losses)[1])
    ]  # fmt: skip


def test_recipes_of_another_sweep_are_not_called_trials(tmp_path):
    sweep = sweep_view()
    rows = [row for row in sweep.rows if row.stage == "full"]
    write_sweep_page([SweepView("other", sweep.config, rows)], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert f"<dt>Re-ranked</dt><dd>{len(rows) - 1} recipes" in text
    assert "<dt>Trials" not in text
    assert "<dt>Sampler" not in text


@pytest.mark.parametrize(("known_alone", "best"), [(False, "best found"), (True, "best baseline")])
def test_the_page_says_how_many_recipes_the_search_proposed(tmp_path, known_alone, best):
    sweep = sweep_view()
    rows = [row for row in sweep.rows if row.origin != "proposed" or not known_alone]
    write_sweep_page([SweepView("tiny", sweep.config, rows)], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert f"<dt>Origins</dt><dd>{origins(rows)}</dd>" in text
    assert (origins(rows).proposed == 0) is known_alone
    assert f"<th>{best}</th>" in text
    assert f"{best.capitalize()}: the front member within the budget" in text


def test_what_broke_is_told_worst_first_without_classes_that_do_not_occur():
    whole = measured(Proposal(0, "search", "reference", "dense", dense(TINY)))
    row = replace(whole, class_iou=[0.7, 0.1, float("nan"), 0.5])
    changes = class_changes(row, replace(whole, class_iou=[0.8, 0.4, 0.3, 0.5]))
    assert [name for name, _ in changes] == ["pole", "sky", CLASSES[3]]
    assert [change for _, change in changes] == pytest.approx([-30, -10, 0])


def test_importance_finds_what_accuracy_depends_on():
    sweep = sweep_view()
    rows = []
    for row in sweep.rows:
        value = 0.8 - 0.5 * row.ratios[0]
        rows.append(replace(row, clean_miou=value, corrupted_miou=0.5 - (32 - row.embed) / 100))
    shares = importance(SweepView("known", sweep.config, rows))
    assert max(shares["clean mIoU"], key=shares["clean mIoU"].get) == "merge_0"
    assert max(shares["corrupted mIoU"], key=shares["corrupted mIoU"].get) == "embed"
    assert sum(shares["clean mIoU"].values()) == pytest.approx(1)
    assert importance(SweepView("few", sweep.config, rows[:12])) == {}
    flat = [replace(row, clean_miou=0.5) for row in rows]
    assert list(importance(SweepView("flat", sweep.config, flat))) == ["corrupted mIoU"]
    assert importance(SweepView("flat", sweep.config, [replace(row, corrupted_miou=0.5) for row in flat])) == {}


def test_sweeps_of_other_images_are_told_apart():
    assert difference(sweep_view(), sweep_view(seed=1)) == ""
    assert difference(sweep_view(), sweep_view(evalset="c")) == "other evaluation images"
