# SPDX-License-Identifier: Apache-2.0
"""A search with several limits measures no recipe over any of them, baselines included."""

from dataclasses import replace
from typing import Any

import pytest

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.footprint import memory, params
from raycomp.recipe import dense
from raycomp.results.query import budget_share, final_front
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.rows import described
from raycomp.settings.amounts import Amount
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.search import drive
from tests.helpers.trials import CONFIG, TokenClock, fake_row

RANGES = {"embed": {"low": 16}, "mlp": {"low": 32, "step": 16}, "heads": {"low": 2, "step": 1}}
CLOCK, FULL = TokenClock(TINY), dense(TINY)


def configured(space: dict[str, Any] | None = None, **search: Any) -> SweepConfig:
    return SweepConfig.model_validate(
        CONFIG.model_dump()
        | {"space": RANGES | (space or {}), "search": {"trials": 24, "baselines": (0.7, 0.5), **search}}
    )


def proposer_of(config: SweepConfig) -> Proposer:
    return Proposer(Space.of(config, TINY, CLOCK), config.search, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["additive", "gp", "tpe", "random"])
def test_a_search_with_three_limits_measures_nothing_over_any(sampler):
    limits = {"params": "60%", "ms": "80%", "memory": "90%"}
    done = drive(proposer_of(configured(limits=limits, budget="70%", sampler=sampler)))
    searched = [one for one in done if one.stage == "search"]
    assert searched[0].recipe == FULL
    assert len(searched) == 25
    for one in done:
        if one.recipe == FULL:
            continue
        assert gflops(TINY, one.recipe) <= 0.7 * gflops(TINY, FULL)
        assert params(TINY, one.recipe) <= 0.6 * params(TINY, FULL)
        assert CLOCK.latency_ms(one.recipe) <= 0.8 * CLOCK.latency_ms(FULL)
        assert memory(TINY, one.recipe).total <= 0.9 * memory(TINY, FULL).total


def test_baselines_over_a_limit_are_skipped():
    def labels(**limits: str) -> set[str]:
        return {one.label for one in proposer_of(configured(limits=limits, budget="70%")).first}

    free = labels()
    assert {"uniform ToMe 50%", "uniform pruning 50%"} <= free
    assert labels(params="60%") <= free - {"uniform ToMe 50%", "uniform ToMe 70%"}
    assert "uniform pruning 50%" not in labels(ms="80%")


def test_an_absolute_budget_equals_its_share():
    half = 0.5 * gflops(TINY, FULL)
    shared, absolute = (configured(budget=budget) for budget in ("50%", f"{half!r} GFLOPs"))
    assert [one.recipe.id for one in drive(proposer_of(absolute), 12)] == [
        one.recipe.id for one in drive(proposer_of(shared), 12)
    ]
    timed = configured(budget="60 ms")
    assert timed.search.cost_metric == "latency"
    for one in drive(proposer_of(timed), 12)[1:]:
        assert CLOCK.latency_ms(one.recipe) <= 60


def test_reports_resolve_an_absolute_budget_by_the_dense_row():
    done = drive(proposer_of(configured(budget="60%")), 12)
    rows = [fake_row(TINY, one) for one in done]
    budget = Amount(0.5 * gflops(TINY, FULL), "gflops")
    assert budget_share(budget, rows) == pytest.approx(0.5)
    assert [row.recipe_id for row in final_front(rows, budget)] == [row.recipe_id for row in final_front(rows, 0.5)]
    assert budget_share(budget, []) == 1.0
    assert budget_share(0.5, rows) == 0.5


def test_uniform_baselines_leave_fixed_blocks_alone_and_are_uniform_over_the_others():
    space = {"fixed": {"blocks": [0]}, "mlp": {"low": 32, "step": 16, "blocks": {1: {"low": 112}}}}
    proposer = proposer_of(configured(space, budget="80%", baselines=(0.8, 0.7)))
    recipes = {one.label: one.recipe for one in proposer.first if one.origin == "baseline"}
    assert {"uniform ToMe 80%", "uniform pruning 80%"} <= set(recipes)
    for recipe in recipes.values():
        assert recipe.blocks[0] == FULL.blocks[0]
        assert recipe.ratios[0] == 0
        assert recipe.blocks[1].mlp >= min(112, TINY.mlp)
        assert gflops(TINY, recipe) <= 0.8 * gflops(TINY, FULL)
    narrower = next(recipe for label, recipe in recipes.items() if label.startswith("MLP 75%"))
    assert [block.mlp for block in narrower.blocks] == [128, 112, 96]
    removed = recipes["uniform ToMe 80%"].merge.tokens_removed(TINY, None)[1]
    assert removed[0] == 0
    assert abs(removed[1] - removed[2]) <= 1
    assert removed[1] > 0
    for one in drive(proposer)[1:]:
        assert one.recipe.blocks[0] == FULL.blocks[0]
        assert one.recipe.ratios[0] == 0


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({"limits": {"ms": "8 ms"}}, {"limits": {"ms": "9 ms"}}, "search.limits.ms '8 ms', now '9 ms'"),
        ({}, {"limits": {"params": "50%"}}, "search.limits.params None, now 0.5"),
        ({"budget": "0.2 GFLOPs"}, {"budget": "50%"}, "search.budget '0.2 GFLOPs', now 0.5"),
    ],
)
def test_a_sweep_resumes_only_with_the_same_limits(tmp_path, before, after, field):
    store = Store(tmp_path / "tiny")
    store.open(configured(**before))
    store.check(configured(**before, trials=99))
    store.lock.drop()
    with pytest.raises(UserError, match=field.replace("[", r"\[")):
        store.check(configured(**after))
    assert store.config().search.limits == configured(**before).search.limits


def test_a_limit_that_no_recipe_meets_is_one_line_before_the_search():
    with pytest.raises(UserError, match=r"search\.limits\.params 1\.0% .* nearest: \d"):
        proposer_of(configured(limits={"params": "1%"}))


def test_a_limit_on_time_predicts_times_but_leaves_gflops_the_cost(context):
    clock = TokenClock(context.shape)
    limited = replace(context, config=context.config.changed("search", limits={"ms": "80%"}), latency=clock)
    timed = replace(context, config=context.config.changed("search", cost_metric="latency"), latency=clock)
    proposal = Proposal(0, "search", "reference", "dense", dense(context.shape))
    row, other = described(limited, proposal), described(timed, proposal)
    assert (row.predicted_ms, row.predicted_share, row.timed) == (clock.latency_ms(proposal.recipe), None, False)
    assert row.cost == row.gflops
    assert (other.predicted_share, other.timed, other.cost) == (1.0, True, row.predicted_ms)
    assert limited.config.search.needs_times
    assert not context.config.search.needs_times
