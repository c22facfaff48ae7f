# SPDX-License-Identifier: Apache-2.0
"""Bisection over a method's strength."""

import pytest

from raycomp.match_cost import match_cost
from raycomp.recipe import Recipe, dense
from tests.conftest import TINY


def build(strength: float) -> Recipe:
    return dense(TINY).model_copy(update={"embed": round(1000 - 900 * strength)})


def cost(recipe: Recipe) -> float:
    return float(recipe.embed)


@pytest.mark.parametrize("target", [999.6, 512.3, 100.4])
def test_the_two_neighbours_of_a_target_are_found(target):
    matched = match_cost(build, cost, target)
    assert matched.below_cost <= target < matched.above_cost
    assert matched.above_cost - matched.below_cost == 1
    assert matched.nearest(target, 0.01)[1] == round(target)


def test_a_target_below_full_strength_has_no_recipe_below():
    matched = match_cost(build, cost, 50.0)
    assert matched.below is None
    assert matched.nearest(50.0, 0.01)[1] == 100.0


def test_a_slow_cost_is_asked_no_more_than_needed():
    asked = []
    matched = match_cost(build, lambda r: asked.append(r) or cost(r), 550.0, close=0.01)
    assert abs(matched.nearest(550.0, 0.01)[1] - 550.0) <= 5.5
    assert len(asked) <= 8


def test_the_nearest_of_a_coarse_setting_stays_below_the_target():
    """Costs 100, 70, 40: 45 is nearer to 40; 60 is nearer to 70, which is 17 % too much."""

    def coarse(strength: float) -> Recipe:
        return dense(TINY).model_copy(update={"embed": 100 - 30 * int(2 * strength + 0.5)})

    for target, expected in ((45.0, 40.0), (60.0, 40.0), (69.5, 70.0), (75.0, 70.0)):
        assert match_cost(coarse, cost, target).nearest(target, 0.01)[1] == expected


def test_a_recipe_is_measured_once():
    asked = []
    match_cost(lambda s: build(round(s, 1)), lambda r: asked.append(r.embed) or cost(r), 500.0)
    assert len(asked) == len(set(asked))
