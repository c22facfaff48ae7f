# SPDX-License-Identifier: Apache-2.0
"""GFLOPs against the paper's tables and against fvcore."""

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.errors import UserError
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import gflops, profile
from raycomp.merging import Cts, ToMe
from raycomp.merging.tokens import TokenSharing
from raycomp.merging.tome import constant_r
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape, deit_base_distilled, vit
from tests.conftest import TINY, seeded_model, seeded_saliency
from tests.helpers.counting import counted_gflops
from tests.helpers.recipes import METHODS, WINDOWED, random_recipe

ADE20K, CITYSCAPES = ((512, 512), 150), ((768, 768), 19)

# (backbone, prefix, decoder, image and classes, GFLOPs): REFERENCE section 2, the paper's Table 1.
ACCEPTANCE = [
    ("tiny", 1, "mask", ADE20K, 12.829),
    ("small", 1, "mask", ADE20K, 38.622),
    ("base", 1, "mask", ADE20K, 129.573),
    ("base", 2, "mask", ADE20K, 129.696),
    ("small", 1, "linear", ADE20K, 32.015),
    ("base", 1, "linear", ADE20K, 107.401),
    ("tiny", 1, "mask", CITYSCAPES, 43.548),
    ("small", 1, "mask", CITYSCAPES, 115.975),
    ("base", 1, "mask", CITYSCAPES, 347.598),
    ("base", 2, "mask", CITYSCAPES, 347.768),
    ("small", 1, "linear", CITYSCAPES, 98.760),
    ("base", 1, "linear", CITYSCAPES, 295.363),
]
# (image and classes, r, metric, GFLOPs): ToMe on DeiT-B in all 12 blocks.
TOME = [
    (ADE20K, 40, "keys", 93.00),
    (ADE20K, 95, "keys", 49.51),
    (ADE20K, 140, "keys", 35.08),
    (ADE20K, 40, "mean_keys", 91.59),
    (ADE20K, 95, "mean_keys", 48.75),
    (ADE20K, 140, "mean_keys", 34.53),
    (CITYSCAPES, 145, "keys", 183.83),
    (CITYSCAPES, 190, "keys", 142.11),
    (CITYSCAPES, 280, "keys", 98.60),
]
# (image and classes, R, GFLOPs): CTS on DeiT-B, policy network included.
CTS = [
    (ADE20K, 0.3, 88.57),
    (ADE20K, 0.6, 49.93),
    (ADE20K, 0.7, 37.95),
    (CITYSCAPES, 0.4, 185.52),
    (CITYSCAPES, 0.5, 150.03),
    (CITYSCAPES, 0.65, 100.18),
]


@pytest.mark.parametrize(("name", "prefix", "decoder", "task", "expected"), ACCEPTANCE)
def test_dense_models_match_the_published_gflops(name, prefix, decoder, task, expected):
    shape = vit(name, *task, prefix=prefix, decoder=decoder)
    assert gflops(shape, dense(shape)) == pytest.approx(expected, abs=6e-4)


def tome_recipe(shape: ModelShape, r: int, metric: str) -> Recipe:
    whole = dense(shape)
    return Recipe(embed=whole.embed, blocks=whole.blocks, merge=ToMe(ratios=constant_r(shape, r), metric=metric))


@pytest.mark.parametrize(("task", "r", "metric", "expected"), TOME)
def test_tome_rows_of_table_1(task, r, metric, expected):
    shape = deit_base_distilled(*task)
    assert gflops(shape, tome_recipe(shape, r, metric)) == pytest.approx(expected, abs=0.01)


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(("name", "prefix", "decoder", "task", "expected"), ACCEPTANCE)
def test_analytic_count_equals_fvcore_on_dense_models(name, prefix, decoder, task, expected, monkeypatch):
    shape = vit(name, *task, prefix=prefix, decoder=decoder)
    counted = counted_gflops(Segmenter(shape, dense(shape)).eval(), monkeypatch)
    assert counted == pytest.approx(expected, abs=6e-4)
    assert counted == pytest.approx(gflops(shape, dense(shape)), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("r", [40, 95, 140])
def test_analytic_count_equals_fvcore_on_tome(r, monkeypatch):
    shape = deit_base_distilled(*ADE20K)
    recipe = tome_recipe(shape, r, "keys")
    model = Segmenter(shape, recipe).eval()
    model.encoder.merger = recipe.merge
    assert counted_gflops(model, monkeypatch) == pytest.approx(gflops(shape, recipe), abs=0.01)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", [{}, {"prefix": 1}, {"decoder": "linear"}, {"image": (32, 96)}, {"image": (40, 40)}])
def test_analytic_count_equals_fvcore_on_random_recipes(seed, method, change, monkeypatch):
    shape = TINY.model_copy(update=change)
    recipe = random_recipe(shape, np.random.default_rng(seed), method)
    model = seeded_model(shape)
    compressed = compress(model, recipe, seeded_saliency(model), Policy("small", shape.patch).eval())
    if method in WINDOWED and shape.grid()[0] % 2:
        with pytest.raises(UserError, match="even sides"):
            counted_gflops(compressed, monkeypatch)
        return
    tokens = tokens_per_block(compressed, torch.zeros(1, 3, *shape.image))
    counted = counted_gflops(compressed, monkeypatch)
    assert counted == pytest.approx(gflops(shape, recipe, tokens=tokens if recipe.adaptive else None), rel=1e-9)
    if not recipe.adaptive:
        assert profile(shape, recipe).tokens == tuple(tokens)


def test_adaptive_merging_costs_nothing_known_before_an_image_is_seen():
    recipe = random_recipe(TINY, np.random.default_rng(0), "adaptive")
    with pytest.raises(ValueError, match="depend on the image"):
        gflops(TINY, recipe)


@pytest.mark.parametrize(("task", "share", "expected"), CTS)
def test_cts_rows_of_table_1(task, share, expected):
    shape = deit_base_distilled(*task)
    recipe = dense(shape).model_copy(update={"merge": Cts(share=share)})
    assert gflops(shape, recipe) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_analytic_count_equals_fvcore_on_cts(monkeypatch):
    shape = deit_base_distilled(*ADE20K)
    recipe = dense(shape).model_copy(update={"merge": Cts(share=0.6)})
    model = Segmenter(shape, recipe).eval()
    model.encoder.sharer = TokenSharing(recipe.merge, Policy("efficientnet_lite0", 16), shape.prefix).eval()
    assert counted_gflops(model, monkeypatch) == pytest.approx(49.93, abs=0.01)


def test_tokens_of_the_paper_when_r_is_140():
    shape = deit_base_distilled(*ADE20K)
    tokens = profile(shape, tome_recipe(shape, 140, "keys")).tokens
    assert tokens == (886, 746, 606, 466, 326, 186, 94, 48, 25, 14, 8, 5)


def test_parts_add_up_to_the_total():
    shape = deit_base_distilled(*ADE20K)
    cost = profile(shape, tome_recipe(shape, 95, "keys"))
    assert cost.embedding + sum(cost.blocks) + cost.decoder == pytest.approx(cost.gflops, rel=1e-12)
