"""The grid of recipes and its projection onto a budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycomp.config import SpaceConfig, WidthRange
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.search.space import Space
from raycomp.shape import deit_base_distilled
from tests.conftest import TINY

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
        (SpaceConfig(embed=WidthRange(low=64)), r"space\.embed\.low is 64; the model has 32"),
        (SpaceConfig(embed=WidthRange(low=15)), r"space\.embed\.low 15 is not 32 minus steps of 8; nearest: 16"),
    ],
)
def test_bad_ranges(config, words):
    with pytest.raises(UserError, match=words):
        _ = Space(TINY, config, TINY.image).dimensions


def test_the_papers_model_has_a_dimension_for_everything():
    config = SpaceConfig(embed=WidthRange(low=384), heads=WidthRange(low=4, step=1), mlp=WidthRange(low=768))
    assert len(Space(deit_base_distilled((512, 512), 150), config, (512, 512)).dimensions) == 1 + 12 + 12 + 12
