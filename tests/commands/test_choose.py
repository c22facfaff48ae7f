# SPDX-License-Identifier: Apache-2.0
"""`raycomp pick | compare | report | status`: the answer a user wants, or what comes nearest to it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raycomp.commands.choose import compare_command, pick_command, report_command
from raycomp.commands.inputs import complete_sweep
from raycomp.commands.manage import status_command
from raycomp.commands.show import front_command
from raycomp.errors import UserError
from raycomp.report.choice import Limits, choose
from raycomp.report.status import status_of
from raycomp.report.sweep_view import SweepView, difference
from raycomp.results.row import Row
from raycomp.results.store import Store
from tests.helpers.per_images import random_images
from tests.helpers.sweep_views import stored, sweep_view


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("results"), sweep_view(), sweep_view("other", seed=1, checkpoint="c"))


ROWS = sweep_view().rows
FULL = [row for row in ROWS if row.stage == "full"]
DENSE = next(row for row in FULL if row.origin == "reference")


def points(row: Row, name: str) -> float:
    return 100 * (getattr(DENSE, name) - getattr(row, name))


def accuracy(row: Row) -> float:
    return row.clean_miou + row.corrupted_miou


def test_within_a_cost_the_most_accurate():
    limit = 0.5 * DENSE.gflops
    best, *others = choose(ROWS, Limits(gflops=limit))
    inside = [row for row in FULL if row.gflops <= limit]
    assert accuracy(best) == max(map(accuracy, inside))
    assert all(row.gflops <= limit for row in others)
    assert choose(ROWS, Limits(share=0.5))[0] == best


def test_accurate_enough_and_then_the_cheapest():
    best = choose(ROWS, Limits(drop=8.0, corrupted_drop=10.0))[0]
    enough = [r for r in FULL if points(r, "clean_miou") <= 8.0 and points(r, "corrupted_miou") <= 10.0]
    assert best.gflops == min(row.gflops for row in enough)
    assert len(enough) < len(FULL)


def test_a_class_may_ask_for_what_others_dominate():
    """The last class's IoU is random, so its best recipe need not be on the front."""
    least = max(row.class_iou[3] for row in FULL)
    [best] = choose(ROWS, Limits(share=1.0, class_iou={"</script><b>sign": least}))
    assert best.class_iou[3] == least


def test_a_precision_restricts_the_choice():
    """Every other recipe is in INT8."""
    rows = [replace(row, precision="int8") if row.number % 2 else row for row in ROWS]
    for precision in ("fp32", "int8"):
        chosen = choose(rows, Limits(share=0.7, precision=precision))
        assert {row.precision for row in chosen} == {precision}
        inside = [row for row in rows if row.stage == "full" and row.cost_share <= 0.7 and row.precision == precision]
        assert accuracy(chosen[0]) == max(map(accuracy, inside))
    with pytest.raises(UserError, match=r"^no recipe has precision int8; nearest: "):
        choose(ROWS, Limits(drop=2, precision="int8"))


def test_what_cannot_be_had_is_told_with_what_comes_nearest():
    cheapest = min(FULL, key=lambda row: row.gflops)
    with pytest.raises(UserError, match=rf"no recipe has at most 0.0001 GFLOPs; nearest: {cheapest.recipe_id} with"):
        choose(ROWS, Limits(gflops=0.0001))
    with pytest.raises(UserError, match="no recipe within the other limits has a clean mIoU of"):
        choose(ROWS, Limits(share=0.5, drop=-50.0))
    with pytest.raises(UserError, match="class 'pol': did you mean 'pole'"):
        choose(ROWS, Limits(class_iou={"pol": 0.1}))
    with pytest.raises(UserError, match=r"road.*road nan"):  # which does not occur in the images
        choose(ROWS, Limits(class_iou={"road": 0.1}))
    with pytest.raises(UserError, match="no complete trial yet"):
        choose([], Limits())
    with pytest.raises(UserError, match="needs the dense model"):
        choose([row for row in ROWS if row.origin != "reference"], Limits(drop=1.0))


def test_a_search_that_has_no_full_stage_yet_can_be_picked_from():
    rows = [row for row in ROWS if row.stage == "search"]
    assert choose(rows, Limits(share=0.5))[0].stage == "search"


