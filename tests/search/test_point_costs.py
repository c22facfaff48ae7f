# SPDX-License-Identifier: Apache-2.0
"""Costs of many points at once are exactly those of single recipes."""

import numpy as np
import pytest

from raycomp.evaluate.work import KINDS, work
from raycomp.flops import profile
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


@pytest.mark.parametrize("space", spaces())
def test_costs_and_tokens_equal_those_of_each_recipe(space):
    dimensions = list(space.dimensions.values())
    rng, limits = np.random.default_rng(0), max_steps(dimensions)
    drawn = rng.integers(0, limits + 1, size=(40, len(limits)))
    drawn[0] = 0
    gflops, tokens = PointCosts(space)(drawn)
    for cost, counts, steps in zip(gflops, tokens, drawn, strict=True):
        alone = profile(space.shape, space.recipe(space.canonical(point(dimensions, steps))), space.image)
        assert cost == pytest.approx(alone.gflops, rel=1e-12)
        assert tuple(counts) == alone.tokens


@pytest.mark.parametrize("space", spaces())
def test_work_equals_that_of_each_recipe(space):
    dimensions = list(space.dimensions.values())
    rng, limits = np.random.default_rng(1), max_steps(dimensions)
    drawn = rng.integers(0, limits + 1, size=(40, len(limits)))
    drawn[0] = 0
    for counted, steps in zip(PointCosts(space).work(drawn), drawn, strict=True):
        recipe = space.recipe(space.canonical(point(dimensions, steps)))
        assert dict(zip(KINDS, counted, strict=True)) == pytest.approx(work(space.shape, recipe, space.image))
