"""The page of a sweep: in a real browser it draws, sorts, links and complains of nothing."""

import re
import shutil
from functools import cache

import numpy as np
import pytest

from raycomp.config import SweepConfig
from raycomp.data.corruptions import VARIANTS
from raycomp.recipe import BlockWidths, Recipe, ToMe, dense
from raycomp.report.found import Found, difference
from raycomp.report.html.figures import describe, front_figure
from raycomp.report.html.importance import importance
from raycomp.report.html.page import write_page
from raycomp.report.html.recipe_figures import class_changes
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from tests.conftest import TINY
from tests.search.fakes import fake_row
from tests.search.test_proposer import SEARCH, SPACE, drive

CLASSES = ["sky", "pole", "road", "</script><b>sign"]


def measured(proposal: Proposal, **changes) -> dict:
    """A whole row, with what a trial measures beside accuracy."""
    row, rng = fake_row(TINY, proposal), np.random.default_rng(proposal.number)
    return {
        **row,
        "classes": CLASSES,
        "class_iou": [row["clean_miou"], row["clean_miou"] / 2, float("nan"), 0.1 * float(rng.random())],
        "corrupted_by_variant": [row["corrupted_miou"]] * len(VARIANTS),
        "gflops_blocks": [row["gflops"] / 4] * 3,
        "tokens": [17, 12, 9],
        "params": 1000 + proposal.number,
        "effective_rank": 0.5,
        "effective_rank_std": 0.01,
        "latency_ms": 3.0,
        "throughput": 100.0,
        "batch": 4,
        "checkpoint": "a",
        "evalset": "b",
        "started": None,
        "seconds": 1.0,
        **changes,
    }


def found(name: str = "tiny", seed: int = 0, **changes) -> Found:
    config = SweepConfig.model_validate(
        {
            "name": name,
            "model": {"checkpoint": "none"},
            "data": {"dataset": "streetscenes"},
            "search": SEARCH.model_dump(),
        }
    )
    return Found(name, config, [measured(p, **changes) for p in proposed(seed)])


@cache
def proposed(seed: int) -> list[Proposal]:
    return drive(Proposer(SPACE, SEARCH.model_copy(update={"seed": seed, "sampler": "random"}), []))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser, path):
    """The page, and what it complains of or asks the network for."""
    page, problems = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url),
    )
    page.goto(path.as_uri())
    return page, problems


def test_a_browser_draws_sorts_and_links(browser, tmp_path):
    sweep = found()
    write_page([sweep], tmp_path / "report.html")
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
    clean = [row["clean_miou"] for row in sweep.front]
    for direction, ordered in (("ascending", sorted(clean)), ("descending", sorted(clean, reverse=True))):
        page.locator("#front-table th button").get_by_text("clean", exact=True).click()
        assert page.locator("#front-table th[aria-sort]").get_attribute("aria-sort") == direction
        shown = [float(text) for text in page.locator("#front-table tbody td:nth-child(5)").all_inner_texts()]
        assert shown == pytest.approx([100 * value for value in ordered], abs=0.006)

    chosen = sweep.front[0]
    page.locator(f"tr[data-recipe='{chosen['recipe_id']}']").click()
    assert page.locator("#recipe select").input_value() == chosen["recipe_id"]
    assert f"export {chosen['recipe_id'][:6]} --sweep" in page.locator("#recipe-facts").inner_text()

    place = page.locator("[data-figure=front]")
    place.evaluate("(p, id) => p.emit('plotly_selected', {points: [{customdata: id}]})", chosen["recipe_id"])
    assert page.locator("tr.unmarked").count() == len(sweep.front) - 1
    marked = place.evaluate("p => p.data.map(t => (t.selectedpoints || []).length).reduce((a, b) => a + b)")
    assert marked == 2  # the same recipe in both panels
    place.evaluate("p => p.emit('plotly_deselect')")
    assert page.locator("tr.unmarked").count() == 0
    assert problems == []


