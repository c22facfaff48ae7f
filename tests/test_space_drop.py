# SPDX-License-Identifier: Apache-2.0
"""Spaces in which the attention or the MLP of a block may be dropped whole."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raycomp.dimension import Dimension
from raycomp.flops import gflops
from raycomp.recipe import BlockWidths, dense
from raycomp.search.ask_tell import as_trial
from raycomp.search.proposer import Proposer
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.recipes import without
from tests.helpers.search import drive
from tests.helpers.trials import TokenClock, fake_row

CONFIG = SpaceConfig(
    embed=WidthRange(low=16),
    heads=WidthRange(low=2, step=1, drop=True),
    v=WidthRange(low=4, step=4),
    mlp=WidthRange(low=32, step=16, drop=True),
)
SPACE = Space(TINY, CONFIG, TINY.image)
BARE = Space(TINY, SpaceConfig(mlp=WidthRange(low=128, drop=True), merge_high=0), TINY.image)
ALGM = Space(TINY, CONFIG.model_copy(update={"merge": "algm"}), TINY.image)
SPACES = {"tome": SPACE, "only MLPs": BARE, "algm": ALGM}
DENSE = gflops(TINY, dense(TINY))
GONE = without(dense(TINY), (0, 1, 2), (0, 1, 2)).blocks


def random_point(space: Space, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {n: int(rng.choice(range(d.low, d.high + 1, d.step))) for n, d in space.dimensions.items()}


@pytest.mark.parametrize(("width", "value"), [(0, 1), (1, 2), (2, 2), (2.6, 3), (4, 4), (9, 4)])
def test_only_a_width_of_zero_drops(width, value):
    dimension = Dimension("heads_0", 1, 4, 1, 4, drop=True)
    assert dimension.snap(width) == value
    assert dimension.at(dimension.compression(value)) == value
    assert (dimension.compression(1), dimension.at(0.67), dimension.kept.low) == (1.0, 1, 2)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_points_and_recipes_round_trip(name, seed):
    space = SPACES[name]
    point = random_point(space, seed)
    recipe, canonical = space.recipe(point), space.canonical(point)
    assert space.recipe(canonical) == recipe
    assert space.params(recipe) == canonical
    assert space.canonical(canonical) == canonical
    assert space.outside(recipe) == ""


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_projection_meets_every_budget_that_can_be_met(name, seed, share):
    space = SPACES[name]
    point, least = random_point(space, seed), space.gflops(space.cheapest)
    budget = least + share * (DENSE - least)
    space.check_budget(budget)
    projected = space.project(point, budget)
    assert space.gflops(projected) <= budget
    assert projected == space.canonical(projected) == space.params(space.recipe(projected))
    if space.gflops(point) <= budget:
        assert projected == space.canonical(point)


def test_the_cheapest_recipe_is_that_of_all_subsets():
    """Attention costs something, but merging needs its keys; no MLP is worth keeping."""
    names = [name for name, d in SPACE.dimensions.items() if d.drop]
    lows = {name: SPACE.dimensions[name].low for name in names}
    costs = [
        SPACE.gflops(SPACE.smallest | {n: lows[n] for n, gone in zip(names, chosen, strict=True) if gone})
        for chosen in product((False, True), repeat=len(names))
    ]
    assert SPACE.gflops(SPACE.cheapest) == min(costs) < SPACE.gflops(SPACE.smallest)
    assert BARE.recipe(BARE.cheapest) == without(dense(TINY), (), (0, 1, 2))


@pytest.mark.parametrize("step_costs", [0.0, 20.0, 1000.0])
def test_a_limit_of_time_can_be_met(step_costs, rng):
    class Clock(TokenClock):
        def latency_ms(self, recipe):
            halves = sum((b.heads > 0) + (b.mlp > 0) for b in recipe.blocks)
            return super().latency_ms(recipe) + step_costs * sum(r > 0 for r in recipe.ratios) + 40 * halves

    clock = Clock(TINY)
    timed = replace(SPACE, latency=clock)  # type: ignore[arg-type]
    least, full = clock.latency_ms(timed.recipe(timed.cheapest)), clock.latency_ms(dense(TINY))
    for seed in range(20):
        budget = least + rng.uniform() * (full - least)
        assert clock.latency_ms(timed.recipe(timed.project(random_point(timed, seed), budget))) <= budget


def test_sublayers_are_dropped_one_after_the_other_after_all_else():
    full = {name: d.full for name, d in SPACE.dimensions.items()}
    small, cheap = SPACE.gflops(SPACE.smallest), SPACE.gflops(SPACE.cheapest)
    assert SPACE.project(full, small) == SPACE.smallest
    counts = []
    for share in np.linspace(1, 0, 20):
        recipe = SPACE.recipe(SPACE.project(full, cheap + share * (small - cheap)))
        counts.append(sum((b.heads == 0) + (b.mlp == 0) for b in recipe.blocks))
    assert counts == sorted(counts)
    assert set(counts) >= {0, 1, 2, 3}


def test_training_draws_some_recipes_that_drop_and_keeps_the_narrowest_whole():
    points = [SPACE.draw(np.random.default_rng(seed), 0.2 * DENSE) for seed in range(200)]
    recipes = [SPACE.recipe(point) for point in points]
    gone = [sum((b.heads == 0) + (b.mlp == 0) for b in recipe.blocks) for recipe in recipes]
    assert 0.2 < np.mean(np.array(gone) > 0) < 0.8
    assert max(gone) <= 3  # half of all
    assert all(point == SPACE.canonical(point) for point in points)
    for point in (SPACE.smallest, SPACE.narrowest(0.2 * DENSE)):
        assert all(block.heads and block.mlp for block in SPACE.recipe(point).blocks)
    assert [SPACE.recipe(corner).blocks == GONE for corner in SPACE.corners] == [False, True]


def test_a_space_without_drop_is_as_it_was():
    plain = Space(TINY, SpaceConfig(heads=WidthRange(low=2, step=1), mlp=WidthRange(low=32, step=16)), TINY.image)
    assert plain.cheapest == plain.smallest == plain.corners[0]
    assert len(plain.corners) == 1
    assert (plain.dimensions["heads_0"].low, plain.dimensions["mlp_0"].low) == (2, 32)
    assert plain.outside(without(dense(TINY), (1,))) == "blocks.1.heads is 0, the minimum is 2"
    assert plain.outside(without(dense(TINY), (), (2,))) == "blocks.2.mlp is 0, the minimum is 32"
    assert Space(TINY, SpaceConfig(), TINY.image).outside(without(dense(TINY), (1,))) == (
        "blocks.1.heads is 0, the minimum is 4"
    )


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (without(dense(TINY), (0, 1, 2), (0, 1, 2)), ""),
        (
            dense(TINY).model_copy(update={"blocks": (BlockWidths(heads=1, qk=8, v=8, mlp=0),) * 3}),
            "blocks.0.heads is 1, the minimum is 2",
        ),
        (
            dense(TINY).model_copy(update={"blocks": (BlockWidths(heads=0, qk=0, v=0, mlp=16),) * 3}),
            "blocks.0.mlp is 16, the minimum is 32",
        ),
    ],
)
def test_what_is_outside(recipe, problem):
    assert SPACE.outside(recipe) == problem


@pytest.mark.parametrize("kind", ["embed", "qk", "v"])
def test_only_heads_and_mlp_can_be_dropped(kind):
    with pytest.raises(ValidationError, match=rf"{kind}\n.*only heads and mlp can have drop: true"):
        SpaceConfig.model_validate({kind: {"low": 16, "drop": True}})


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_a_search_proposes_recipes_that_drop_each_once(sampler):
    config = SearchConfig(budget=0.6, trials=24, baselines=(0.6,), sampler=sampler)
    done = drive(Proposer(SPACE, config, []))
    proposed = [one.recipe for one in done if one.stage == "search" and one.origin == "proposed"]
    assert any(not (block.heads and block.mlp) for recipe in proposed for block in recipe.blocks)
    assert len({recipe.id for recipe in proposed}) == len(proposed) > 10
    for one in done[:3]:
        row = fake_row(TINY, one)
        assert as_trial(SPACE, row, (0.5, 0.4, row.cost)) is not None
