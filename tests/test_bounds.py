# SPDX-License-Identifier: Apache-2.0
"""A search space with limits on several costs, fixed blocks, and ranges of single blocks."""

from typing import Any

import numpy as np
import pytest

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.footprint import file_size, memory, params
from raycomp.merging import ToMe
from raycomp.recipe import Recipe, dense
from raycomp.settings.amounts import Amount
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.trials import CONFIG, TokenClock

RANGES: dict[str, Any] = {
    "embed": {"low": 16},
    "heads": {"low": 1, "step": 1},
    "mlp": {"low": 32, "step": 16},
}
FULL = dense(TINY)


def space_with(limits: dict[str, Any] | None = None, timed: bool = False, **space: Any) -> Space:
    """A space of TINY; `timed` if a clock in place of a latency table is to be there."""
    config = SweepConfig.model_validate(
        CONFIG.model_dump() | {"space": RANGES | space, "search": {"limits": limits or {}}}
    )
    return Space.of(config, TINY, TokenClock(TINY) if timed else None)  # type: ignore[arg-type]


def shares(recipe: Recipe) -> dict[str, float]:
    """Each cost of a recipe relative to dense, counted without the space."""

    def costs(one: Recipe) -> dict[str, float]:
        clock = TokenClock(TINY).latency_ms(one)
        return {"gflops": gflops(TINY, one), "params": params(TINY, one), "ms": clock,
                "memory": memory(TINY, one).total, "file": file_size(TINY, one)}  # fmt: skip

    whole = costs(FULL)
    return {name: cost / whole[name] for name, cost in costs(recipe).items()}


LIMITS = [
    {"params": "50%"},
    {"ms": "60%"},
    {"memory": "70%"},
    {"file": "70%"},
    {"gflops": "40%", "params": "50%", "ms": "75%", "memory": "75%"},
    {"params": "20k", "gflops": "10 MFLOPs"},
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("drop", [False, True])
def test_projected_points_keep_every_limit(limits, drop):
    space = space_with(limits, timed=True, mlp={"low": 32, "step": 16, "drop": drop})
    budget, rng = 0.7 * space.cost(FULL), np.random.default_rng(0)
    space.check_budget(budget)
    for _ in range(40):
        point = {name: int(rng.choice(range(d.low, d.high + 1, d.step))) for name, d in space.dimensions.items()}
        found = space.project(point, budget)
        recipe = space.recipe(found)
        assert space.fits(found, budget)
        assert space.allows(recipe, budget)
        assert space.load(recipe, budget) <= 1
        grid = {name: range(d.low, d.high + 1, d.step) for name, d in space.dimensions.items()}
        assert all(value in grid[name] for name, value in found.items())
        assert shares(recipe)["gflops"] <= 0.7
        for name, limit in limits.items():
            if limit.endswith("%"):
                assert shares(recipe)[name] <= float(limit[:-1]) / 100
        if space.fits(point, budget):
            assert found == space.canonical(point)


def test_load_is_the_largest_cost_relative_to_its_limit():
    space, recipe = space_with({"params": "50%", "gflops": "80%"}), FULL.model_copy(update={"embed": 24})
    share = shares(recipe)
    budget = 0.6 * space.cost(FULL)
    expected = max(share["gflops"] / 0.6, share["params"] / 0.5, share["gflops"] / 0.8)
    assert space.load(recipe, budget) == pytest.approx(expected)
    assert space.load(FULL, space.cost(FULL)) == pytest.approx(2)


def test_limits_on_widths_do_not_make_tokens_merge_more():
    space = space_with({"params": "60%"})
    merging = {name: d.full for name, d in space.dimensions.items()} | {"merge_0": 16}
    found = space.project(merging, space.cost(FULL))
    assert {name: value for name, value in found.items() if name.startswith("merge")} == {
        "merge_0": 16,
        "merge_1": 0,
        "merge_2": 0,
    }
    assert 0.5 < shares(space.recipe(found))["params"] <= 0.6


def test_a_budget_in_gflops_or_a_share_is_resolved():
    space = space_with()
    assert space.budget_of(0.5) == 0.5 * space.cost(FULL)
    assert space.budget_of(Amount(0.01, "gflops")) == 0.01


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"params": "10%"}, r"search.limits.params 10.0% \(6.206 k parameters\) cannot be met: .*; nearest: 2\d.*%"),
        ({"ms": "1 ms"}, r"search.limits.ms 0.\d% \(1 ms\) cannot be met: .* has \d+ ms; nearest: \d+.*%"),
        ({"memory": "1 kB"}, r"search.limits.memory .* \(1 kB\) cannot be met"),
        ({"file": "1 kB"}, r"search.limits.file .* \(1 kB\) cannot be met"),
    ],
)
def test_a_limit_that_cannot_be_met_is_named_with_the_nearest_that_can(limits, message):
    space = space_with(limits, timed=True)
    with pytest.raises(UserError, match=message) as error:
        space.check_budget(space.cost(FULL))
    [name], nearest = limits, str(error.value).rpartition(" ")[2]
    space_with({name: nearest}, timed=True).check_budget(space.cost(FULL))


