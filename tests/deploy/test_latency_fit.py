# SPDX-License-Identifier: Apache-2.0
"""Latency tables fitted to complete models, by a clock that knows what work costs, and by a real one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.deploy import latency_fit
from raycomp.deploy.latency_fit import Timing, drawn, fitted, least_squares, left_out, widths_alone
from raycomp.errors import UserError
from raycomp.evaluate.work import KINDS, work
from raycomp.footprint import params
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.tables import table_of
from tests.helpers.traits import SHAPES, with_traits

CPU = torch.device("cpu")
CONFIG = SpaceConfig(
    embed=WidthRange(low=16, step=8),
    heads=WidthRange(low=1, step=1, drop=True),
    mlp=WidthRange(low=32, step=16, drop=True),
    merge="windows_tome",
)
SPACE = Space(TINY, CONFIG, TINY.image)
TRUE = table_of(TINY, "windows_tome", model=1.0, linear=4e-6, softmax=3e-5, halves=0.2, merging=0.5, hidden=1e-5)


def clock_of(time_ms: Callable[[Recipe], float], recipes: list[Recipe], slow: bool = False) -> Callable[[Any], Any]:
    """A clock that knows the time of each recipe; a `slow` one loses half of its speed with each group of models."""
    calls = iter(range(100))

    def clock(runs: Mapping[tuple[int, str], Callable[[], object]]) -> dict[tuple[int, str], float]:
        factor = 2.0 ** next(calls) if slow else 1.0
        return {key: factor * time_ms(recipes[key[0]]) / 1e3 for key in runs}

    return clock


@pytest.mark.parametrize("slow", [False, True])
def test_costs_of_work_are_found_from_the_times_of_models(rng, monkeypatch, slow):
    monkeypatch.setattr(latency_fit, "_TOGETHER", 4 * params(TINY, dense(TINY)))
    recipes = drawn(SPACE, 24)
    table = fitted(SPACE, Timing(1, CPU), clock_of(TRUE.latency_ms, recipes, slow), models=24)
    assert max(table.errors["fp32"]) < 0.01
    for _ in range(20):
        recipe = SPACE.recipe(SPACE.draw(rng, 0.1 * SPACE.gflops({})))
        assert table.latency_ms(recipe) == pytest.approx(TRUE.latency_ms(recipe), rel=0.01)


def test_a_clock_that_work_does_not_explain_has_errors(rng):
    recipes = drawn(SPACE, 24)
    noise = dict(zip((recipe.id for recipe in recipes), rng.uniform(0.8, 1.25, len(recipes)), strict=True))
    noisy = clock_of(lambda recipe: TRUE.latency_ms(recipe) * noise[recipe.id], recipes)
    table = fitted(SPACE, Timing(1, CPU), noisy, models=24)
    assert len(table.errors["fp32"]) == len(recipes)
    assert 0.02 < np.median(table.errors["fp32"]) < 0.3


def test_recipes_are_those_of_the_space_at_all_costs():
    recipes = drawn(SPACE, 32)
    assert recipes[0] == dense(TINY)
    assert all(SPACE.outside(recipe) == "" for recipe in recipes)
    shares = sorted(SPACE.cost(recipe) / SPACE.cost(dense(TINY)) for recipe in recipes)
    assert shares[0] < 0.25
    assert 0.3 < shares[len(shares) // 2] < 0.8
    assert any(not block.mlp for recipe in recipes for block in recipe.blocks)
    assert any(recipe.further_ratios.get("merge_windows_0") for recipe in recipes)
    assert any(recipe.merge is None and recipe != dense(TINY) for recipe in recipes)


@pytest.mark.parametrize("name", SHAPES)
def test_widths_alone_reach_from_a_quarter_to_all(name):
    shape = with_traits(name)
    space = widths_alone(shape, shape.image)
    narrow = space.recipe(space.smallest)
    assert narrow.embed <= shape.width // 2
    assert all(recipe.merge is None for recipe in drawn(space, 6))
    Segmenter(shape, narrow)
    costs = table_of(shape, "", linear=1e-6, model=1.0)
    recipes = drawn(space, 8)
    table = fitted(space, Timing(1, CPU), clock_of(costs.latency_ms, recipes), models=8)
    assert table.method == ""
    assert table.latency_ms(narrow) == pytest.approx(costs.latency_ms(narrow), rel=0.05)


def test_least_squares_are_relative_and_not_below_zero():
    counts = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 100.0]])
    assert least_squares(counts, counts @ [3.0, 0.5]) == pytest.approx([3.0, 0.5])
    falling = least_squares(counts, np.array([3.0, 2.0, 1.0]))
    assert (falling >= 0).all()
    assert falling[1] == 0
    assert left_out(counts, counts @ [3.0, 0.5]) == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_space_of_the_dense_model_alone_has_a_table_without_errors():
    alone = Space(TINY, SpaceConfig(merge_high=0), TINY.image)
    table = fitted(alone, Timing(1, CPU), clock_of(lambda _: 8.0, [dense(TINY)]))
    assert table.latency_ms(dense(TINY)) == pytest.approx(8)
    assert (table.errors, table.about) == ({"fp32": ()}, table.setting)


def test_real_times_in_torch_are_positive_and_told():
    table = fitted(SPACE, Timing(2, CPU, threads=2), models=3)
    assert table.latency_ms(dense(TINY)) > 0
    setting = f"cpu, torch {torch.__version__}, batch 2, 2 threads, 48x64 px"
    assert table.setting == setting
    assert torch.get_num_threads() == 1


def test_real_times_in_onnxruntime_by_precision():
    pytest.importorskip("onnxruntime")
    timing = Timing(1, CPU, engine="onnxruntime", precisions=("fp32", "int8"))
    table = fitted(SPACE, timing, models=1)
    assert set(table.costs) == set(table.errors) == {"fp32", "int8"}
    assert all(sum(work(TINY, dense(TINY), TINY.image)[k] * c for k, c in each.items()) > 0
               for each in table.costs.values())  # fmt: skip
    assert list(table.costs["int8"]) == list(KINDS)
    assert table.setting.startswith("cpu, onnxruntime ")


def test_onnxruntime_is_not_timed_in_other_precisions():
    with pytest.raises(UserError, match=r"evaluation.dtype bfloat16: search.latency_engine onnxruntime is timed in"):
        fitted(SPACE, Timing(1, CPU, torch.bfloat16, "onnxruntime"), models=1)