def test_several_sweeps_are_compared_on_one_page(browser, tmp_path):
    sweeps = [found(), found("other", seed=1, checkpoint="c")]
    write_page(sweeps, tmp_path / "report.html")
    page, problems = opened(browser, tmp_path / "report.html")
    assert page.locator("[data-figure=fronts] .scatterlayer .point").count() >= 2 * sum(len(s.front) for s in sweeps)
    table = page.locator("#compare table").inner_text()
    assert f"{sweeps[1].hypervolume():.4f}" in table
    assert "other weights" in table
    assert problems == []


def test_a_sweep_that_has_barely_begun_has_a_page_too(browser, tmp_path):
    whole = found()
    for rows in ([], whole.rows[:1], whole.rows[:3]):
        write_page([Found("begun", whole.config, rows)], tmp_path / "report.html")
        page, problems = opened(browser, tmp_path / "report.html")
        assert "begun" in page.locator("h1").inner_text()
        assert problems == []


def test_names_cannot_leave_the_data_they_are_in(tmp_path):
    write_page([found()], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "</script><b>" not in text
    assert "<\\/script><b>sign" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", text)


def test_points_carry_recipes_and_pointers_tell_them():
    sweep = found()
    figure = front_figure(sweep)
    front = next(trace for trace in figure.data if trace.name == "Pareto front")
    assert list(front.customdata) == [row["recipe_id"] for row in sweep.front]
    assert list(front.y) == pytest.approx([100 * row["clean_miou"] for row in sweep.front])
    recipe = Recipe(
        embed=24, blocks=(BlockWidths(heads=2, qk=8, v=8, mlp=80),) * 3, merge=ToMe(ratios=(0.5, 0.25, 0.0))
    )
    text = describe(measured(Proposal(1, "search", "proposed", "", recipe)))
    assert "embedding 24; heads 2; MLP 80" in text
    assert "merged 50 25 0 %" in text


def test_the_papers_figures_stand_where_the_sweep_is_of_its_data_and_model():
    sweep = found()
    names = {trace.name for trace in front_figure(sweep).data}
    assert not any(name.startswith("paper") for name in names)
    config = sweep.config.changed("data", dataset="ade20k", root="data")
    rows = [{**row, "gflops": row["gflops"] * 129.7 / sweep.dense["gflops"]} for row in sweep.rows]
    names = {trace.name for trace in front_figure(Found("ade", config, rows)).data}
    assert {"paper: dense", "paper: NViT+ToMe"} <= names


def test_what_broke_is_told_worst_first_without_classes_that_do_not_occur():
    whole = measured(Proposal(0, "search", "reference", "dense", dense(TINY)))
    row = {**whole, "class_iou": [0.7, 0.1, float("nan"), 0.5]}
    changes = class_changes(row, {**whole, "class_iou": [0.8, 0.4, 0.3, 0.5]})
    assert [name for name, _ in changes] == ["pole", "sky", CLASSES[3]]
    assert [change for _, change in changes] == pytest.approx([-30, -10, 0])


def test_importance_finds_what_accuracy_depends_on():
    sweep = found()
    rows = []
    for row in sweep.rows:
        value = 0.8 - 0.5 * row["ratios"][0]
        rows.append({**row, "clean_miou": value, "corrupted_miou": 0.5 - (32 - row["embed"]) / 100})
    shares = importance(Found("known", sweep.config, rows))
    assert max(shares["clean mIoU"], key=shares["clean mIoU"].get) == "merge_0"
    assert max(shares["corrupted mIoU"], key=shares["corrupted mIoU"].get) == "embed"
    assert sum(shares["clean mIoU"].values()) == pytest.approx(1)
    assert importance(Found("few", sweep.config, rows[:12])) == {}


def test_sweeps_of_other_images_are_told_apart():
    assert difference(found(), found(seed=1)) == ""
    assert difference(found(), found(evalset="c")) == "other evaluation images"
