# SPDX-License-Identifier: Apache-2.0
"""Precision as a part of a recipe and a dimension of the search space."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from raycomp.merging import ToMe
from raycomp.recipe import PRECISIONS, Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.trials import TokenClock

WIDTHS = SpaceConfig(embed=WidthRange(low=16), v=WidthRange(low=4, step=4), mlp=WidthRange(low=32, step=16))
BOTH = WIDTHS.model_copy(update={"precision": ("fp32", "int8")})
PLAIN = Space(TINY, WIDTHS, TINY.image)
MERGED = dense(TINY).merging(ToMe(ratios=(0.25, 0, 0)))


def timed(factor: float = 0.7, config: SpaceConfig = BOTH) -> Space:
    clock: Any = TokenClock(TINY, factor)
    return Space(TINY, config, TINY.image, clock)


def test_float32_recipes_keep_their_ids():
    """As computed before recipes had a precision."""
    assert dense(TINY).id == "fc097a93c3dc"
    assert "precision" not in dense(TINY).canonical_json()
    assert "precision" not in dense(TINY).model_dump()
    assert Recipe.model_validate(dense(TINY).model_dump() | {"precision": "fp32"}).id == dense(TINY).id


def test_a_precision_survives_storage_and_new_merging():
    recipe = MERGED.at("int8")
    assert recipe.id != MERGED.id
    assert Recipe.model_validate_json(recipe.canonical_json()) == recipe
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))).id == recipe.id
    assert recipe.merging(None) == dense(TINY).at("int8")
    assert recipe.at("fp32") == MERGED


@pytest.mark.parametrize(
    ("recipe", "family"),
    [
        (dense(TINY), "int8"),
        (MERGED, "tome+int8"),
        (MERGED.model_copy(update={"embed": 24}), "prune+tome+int8"),
        (dense(TINY).model_copy(update={"embed": 24}), "prune+int8"),
    ],
)
def test_int8_recipes_are_families_of_their_own(recipe, family):
    assert recipe.at("int8").family(TINY) == family


def test_a_space_without_int8_has_no_dimension_for_it():
    assert PLAIN.dimensions.keys() == timed().dimensions.keys() - {"precision"}
    for seed in range(5):  # same random numbers, so an elastic model is trained alike
        drawn = [space.draw(np.random.default_rng(seed), 0.5 * PLAIN.gflops({})) for space in (PLAIN, timed())]
        assert drawn[0] | {"precision": 0} == drawn[1]


def test_points_and_recipes_round_trip():
    space = timed()
    for value, precision in enumerate(PRECISIONS):
        point = space.params(MERGED.at(precision))
        assert point["precision"] == value
        assert space.recipe(point) == MERGED.at(precision)
    assert space.recipe({}) == dense(TINY)
    assert space.outside(MERGED.at("int8")) == PLAIN.outside(MERGED) == ""


def test_with_int8_alone_every_recipe_is_int8_and_the_dense_cost_is_that_of_float32():
    config = WIDTHS.model_copy(update={"precision": ("int8",)})
    space = timed(0.5, config)
    assert space.dimensions.keys() == PLAIN.dimensions.keys()
    assert space.recipe({}) == space.sparing(dense(TINY)) == dense(TINY).at("int8")
    assert space.budget_of(1.0) == 2 * space.cost(space.recipe({}))


@pytest.mark.parametrize("precision", [0, 1])
def test_projection_keeps_the_precision_if_it_can(precision):
    space = timed()
    point = {name: d.full for name, d in space.dimensions.items()} | {"precision": precision}
    budget = 0.69 * space.cost(dense(TINY))
    projected = space.project(point, budget)
    assert projected["precision"] == precision
    assert space.fits(projected, budget)
    assert projected != point


@pytest.mark.parametrize(("factor", "cheapest"), [(0.7, 1), (1.3, 0)])
def test_projection_changes_the_precision_if_nothing_else_helps(factor, cheapest):
    space = timed(factor)
    assert space.cheapest["precision"] == cheapest
    point = {name: d.full for name, d in space.dimensions.items()} | {"precision": 1 - cheapest}
    budget = 1.01 * space.cost(space.recipe(space.cheapest))
    projected = space.project(point, budget)
    assert projected["precision"] == cheapest
    assert space.fits(projected, budget)


def test_fixed_blocks_do_not_fix_the_precision():
    space = replace(timed(), config=BOTH.model_copy(update={"fixed": BOTH.fixed.model_copy(update={"blocks": (0,)})}))
    assert space.sparing(MERGED.at("int8")).precision == "int8"
