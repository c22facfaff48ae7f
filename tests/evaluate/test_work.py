# SPDX-License-Identifier: Apache-2.0
"""The work that is counted for a recipe: against the sizes of torch's tensors, and against counted FLOPs."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raycomp.compress.apply import let_merge
from raycomp.decoders.halves import NORM_COST
from raycomp.evaluate.work import KINDS, work
from raycomp.flops import gflops
from raycomp.merging import Algm, ToMe, WindowsToMe
from raycomp.models.block import Block
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape
from tests.conftest import TINY
from tests.helpers.recipes import random_merge, random_recipe, without
from tests.helpers.traits import cut_everywhere, with_traits


def moved(shape: ModelShape, recipe: Recipe) -> Counter[str]:
    """Sizes of torch's tensors in the blocks of the encoder, for one image."""
    model, sizes = Segmenter(shape, recipe).eval(), Counter[str]()
    let_merge(model, recipe, None)

    def add(kind: str, values: torch.Tensor) -> None:
        sizes[kind] += values.numel()

    for block in model.encoder.blocks:
        assert isinstance(block, Block)
        for name, module in block.named_modules():
            end = name.rpartition(".")[2]
            if end in ("norm1", "norm2"):
                module.register_forward_hook(lambda _, __, out: add("norms", out))
            if isinstance(module, nn.Linear):
                flops = module.in_features
                module.register_forward_hook(lambda _, __, out, flops=flops: sizes.update(linear=flops * out.numel()))
            if end in ("qkv", "fc1"):
                module.register_forward_hook(lambda _, __, out, k=end: add("heads" if k == "qkv" else "hidden", out))
    with torch.no_grad():
        model(torch.randn(1, 3, *shape.image))
    return sizes


@pytest.mark.parametrize("name", ["plain", "registers", "swiglu"])
def test_counts_are_the_sizes_of_tensors(name):
    shape = TINY if name == "plain" else with_traits(name)
    narrow = cut_everywhere(shape)
    merge = ToMe(ratios=(0.25, 0.0, 0.4))
    for recipe in (dense(shape), narrow, narrow.merging(merge), without(narrow, (0,), (1,)).merging(merge)):
        counted, sizes = work(shape, recipe, shape.image), moved(shape, recipe)
        for kind in ("norms", "linear", "heads", "hidden"):
            assert counted[kind] == sizes[kind], (kind, recipe)


def flops(recipe: Recipe, qk: int) -> float:
    """GFLOPs from the counted work, for a plain ViT whose blocks all compare keys of one width."""
    done = work(TINY, recipe, TINY.image)
    once = 3 * TINY.patch**2 * done["embedding"] + done["decoder"] + NORM_COST * done["features"]
    return (once + done["linear"] + done["attention"] + NORM_COST * done["norms"] + qk * done["pairs"]) / 1e9


def test_flops_follow_from_the_work(rng):
    """`gflops` is checked against fvcore; its terms are those of the work."""
    for method in ("mean_keys", "windows_tome", "none"):
        for _ in range(10):
            recipe = random_recipe(TINY, rng, method)
            blocks = tuple(block.model_copy(update={"qk": 5}) for block in recipe.blocks)
            recipe = recipe.model_copy(update={"blocks": blocks})
            assert flops(recipe, 5) == pytest.approx(gflops(TINY, recipe), rel=1e-12)


def test_merging_is_counted_where_it_happens():
    n = TINY.prefix + 48
    plain, pairs = work(TINY, dense(TINY), TINY.image), ToMe(ratios=(0.0, 0.5, 0.0))
    merged = work(TINY, dense(TINY).merging(pairs), TINY.image)
    assert (plain["restored"], plain["merging"], plain["weighted_softmax"]) == (0, 0, 0)
    assert (merged["restored"], merged["merging"], merged["windows"]) == (1, 1, 0)
    assert merged["merged"] == n * TINY.width
    left = n - 24
    assert merged["weighted_tokens"] == left
    assert merged["weighted_softmax"] == left**2 * TINY.heads
    windows = WindowsToMe(windows=0.5, ratios=(0.0, 0.0, 0.0))
    local = work(TINY, dense(TINY).merging(windows), TINY.image)
    assert (local["merging"], local["windows"]) == (0, n * TINY.width)
    both = work(TINY, dense(TINY).merging(Algm(blocks=(1, 2), windows=0.5, pairs=0.2)), TINY.image)
    assert (both["merging"], both["windows"]) == (1, n * TINY.width)


def test_each_kind_is_counted_for_some_recipe(rng):
    cts: Any = random_merge(TINY, rng, "cts")
    recipes = [*(dense(TINY).merging(one) for one in (WindowsToMe(windows=0.5, ratios=(0.1, 0.1, 0.1)), cts))]
    counted = np.array([list(work(TINY, recipe, TINY.image).values()) for recipe in recipes])
    assert counted.shape == (2, len(KINDS))
    assert (counted.max(axis=0) > 0).all()
