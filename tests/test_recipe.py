# SPDX-License-Identifier: Apache-2.0
"""Recipes as data: identity, round trips, schedules."""

import pytest
import yaml
from pydantic import ValidationError

from raycomp.merging import ToMe
from raycomp.merging.tome import constant_r, from_counts, merge_counts
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.shape import deit_base_distilled
from tests.conftest import TINY

ADE20K = deit_base_distilled((512, 512), 150)


@pytest.mark.parametrize("r", [40, 95, 140])
def test_constant_r_is_expressible_exactly(r):
    counts = merge_counts(ADE20K, constant_r(ADE20K, r))
    mergeable = 1024
    for count in counts:
        assert count == min(r, mergeable // 2)
        mergeable -= count


def test_a_recipe_means_the_same_share_at_every_resolution():
    ratios = (0.25,) * 12
    assert merge_counts(ADE20K, ratios)[0] == 256
    assert merge_counts(ADE20K, ratios, (768, 768))[0] == 576


def test_schedule_of_counts_survives_the_ratios():
    counts = [24, 12, 5]
    assert merge_counts(TINY, from_counts(TINY, counts)) == [24, 12, 5]


def test_yaml_and_json_round_trips_keep_the_id():
    recipe = Recipe(embed=24, blocks=(BlockWidths(heads=2, qk=8, v=8, mlp=64),) * 3, merge=ToMe(ratios=(1 / 3, 0, 0.5)))
    assert Recipe.model_validate_json(recipe.canonical_json()) == recipe
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))).id == recipe.id


def test_merging_nothing_is_no_merging():
    whole = dense(TINY)
    assert Recipe(embed=32, blocks=whole.blocks, merge=ToMe(ratios=(0, 0, 0))).id == whole.id


@pytest.mark.parametrize("ratios", [(0.6, 0, 0), (-0.1, 0, 0), (0.1, 0.1)])
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(ValidationError):
        Recipe(embed=32, blocks=dense(TINY).blocks, merge=ToMe(ratios=ratios))


@pytest.mark.parametrize(
    ("recipe", "family"),
    [
        (dense(TINY), "dense"),
        (dense(TINY).model_copy(update={"embed": 24}), "prune"),
        (Recipe(embed=32, blocks=dense(TINY).blocks, merge=ToMe(ratios=(0.1, 0, 0))), "tome"),
        (Recipe(embed=24, blocks=dense(TINY).blocks, merge=ToMe(ratios=(0.1, 0, 0))), "prune+tome"),
    ],
)
def test_family(recipe, family):
    assert recipe.family(TINY) == family