def test_fixed_blocks_have_no_dimensions_and_other_blocks_may_have_their_own_range():
    space = space_with(fixed={"blocks": [1]}, mlp={"low": 32, "step": 16, "blocks": {0: {"low": 96}}})
    assert set(space.dimensions) == {"embed", "heads_0", "heads_2", "mlp_0", "mlp_2", "merge_0", "merge_2"}
    assert (space.dimensions["mlp_0"].low, space.dimensions["mlp_2"].low) == (96, 32)
    smallest = space.recipe(space.smallest)
    assert smallest.blocks[1] == FULL.blocks[1]
    assert [block.mlp for block in smallest.blocks] == [96, 128, 32]
    assert smallest.ratios[1] == 0 < smallest.ratios[0]
    assert not space.outside(smallest)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"blocks": {1: {"mlp": 64}}}, "blocks.1.mlp is 64, the minimum is 128"),
        ({"blocks": {0: {"mlp": 64}}}, "blocks.0.mlp is 64, the minimum is 96"),
        ({"blocks": {2: {"mlp": 64}}}, ""),
        ({"ratios": (0, 0.1, 0)}, "it merges at merge_1, but the space only at merge_0, merge_2"),
        ({"ratios": (0.1, 0, 0.1)}, ""),
    ],
)
def test_recipes_outside_fixed_blocks_and_own_ranges(changes, problem):
    space = space_with(fixed={"blocks": [1]}, mlp={"low": 32, "step": 16, "blocks": {0: {"low": 96}}})
    blocks = [b.model_copy(update=changes.get("blocks", {}).get(i, {})) for i, b in enumerate(FULL.blocks)]
    merge = ToMe(ratios=changes["ratios"]) if "ratios" in changes else None
    assert space.outside(Recipe(embed=FULL.embed, blocks=tuple(blocks), merge=merge)) == problem


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"fixed": {"blocks": [0, 3]}}, "space.fixed.blocks has 3, the model has blocks 0 to 2; nearest: 2"),
        ({"mlp": {"low": 32, "step": 16, "blocks": {7: {"low": 64}}}}, "space.mlp.blocks has 7, .*; nearest: 2"),
        ({"mlp": {"low": 32, "step": 16, "blocks": {0: {"low": 100}}}}, "space.mlp.blocks.0.low 100 .* nearest: 112"),
        ({"mlp": {"low": 32, "step": 16, "blocks": {0: {"low": 200}}}}, "space.mlp.blocks.0.low is 200, but .* 128"),
    ],
)
def test_blocks_that_do_not_fit_the_model(space, message):
    with pytest.raises(UserError, match=message):
        _ = space_with(**space).dimensions


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"embed": {"low": 16, "blocks": {0: {"low": 24}}}}, "one width for all blocks"),
        ({"qk": {"low": 4, "blocks": {0: {"drop": True}}}}, "only heads and mlp can have drop"),
        ({"fixed": {"blocks": [-1]}}, "greater than or equal to 0"),
        ({"fixed": {"blocks": [1, 1]}}, "distinct"),
    ],
)
def test_settings_of_blocks_that_make_no_sense(space, message):
    with pytest.raises(ValueError, match=message):
        SpaceConfig.model_validate(space)