def test_a_drop_is_of_both_accuracies_unless_one_is_named(results, capsys):
    def picked(**limits) -> list[dict]:
        pick_command("tiny", results=results, as_json=True, **limits)
        told = json.loads(capsys.readouterr().out)
        return [told["recipe"], *told["others"]]

    def lost(row: dict, name: str) -> float:
        return 100 * (getattr(DENSE, name) - row[name])

    cheapest = sweep_view().front[0]  # in these rows corruption costs a fifth more
    most = (points(cheapest, "clean_miou") + points(cheapest, "corrupted_miou")) / 2
    both, clean = picked(max_drop=most), picked(max_clean_drop=most)
    assert all(max(lost(row, "clean_miou"), lost(row, "corrupted_miou")) <= most for row in both)
    assert clean[0]["recipe_id"] == cheapest.recipe_id != both[0]["recipe_id"]
    assert picked(max_drop=most, max_corrupted_drop=2 * most) == both, "the strictest holds"


def test_pick_is_as_sure_of_a_recipe_as_the_front_is(tmp_path, capsys):
    images = {row.recipe_id: random_images(number).packed() for number, row in enumerate(FULL)}
    rows = [replace(row, per_image=images[row.recipe_id]) if row.stage == "full" else row for row in ROWS]
    store = Store(tmp_path / "sure")
    store.open(sweep_view().config)
    for row in rows:
        store.write(row)
    store.lock.drop()
    front_command("sure", results=str(tmp_path), as_json=True)
    on_front = {row["recipe_id"]: row["confidence"] for row in json.loads(capsys.readouterr().out)["front"]}
    pick_command("sure", max_share="60%", results=str(tmp_path), as_json=True)
    told = json.loads(capsys.readouterr().out)
    picked = {row["recipe_id"]: row["confidence"] for row in (told["recipe"], *told["others"])}
    assert picked
    assert picked.items() <= on_front.items()
    pick_command("sure", max_share="60%", results=str(tmp_path))
    text = capsys.readouterr().out
    best = told["recipe"]
    half = 100 * (best["confidence"]["clean"][1] - best["confidence"]["clean"][0]) / 2
    assert f"{100 * best['clean_miou']:.2f} ±{half:.1f}" in text
    assert "as good" in text
    shown = [row["confidence"]["tie"] or "" for row in (best, *told["others"][:5])]
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert [line.split("│")[-2].strip() for line in lines] == [tie[:6] for tie in shown]
    assert any(shown)


def test_pick_says_where_figures_are_of_the_search_stage(tmp_path, capsys):
    store = Store(tmp_path / "begun")
    store.open(sweep_view().config)
    for row in ROWS[:5]:
        store.write(row)
    store.lock.drop()
    pick_command("begun", max_share="100%", results=str(tmp_path))
    said = " ".join(capsys.readouterr().out.split())  # a title is as wide as its table
    assert "mIoU in % by the search stage, on fewer images, points against dense" in said


def test_the_command_says_how_to_go_on(results, capsys):
    pick_command("tiny", max_share="50%", min_class_iou=["pole=0.1"], results=results)
    text = capsys.readouterr().out
    best = choose(ROWS, Limits(share=0.5, class_iou={"pole": 0.1}))[0]
    assert f"raycomp export {best.recipe_id[:6]} --sweep tiny --results {results} --out models" in text
    pick_command("tiny", max_gflops=best.gflops, results=results, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["gflops"] <= best.gflops


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_share": "300%"}, "--max-share 300%: expected a share of the dense cost such as 40%"),
        ({"max_share": "much"}, "--max-share much"),
        ({"min_class_iou": ["pole"]}, "--min-class-iou pole: expected a class and its minimum IoU from 0 to 1"),
        ({"min_class_iou": ["pole=3"]}, "--min-class-iou pole=3"),
        ({"precision": "int4"}, "--precision int4: did you mean 'int8'?"),
    ],
)
def test_wrong_limits_are_one_line(results, options, line):
    with pytest.raises(UserError) as told:
        pick_command("tiny", **options, results=results)
    assert str(told.value).startswith(line)
    assert "\n" not in str(told.value)


def test_a_sweep_that_is_not_there_has_a_nearest_one(results):
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        pick_command("tinny", max_gflops=1.0, results=results)


