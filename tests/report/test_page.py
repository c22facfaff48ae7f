# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep: in a real browser it draws, sorts, links and complains of nothing."""

import re
from dataclasses import replace

import pytest

from raycomp.report.page.sweep_page import write_sweep_page
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import agreement
from tests.helpers.sweep_views import CLASSES, sweep_view


def opened(browser, path, width=1280):
    """The page, and what it complains of or asks the network for."""
    page, problems = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url),
    )
    page.goto(path.as_uri())
    return page, problems


def test_a_browser_draws_sorts_and_links(browser, tmp_path):
    sweep = sweep_view()
    write_sweep_page([sweep], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    for place in (
        "[data-figure=front]",
        "[data-figure=history]",
        "[data-figure=paper]",
        "#recipe-depth",
        "#recipe-classes",
    ):
        assert page.locator(f"{place} .main-svg").count() > 0, place
    drawn = page.locator("[data-figure=front] .scatterlayer .point").count()
    assert drawn >= 2 * len(sweep.front)

    lines = page.locator("#front-table tbody tr")
    assert lines.count() == len(sweep.front)
    clean = [row.clean_miou for row in sweep.front]
    for direction, ordered in (("ascending", sorted(clean)), ("descending", sorted(clean, reverse=True))):
        page.locator("#front-table th button").get_by_text("clean", exact=True).click()
        assert page.locator("#front-table th[aria-sort]").get_attribute("aria-sort") == direction
        shown = [float(text) for text in page.locator("#front-table tbody td:nth-child(5)").all_inner_texts()]
        assert shown == pytest.approx([100 * value for value in ordered], abs=0.006)

    chosen = sweep.front[0]
    page.locator(f"tr[data-recipe='{chosen.recipe_id}']").click()
    assert page.locator("#recipe select").input_value() == chosen.recipe_id
    assert f"export {chosen.recipe_id[:6]} --sweep" in page.locator("#recipe-properties").inner_text()
    assert "Tokens after the last block\n9 (dense 9)" in page.locator("#recipe-properties").inner_text()
    assert set(page.locator("#front-table tbody td:nth-child(11)").all_inner_texts()) == {"9"}
    for key, row in zip(("Enter", " "), sweep.front[1:], strict=False):
        page.locator(f"tr[data-recipe='{row.recipe_id}']").press(key)
        assert page.locator("tr[aria-selected=true]").get_attribute("data-recipe") == row.recipe_id
    assert page.locator(".plot:not([role=img][aria-label])").count() == 0
    assert problems == []


def test_each_drag_marks_recipes_in_both_panels_and_a_double_click_takes_the_marks_away(browser, tmp_path):
    sweep = sweep_view()
    write_sweep_page([sweep], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    place = page.locator("[data-figure=front]")
    place.scroll_into_view_if_needed()
    for panel, left, right in (("xy", 0.02, 0.5), ("x2y2", 0.5, 0.98), ("xy", 0.3, 0.7)):
        box = place.locator(f".draglayer .{panel} .nsewdrag").bounding_box()
        x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
        page.mouse.move(x + left * width, y + 1)
        page.mouse.down()
        page.mouse.move(x + right * width, y + height - 1, steps=5)
        page.mouse.up()
        page.wait_for_timeout(200)
        marked = place.evaluate("p => p.data.map(t => (t.selectedpoints || []).map(i => t.customdata[i]).sort())")
        assert any(marked), panel
        assert [ids for ids in marked[::2] if ids] == [ids for ids in marked[1::2] if ids]  # a trace of each panel
        shown = page.locator("#front-table tbody tr:not(.unmarked)").evaluate_all(
            "all => all.map(r => r.dataset.recipe)"
        )
        assert set(shown) == {row.recipe_id for row in sweep.front} & {one for ids in marked for one in ids}
        assert problems == []
    page.mouse.dblclick(x + width / 2, y + height / 2)
    page.wait_for_timeout(500)
    assert page.locator("tr.unmarked").count() == 0
    assert not any(place.evaluate("p => p.data.map(t => t.selectedpoints || null)"))
    assert problems == []


def test_unknown_cells_sort_last_in_both_directions(browser, tmp_path):
    whole = sweep_view()
    ids = [row.recipe_id for row in whole.front]
    rows = [replace(row, throughput=None if row.recipe_id == ids[0] else row.gflops) for row in whole.rows]
    write_sweep_page([SweepView("older", whole.config, rows)], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    for _ in range(2):
        page.locator("#front-table th button").get_by_text("images/s").click()
        assert page.locator("#front-table tbody tr").last.get_attribute("data-recipe") == ids[0]
    assert problems == []


def test_a_limit_of_time_is_told_in_time(browser, tmp_path):
    sweep = sweep_view()
    rows = [replace(row, predicted_ms=7.0, predicted_share=0.5) for row in sweep.rows]
    write_sweep_page([SweepView("timed", sweep.config, rows)], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    assert page.locator("#front-table th").all_inner_texts()[2:5] == ["ms", "of dense", "GFLOPs"]
    assert page.locator("#front-table tbody tr").first.locator("td").all_inner_texts()[2:4] == ["7", "50.0 %"]
    assert "50.0 % of the predicted time" in page.locator(".cheapest").inner_text()
    assert page.locator("#front-table button").get_by_text("of dense").get_attribute("title").endswith("predicted time")
    assert problems == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_no_wider_than_its_window(browser, tmp_path, width):
    sweep = sweep_view()
    failed = replace(sweep.rows[-1], status="failed", error="RuntimeError: " + "out_of_memory," * 65)
    write_sweep_page([SweepView("tiny", sweep.config, [*sweep.rows, failed]), sweep], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "out_of_memory" in page.locator("#search table").inner_text()
    assert problems == []


@pytest.mark.slow
def test_what_rows_do_not_say_is_left_out(browser, tmp_path):
    whole = sweep_view()
    old = dict.fromkeys(("latency_ms", "throughput", "effective_rank", "params"))
    old |= {"corrupted_by_variant": (), "class_iou": ()}
    first = whole.front[0].recipe_id
    rows = [replace(row, **(old if row.recipe_id == first else {})) for row in whole.rows]
    undone = [replace(row, **old) if row.origin == "reference" else row for row in whole.rows]
    alone = [row for row in whole.rows if row.origin != "reference"]
    for name, kept in (("old recipe", rows), ("old dense", undone), ("no dense", alone)):
        sweep = SweepView(name, whole.config, kept)
        write_sweep_page([sweep, whole], tmp_path / "report.html")
        page, problems = opened(browser, tmp_path / "report.html")
        page.locator(f"tr[data-recipe='{first}']").click()
        assert f"export {first[:6]}" in page.locator("#recipe-properties").inner_text(), name
        assert page.locator("#recipe-depth .main-svg").first.is_visible()
        assert not page.locator("#recipe-corruptions").is_visible()
        assert not page.get_by_text("By class").is_visible()
        assert "0.0000" not in page.locator("body").inner_text()
        assert ("Hypervolume of the search" in page.locator("#search").inner_text()) == (name != "no dense")
        assert problems == [], name


def test_several_sweeps_are_compared_on_one_page(browser, tmp_path):
    sweeps = [sweep_view(), sweep_view("other", seed=1, checkpoint="c")]
    write_sweep_page(sweeps, tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    assert page.locator("[data-figure=fronts] .scatterlayer .point").count() >= 2 * sum(len(s.front) for s in sweeps)
    table = page.locator("#compare table").inner_text()
    assert f"{sweeps[1].hypervolume():.4f}" in table
    assert "other weights" in table
    told = agreement(sweeps[0].rows, sweeps[1].rows)  # of the known recipes, which both have
    assert f"{told['clean_miou']:.2f} / {told['corrupted_miou']:.2f}" in table
    assert page.locator("#compare th:nth-child(2)").inner_text() == "stage"
    assert page.locator("#compare td:nth-child(2)").all_inner_texts() == ["full", "full"]
    assert problems == []


@pytest.mark.slow
def test_a_sweep_that_has_barely_begun_has_a_page_too(browser, tmp_path):
    whole = sweep_view()
    for rows in ([], whole.rows[:1], whole.rows[:3]):
        write_sweep_page([SweepView("begun", whole.config, rows)], tmp_path / "report.html")
        page, problems = opened(browser, tmp_path / "report.html")
        assert "begun" in page.locator("h1").inner_text()
        assert problems == []


def test_names_cannot_leave_the_data_they_are_in(browser, tmp_path):
    sweep = sweep_view(classes=["<!--<script>", *CLASSES[1:]])
    write_sweep_page([sweep], tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    assert page.locator("#front-table tbody tr").count() == len(sweep.front)
    assert page.locator("#recipe-classes .main-svg").count() > 0
    assert problems == []
    text = (tmp_path / "report.html").read_text()
    assert "</script><b>" not in text
    assert "\\u003c/script>\\u003cb>sign" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", text)
