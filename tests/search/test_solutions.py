# SPDX-License-Identifier: Apache-2.0
"""Solutions for new limits: within all of them, the best by brute force, and with intervals that hold the truth."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.footprint import memory, params
from raycomp.recipe import dense
from raycomp.search.confirmation import Confirmation
from raycomp.search.knowledge import Knowledge
from raycomp.search.solutions import Problem, best_measured, observations, solutions
from raycomp.settings.amounts import Amount
from tests.conftest import TINY
from tests.helpers.solving import SPACE, TINY_SWEEP, row_of, sampled, sweep_rows, truth
from tests.helpers.trials import TokenClock

FULL, CLOCK = dense(TINY), TokenClock(TINY)
RECIPES = sampled(50)
ROWS = sweep_rows(RECIPES)
MIOUS = ("clean_miou", "corrupted_miou")


def problem_of(folder: Path, budget: float | None = None, **limits: Any) -> Problem:
    return Problem.of(TINY_SWEEP, TINY, folder, budget, cast(Any, limits))


def mean_truth(recipe):
    return sum(truth(recipe)) / 2


@pytest.fixture(scope="module")
def every_recipe():
    """All points of the space, with their GFLOPs and the mean of their true mIoUs."""
    grids = [range(d.low, d.high + 1, d.step) for d in SPACE.dimensions.values()]
    points = (dict(zip(SPACE.dimensions, values, strict=True)) for values in itertools.product(*grids))
    return [(gflops(TINY, recipe), mean_truth(recipe)) for recipe in map(SPACE.recipe, points)]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.7])
def test_a_solution_is_the_best_of_all_recipes_where_effects_multiply(tmp_path, every_recipe, share):
    problem = problem_of(tmp_path, share)
    best = max(value for cost, value in every_recipe if cost <= problem.budget)
    [found] = solutions(problem, ROWS)
    assert gflops(TINY, found.recipe) <= share * gflops(TINY, FULL)
    assert mean_truth(found.recipe) == pytest.approx(best, abs=1e-12)


def test_solutions_keep_every_limit_and_are_different(tmp_path):
    cases: list[dict[str, Any]] = [
        {"params": 0.6},
        {"memory": 0.9},
        {"gflops": Amount(0.5 * gflops(TINY, FULL), "gflops"), "params": Amount(0.7 * params(TINY, FULL), "params")},
        {"params": 0.7, "memory": 0.95, "gflops": 0.45},
    ]
    most = {"gflops": gflops(TINY, FULL), "params": params(TINY, FULL), "memory": memory(TINY, FULL).total}
    for limits in cases:
        found = solutions(problem_of(tmp_path, 0.6, **limits), ROWS, 3)
        assert len({one.recipe.id for one in found}) == 3
        for one in found:
            costs = {
                "gflops": gflops(TINY, one.recipe),
                "params": params(TINY, one.recipe),
                "memory": memory(TINY, one.recipe).total,
            }
            assert costs["gflops"] <= 0.6 * most["gflops"]
            for name, limit in limits.items():
                allowed = limit.value if isinstance(limit, Amount) else limit * most[name]
                assert costs[name] <= allowed * (1 + 1e-12)


def test_a_limit_on_time_and_a_budget_in_time_hold(tmp_path):
    timed = replace(SPACE, latency=cast(Any, CLOCK))
    budget = 0.7 * CLOCK.latency_ms(FULL)
    rows = [replace(row, predicted_ms=CLOCK.latency_ms(row.recipe), predicted_share=1.0) for row in ROWS]
    [found] = solutions(Problem(timed, budget, {}), rows)
    assert CLOCK.latency_ms(found.recipe) <= budget
    assert any(found.recipe.ratios), "widths take no time by this clock"


def test_intervals_hold_the_truth_of_recipes_that_were_not_measured(tmp_path):
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.004, (len(RECIPES), 2))
    rows = [
        replace(row, clean_miou=row.clean_miou + a, corrupted_miou=row.corrupted_miou + b)
        for row, (a, b) in zip(ROWS, [(0.0, 0.0), *noise], strict=True)
    ]
    knowledge = Knowledge(SPACE)
    knowledge.learn(observations(knowledge, rows))
    measured = {one.id for one in RECIPES}
    held_out = [one for one in sampled(120, seed=2) if one.id not in measured]
    inside = []
    for recipe in held_out:
        predicted = knowledge.mious(knowledge.point(SPACE.params(recipe)))
        inside += [low <= value <= high for value, (_, low, high) in zip(truth(recipe), predicted, strict=True)]
    assert len(held_out) > 80
    assert np.mean(inside) >= 0.85


def test_the_full_set_shifts_what_is_expected_by_the_mean_change(tmp_path):
    problem = problem_of(tmp_path, 0.5)
    [searched] = solutions(problem, ROWS)
    [shifted] = solutions(problem, sweep_rows(RECIPES, full=20, gain=0.03))
    assert shifted.recipe == searched.recipe
    uneven = sweep_rows(RECIPES, full=20, gain=0.03)
    uneven = [
        replace(row, clean_miou=row.clean_miou + (0.02 if row.number % 2 else -0.02)) if row.stage == "full" else row
        for row in uneven
    ]
    [spread] = solutions(problem, uneven)
    for name in MIOUS:
        before, after = searched.mious[name], shifted.mious[name]
        assert after.expected - before.expected == pytest.approx(0.03)
        assert after.high - after.low == pytest.approx(before.high - before.low)
    widened = spread.mious["clean_miou"]
    assert widened.expected - widened.low > 1.96 * 0.02
    assert widened.low < truth(spread.recipe)[0] + 0.03 < widened.high


def test_rows_of_only_the_full_set_are_learned_from(tmp_path):
    full = [row_of(one, number, "full") for number, one in enumerate([FULL, *RECIPES])]
    [found] = solutions(problem_of(tmp_path, 0.5), full)
    assert found.recipe == solutions(problem_of(tmp_path, 0.5), ROWS)[0].recipe


def test_stopped_and_failed_rows_and_recipes_off_the_grid():
    knowledge = Knowledge(SPACE)
    early: dict[str, Any] = {"early_clean_miou": 0.5, "early_corrupted_miou": 0.3}
    stopped = row_of(RECIPES[0], 1, status="stopped", clean_miou=None, corrupted_miou=None, **early)
    [one] = observations(knowledge, [stopped])
    assert (one.probe, one.mious) == (True, (0.5, 0.3))
    both = observations(knowledge, [row_of(RECIPES[0], 1, **early)])
    assert [(one.probe, one.mious) for one in both] == [(False, truth(RECIPES[0])), (True, (0.5, 0.3))]
    assert observations(knowledge, [row_of(RECIPES[0], 1, status="failed")]) == []
    narrow = FULL.blocks[0].model_copy(update={"mlp": 4, "heads": 1})
    off = FULL.model_copy(update={"blocks": (narrow,) * 3})
    assert observations(knowledge, [row_of(off, 1)]) == []


def test_the_best_measured_is_within_the_limits_and_of_the_final_stage(tmp_path):
    problem, narrow = problem_of(tmp_path, 0.5, params=0.8), problem_of(tmp_path, 0.2)
    assert best_measured(narrow, ROWS) is None
    for rows, among in ((ROWS, RECIPES), (sweep_rows(RECIPES, full=20), RECIPES[:20])):
        affordable = [one for one in among if gflops(TINY, one) <= 0.5 * gflops(TINY, FULL)]
        best = max((one for one in affordable if params(TINY, one) <= 0.8 * params(TINY, FULL)), key=mean_truth)
        found = best_measured(problem, rows)
        assert found.recipe == best
        assert found.stage == ("search" if among is RECIPES else "full")


@pytest.mark.parametrize(
    ("budget", "limits", "message"),
    [
        (0.95, {}, "--budget 95%: the sweep searched only up to 90%; nearest: --budget 90%"),
        (0.01, {}, "--budget 1.0% .* cannot be met: the cheapest recipe .*; nearest: "),
        (0.5, {"params": 0.01}, "--max-params 1.0% .* cannot be met: .* nearest: "),
        (
            0.5,
            {"ms": Amount(8.0, "ms")},
            "a limit in ms needs the sweep's latency table, but there is no .*latency.json",
        ),
    ],
)
def test_limits_that_nothing_keeps_name_the_nearest(tmp_path, budget, limits, message):
    with pytest.raises(UserError, match=message):
        problem_of(tmp_path, budget, **limits)


def test_a_sweep_without_a_trial_is_refused(tmp_path):
    with pytest.raises(UserError, match="no complete trial yet"):
        solutions(problem_of(tmp_path, 0.5), [])


def test_a_confirmation_is_kept_until_it_is_measured(tmp_path):
    found = solutions(problem_of(tmp_path, 0.5), ROWS, 2)
    asked = {"budget": 0.5, "limits": {}, "confirm": 2}
    plan = Confirmation(asked, found)
    plan.save(tmp_path)
    assert Confirmation.unfinished(tmp_path, asked) == plan
    assert Confirmation.unfinished(tmp_path, asked | {"confirm": 3}) is None
    proposals = plan.proposals(ROWS)
    assert [one.stage for one in proposals] == ["search", "full"] * 2
    assert [one.number for one in proposals] == [51, 0, 52, 1]
    done = [*ROWS, row_of(found[0].recipe, 51), row_of(found[0].recipe, 0, "full")]
    assert [one.recipe for one in plan.proposals(done)] == [found[1].recipe] * 2
    assert [one.recipe_id for one in plan.measured(done).values()] == [found[0].recipe.id]
    Confirmation.forget(tmp_path)
    assert Confirmation.unfinished(tmp_path, asked) is None
    (tmp_path / "confirming.json").write_text("[]")
    with pytest.raises(UserError, match=r"confirming.json: not the solutions of a sweep \(TypeError\); delete it"):
        Confirmation.unfinished(tmp_path, asked)


def test_a_baseline_that_is_a_solution_stays_a_baseline(tmp_path):
    [found] = solutions(problem_of(tmp_path, 0.5), ROWS)
    known = [*ROWS, row_of(found.recipe, 60, "probe", origin="baseline", label="uniform pruning 50%")]
    assert {(one.origin, one.label) for one in Confirmation({}, [found]).proposals(known)} == {
        ("baseline", "uniform pruning 50%")
    }