def test_sweeps_are_compared(results, capsys):
    compare_command(["tiny", "other"], results=results)
    text = capsys.readouterr().out
    assert f"{sweep_view('other', seed=1).hypervolume():.4f}" in text
    assert "other has other weights than tiny" in text
    compare_command(["tiny", "other"], results=results, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [one["sweep"] for one in told] == ["tiny", "other"]
    assert told[0]["hypervolume"] == pytest.approx(sweep_view().hypervolume())
    with pytest.raises(UserError, match="two or more"):
        compare_command(["tiny"], results=results)


@pytest.mark.slow
def test_a_report_lies_with_the_sweep_unless_told_otherwise(results, tmp_path, capsys):
    report_command(["tiny"], results=results)
    assert (tmp_path.__class__(results) / "tiny" / "report.html").stat().st_size > 1e6
    report_command(["tiny", "other"], out=tmp_path / "both.html", results=results)
    assert 'data-figure="fronts"' in (tmp_path / "both.html").read_text()
    assert "both.html" in capsys.readouterr().out


def test_status_tells_what_runs_and_what_is_left(results, tmp_path, capsys):
    status_command(results=results)
    text = capsys.readouterr().out
    assert text.count("finished") == 2
    assert "30/30" in text
    store = Store(tmp_path / "begun")
    store.open(sweep_view().config)
    for row in ROWS[:5]:
        store.write(row)
    assert status_of(Store(tmp_path / "begun")).state == "running"
    store.lock.drop()
    begun = status_of(Store(tmp_path / "begun"))
    assert (begun.state, begun.trials, begun.wanted, begun.full, begun.writer) == ("interrupted", 4, 30, 0, "")
    status_command(results=str(tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["sweep"] == "begun"
    with pytest.raises(UserError, match="there is no sweep in"):
        status_command(results=str(tmp_path / "nowhere"))


def test_rows_of_older_sweeps_and_of_refining_are_read_too(tmp_path, capsys):
    """Some have no names of classes, no figures of images, no seconds, or the dense model's full row alone."""
    begun = datetime(2026, 11, 1, tzinfo=UTC)
    sweep = sweep_view()
    old = [replace(row, classes=(), started=begun) for row in sweep.rows]
    refined = replace(sweep.front[0], stage="refined", seed=0, started=begun, seconds=None)
    mixed = [*old[:-1], replace(sweep.rows[-1], started=begun), refined]
    store = Store(tmp_path / "old")
    store.open(sweep.config)
    for row in mixed:
        store.write(replace(row, sweep="other name"))
    store.lock.drop()
    assert status_of(store).last == begun + timedelta(seconds=1)
    report_command(["old"], results=str(tmp_path))
    page = (tmp_path / "old" / "report.html").read_text()
    assert "--sweep old --out models" in page
    pick_command("old", min_class_iou=["pole=0.1"], results=str(tmp_path))
    assert "--sweep old" in capsys.readouterr().out
    first = [row for row in ROWS if row.stage == "search" or row.origin == "reference"]
    assert choose(first, Limits(share=0.5))[0].stage == "search"


def test_a_sweep_measured_elsewhere_is_told_from_one_that_was_searched(tmp_path, capsys):
    full = [replace(row, evalset="others") for row in FULL]
    elsewhere = SweepView("there", sweep_view().config, full)
    assert difference(sweep_view(), elsewhere) == "other evaluation images"
    unfinished = SweepView("searched", sweep_view().config, [row for row in ROWS if row.stage == "search"])
    assert difference(sweep_view(), unfinished) == "the search stage in place of the full one"
    timed = elsewhere.config.changed("search", cost_metric="latency")
    assert difference(elsewhere, SweepView("timed", timed, full)) == "another cost metric (GFLOPs, latency)"
    store = Store(tmp_path / "there")
    store.open(elsewhere.config)
    for row in full:
        store.write(row)
    assert not store.is_finished
    store.finish()
    store.lock.drop()
    assert status_of(store).state == "finished"
    report_command(["there"], results=str(tmp_path))
    assert "Hypervolume" not in (tmp_path / "there" / "report.html").read_text().partition("<script>")[0]
    store.open(elsewhere.config)
    assert not store.is_finished
    store.lock.drop()


def test_pick_needs_a_limit(results):
    with pytest.raises(UserError, match="pick needs a limit: --max-gflops"):
        pick_command("tiny", results=results)


def test_looking_does_not_keep_a_job_out(results):
    """Whoever asks who holds the lock holds it for an instant."""
    sweep = sweep_view()
    store = Store(tmp := __import__("pathlib").Path(results) / "tiny")
    assert Store(tmp).lock.holder() == ""
    store.open(sweep.config)
    assert Store(tmp).lock.holder().startswith("process ")
    store.lock.drop()


def test_the_shell_completes_names(results):
    class Context:
        params = {"results": results}  # noqa: RUF012

    here: Any = Context()
    assert complete_sweep(here, "ti") == ["tiny"]
    assert complete_sweep(here, "") == ["other", "tiny"]
