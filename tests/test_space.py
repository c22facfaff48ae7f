# SPDX-License-Identifier: Apache-2.0
"""The grid of recipes and its projection onto a budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.merging import Algm, ToMe
from raycomp.recipe import BlockWidths, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import deit_base_distilled
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.trials import TokenClock

CONFIG = SpaceConfig(
    embed=WidthRange(low=16),
    heads=WidthRange(low=1, step=1),
    v=WidthRange(low=4, step=4),
    mlp=WidthRange(low=32, step=16),
)
SPACE = Space(TINY, CONFIG, TINY.image)
DENSE = gflops(TINY, dense(TINY))


def random_point(seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {
        n: int(rng.integers(0, (d.high - d.low) // d.step + 1)) * d.step + d.low for n, d in SPACE.dimensions.items()
    }


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.25, 1.0))
def test_projection_meets_the_budget_and_stays_on_the_grid(seed, share):
    point = random_point(seed)
    projected = SPACE.project(point, share * DENSE)
    assert SPACE.gflops(projected) <= share * DENSE
    for name, d in SPACE.dimensions.items():
        assert d.low <= projected[name] <= d.high
        assert (projected[name] - d.low) % d.step == 0
        assert d.compression(projected[name]) >= d.compression(point[name]) - 1e-9
    if SPACE.gflops(point) <= share * DENSE:
        assert projected == point


@pytest.mark.parametrize("seed", range(10))
def test_projection_does_not_overshoot(seed):
    """It compresses as little as its path allows: within a few steps of the grid of the budget."""
    budget = 0.5 * DENSE
    point = random_point(seed)
    if SPACE.gflops(point) > budget:
        assert SPACE.gflops(SPACE.project(point, budget)) > 0.4 * DENSE


def test_projection_keeps_the_shape():
    full = {name: d.full for name, d in SPACE.dimensions.items()}
    point = full | {"merge_0": 16, "merge_1": 4}
    projected = SPACE.project(point, 0.75 * SPACE.gflops(point))
    assert projected["merge_0"] > projected["merge_1"] > 0
    assert projected["merge_2"] == 0
    assert projected["embed"] == 32


def test_a_point_that_compresses_nothing_is_projected_too():
    full = {name: d.full for name, d in SPACE.dimensions.items()}
    assert SPACE.gflops(SPACE.project(full, 0.6 * DENSE)) <= 0.6 * DENSE


@pytest.mark.parametrize("seed", range(20))
def test_grid_points_survive_the_recipe(seed):
    point = random_point(seed)
    assert SPACE.params(SPACE.recipe(point)) == point


def test_an_unmeetable_budget_names_the_nearest():
    least = SPACE.gflops(SPACE.smallest) / DENSE
    with pytest.raises(UserError, match=r"search\.budget 1\.0% .* cannot be met.*nearest: (\d+\.\d)%") as caught:
        SPACE.check_budget(0.01 * DENSE)
    nearest = float(str(caught.value).rpartition("nearest: ")[2].rstrip("%")) / 100
    assert least <= nearest < least + 0.002
    SPACE.check_budget(nearest * DENSE)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SpaceConfig(embed=WidthRange(low=64)), r"space\.embed\.low is 64, but the model has 32"),
        (SpaceConfig(embed=WidthRange(low=15)), r"space\.embed\.low 15 is not 32 minus steps of 8; nearest: 16"),
    ],
)
def test_bad_ranges(config, words):
    with pytest.raises(UserError, match=words):
        _ = Space(TINY, config, TINY.image).dimensions


def test_the_papers_model_has_a_dimension_for_everything():
    config = SpaceConfig(embed=WidthRange(low=384), heads=WidthRange(low=4, step=1), mlp=WidthRange(low=768))
    assert len(Space(deit_base_distilled((512, 512), 150), config, (512, 512)).dimensions) == 1 + 12 + 12 + 12


@pytest.mark.parametrize("seed", range(20))
def test_drawn_recipes_lie_on_the_grid_and_above_the_least(seed):
    point = SPACE.draw(np.random.default_rng(seed), 0.3 * DENSE)
    assert point == SPACE.draw(np.random.default_rng(seed), 0.3 * DENSE)
    assert 0.25 * DENSE < SPACE.gflops(point) <= DENSE
    for name, d in SPACE.dimensions.items():
        assert d.low <= point[name] <= d.high
        assert (point[name] - d.low) % d.step == 0


def test_draws_give_the_cheap_end_and_each_family_its_share():
    points = [SPACE.draw(np.random.default_rng(seed), 0.2 * DENSE) for seed in range(300)]
    costs = np.array([SPACE.gflops(point) for point in points]) / DENSE
    assert np.mean(costs < 0.45) > 0.3  # log-uniform: half of those that can be so cheap
    families = [SPACE.recipe(point).family(TINY) for point in points]
    shares = {family: families.count(family) / 300 for family in ("prune", "tome", "prune+tome")}
    assert min(shares.values()) > 0.15


def test_the_narrowest_has_all_widths_at_the_low_end_and_merges_down_to_the_least():
    widths = SPACE.smallest | {name: 0 for name in SPACE.dimensions if name.startswith("merge")}
    assert SPACE.narrowest(SPACE.gflops(widths)) == widths
    point = SPACE.narrowest(0.7 * SPACE.gflops(widths))
    assert {n: v for n, v in point.items() if "merge" not in n} == {n: v for n, v in widths.items() if "merge" not in n}
    assert len({v for n, v in point.items() if "merge" in n}) == 1
    assert 0.6 * SPACE.gflops(widths) < SPACE.gflops(point) <= 0.7 * SPACE.gflops(widths)


TRAINED = Space(
    TINY, SpaceConfig(embed=WidthRange(low=24), mlp=WidthRange(low=64, step=16), merge_high=0.25), TINY.image
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"embed": 16}, "embed is 16, the minimum is 24"),
        ({"blocks": (BlockWidths(heads=4, qk=8, v=8, mlp=56),) * 3}, "blocks.0.mlp is 56, the minimum is 64"),
        ({"blocks": (BlockWidths(heads=4, qk=4, v=8, mlp=64),) * 3}, "blocks.0.qk is 4, the minimum is 8"),
        ({"merge": ToMe(ratios=(0.0, 0.3, 0.0))}, "a merge ratio is 0.3, the maximum is 0.25"),
        ({"merge": Algm(blocks=(1, 2), windows=0.5, pairs=0.1)}, "merge.method is 'algm', the space has only 'tome'"),
        ({}, ""),
        ({"embed": 25, "merge": ToMe(ratios=(0.25, 0.0, 0.0))}, ""),
    ],
)
def test_what_of_a_recipe_is_outside_of_a_space(change, problem):
    assert TRAINED.outside(dense(TINY).model_copy(update=change)) == problem


@pytest.mark.parametrize("step_costs", [0.0, 20.0, 1000.0])
def test_projection_meets_a_limit_of_time_where_merging_costs_some(step_costs, rng):
    """Where a merge step takes longer than it saves, the way to full compression leads past the budget."""

    class Clock(TokenClock):
        def latency_ms(self, recipe):
            return super().latency_ms(recipe) + step_costs * sum(r > 0 for r in recipe.ratios) + recipe.embed

    clock = Clock(TINY)
    timed = replace(SPACE, latency=clock)  # type: ignore[arg-type]
    least = clock.latency_ms(timed.recipe(timed.cheapest))
    assert least <= clock.latency_ms(dense(TINY))
    for _ in range(20):
        point = {name: int(rng.choice(range(d.low, d.high + 1, d.step))) for name, d in timed.dimensions.items()}
        budget = least + rng.uniform() * (clock.latency_ms(dense(TINY)) - least)
        timed.check_budget(budget)
        assert clock.latency_ms(timed.recipe(timed.project(point, budget))) <= budget
    with pytest.raises(UserError, match="ms; nearest"):
        timed.check_budget(0.99 * least)
