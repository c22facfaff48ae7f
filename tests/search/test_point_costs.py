# SPDX-License-Identifier: Apache-2.0
"""Costs of many points at once are exactly those of single recipes."""

import numpy as np
import pytest

from raycomp.evaluate.work import KINDS, work
from raycomp.flops import profile
from raycomp.recipe import Recipe
from raycomp.search.point_costs import PointCosts
from raycomp.search.surrogate import max_steps, point
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.traits import SHAPES, with_traits


def spaces():
    for name in SHAPES:
        shape = with_traits(name)
        ranges = {
            "mlp": WidthRange(low=shape.mlp - 2, step=1, drop=True),
            "heads": WidthRange(low=1, step=1, drop=True),
        }
        yield pytest.param(Space(shape, SpaceConfig(**ranges, merge_step=1 / 16), shape.image), id=name)
    for merge in ("algm", "cts", "windows_tome"):
        config = SpaceConfig(embed=WidthRange(low=16), qk=WidthRange(low=8), v=WidthRange(low=8), merge=merge)
        yield pytest.param(Space(TINY, config, TINY.image, policy="small"), id=merge)


def drawn(space: Space) -> tuple[np.ndarray, list[Recipe]]:
    """Random points of a space (40, D), the first without compression, and their recipes."""
    dimensions = list(space.dimensions.values())
    rng, limits = np.random.default_rng(0), max_steps(dimensions)
    points = rng.integers(0, limits + 1, size=(40, len(limits)))
    points[0] = 0
    return points, [space.recipe(space.canonical(point(dimensions, steps))) for steps in points]


@pytest.mark.parametrize("space", spaces())
def test_costs_and_tokens_equal_those_of_each_recipe(space):
    points, recipes = drawn(space)
    for cost, counts, recipe in zip(*PointCosts(space)(points), recipes, strict=True):
        alone = profile(space.shape, recipe, space.image)
        assert cost == pytest.approx(alone.gflops, rel=1e-12)
        assert tuple(counts) == alone.tokens


@pytest.mark.parametrize("space", spaces())
def test_work_equals_that_of_each_recipe(space):
    points, recipes = drawn(space)
    for counted, recipe in zip(PointCosts(space).work(points), recipes, strict=True):
        assert dict(zip(KINDS, counted, strict=True)) == pytest.approx(work(space.shape, recipe, space.image))
