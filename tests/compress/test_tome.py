"""Matching and merging against loops in float64."""

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.tome import match, merge
from raycomp.models.segmenter import Tokens, restore
from raycomp.recipe import BlockWidths, Recipe, ToMe, dense
from tests.conftest import seeded_images


def brute_force_match(metric: np.ndarray, r: int, prefix: int) -> list[int]:
    """Positions after merging one image's tokens, by the published steps, one token at a time."""
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    sources = [i for i in range(len(unit)) if i % 2 == 0 and i >= prefix]
    destinations = [i for i in range(len(unit)) if i % 2 == 1 and i >= prefix]
    partner = {s: max(destinations, key=lambda d: unit[s] @ unit[d]) for s in sources}
    best_first = sorted(sources, key=lambda s: -(unit[s] @ unit[partner[s]]))
    merged = set(best_first[:r])
    kept = [*range(prefix), *(s for s in sources if s not in merged), *destinations]
    return [kept.index(partner[i] if i in merged else i) for i in range(len(unit))]


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize(("tokens", "r"), [(9, 1), (10, 3), (17, 7), (18, 8), (65, 20), (66, 32), (66, 0)])
def test_match_equals_brute_force(tokens, r, prefix, rng):
    metric = rng.standard_normal((3, tokens, 6))
    index = match(torch.from_numpy(metric), r, prefix)
    assert index.tolist() == [brute_force_match(image, r, prefix) for image in metric]


@pytest.mark.parametrize("prefix", [1, 2])
def test_merge_is_the_size_weighted_mean(prefix, rng):
    x, size = rng.standard_normal((2, 20, 5)), rng.integers(1, 9, (2, 20)).astype(float)
    index = match(torch.from_numpy(rng.standard_normal((2, 20, 4))), 6, prefix)
    merged, sizes = merge(torch.from_numpy(x), torch.from_numpy(size), index, 14)
    for image in range(2):
        for position in range(14):
            parts = np.flatnonzero(index[image].numpy() == position)
            total = sum(size[image, p] for p in parts)
            mean = sum(size[image, p] * x[image, p] for p in parts) / total
            np.testing.assert_allclose(merged[image, position], mean, rtol=1e-12)
            assert sizes[image, position] == total


def test_sizes_add_up_to_the_patches_and_special_tokens_stay_alone(model, saliency, shape):
    recipe = dense(shape).model_copy(update={"merge": ToMe(ratios=(0.5, 0.4, 0.3))})
    _, tokens = compress(model, recipe, saliency).encoder(seeded_images(shape))
    assert tokens.size.sum(1).tolist() == [48 + 2, 48 + 2]
    assert tokens.size[:, :2].eq(1).all()
    assert tokens.source.min() >= 2


def test_restore_brings_every_patch_the_mean_of_its_group(rng):
    patches = torch.from_numpy(rng.standard_normal((1, 16, 3)))
    x = torch.cat([torch.zeros(1, 2, 3, dtype=torch.float64), patches], dim=1)
    index = match(torch.from_numpy(rng.standard_normal((1, 18, 4))), 5, 2)
    merged, sizes = merge(x, torch.ones(1, 18, dtype=torch.float64), index, 13)
    source = index.gather(1, torch.arange(2, 18)[None])
    full = restore(merged[:, 2:], Tokens(sizes, source), prefix=2)
    for patch in range(16):
        group = (source[0] == source[0, patch]).nonzero().flatten()
        torch.testing.assert_close(full[0, patch], patches[0, group].mean(0))


def test_patch_indices_come_back_in_order_when_equal_tokens_merge():
    """Pairs of identical patches merge and nothing is lost: restoring gives every index back."""
    indices = torch.arange(16).div(2, rounding_mode="floor").double()
    x = torch.cat([torch.full((1,), -1.0).double(), indices])[None, :, None]  # one special token
    metric = torch.nn.functional.one_hot(torch.tensor([9, *indices.long().tolist()]), 10).double()[None]
    index = match(metric, 8, 1)
    merged, sizes = merge(x, torch.ones(1, 17, dtype=torch.float64), index, 9)
    full = restore(merged[:, 1:], Tokens(sizes, index.gather(1, torch.arange(1, 17)[None])), prefix=1)
    assert full.flatten().tolist() == indices.tolist()


@pytest.mark.parametrize("metric", ["mean_keys", "keys"])
def test_merging_at_ratio_zero_changes_nothing(model, saliency, shape, metric):
    images = seeded_images(shape)
    recipe = Recipe(embed=32, blocks=dense(shape).blocks, merge=ToMe(ratios=(0.0, 0.0, 0.0), metric=metric))
    assert torch.equal(compress(model, recipe, saliency)(images), model(images))


def test_proportional_attention_equals_attention_over_copies(model):
    """A token of size 3 weighs as much as three equal tokens (ToMe, section 3)."""
    attention = model.encoder.blocks[0].attn.double()
    x = torch.randn(1, 4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    copies = torch.cat([x, x[:, 3:], x[:, 3:]], dim=1)
    log_size = torch.tensor([[1.0, 1.0, 1.0, 3.0]], dtype=torch.float64).log()
    merged, spread = attention(x, log_size)[0], attention(copies)[0][:, :4]
    model.float()
    torch.testing.assert_close(merged, spread, rtol=1e-12, atol=1e-12)


def test_the_same_recipe_is_built_bit_for_bit(model, saliency, shape):
    block = BlockWidths(heads=2, qk=8, v=8, mlp=64)
    recipe = Recipe(embed=24, blocks=(block,) * 3, merge=ToMe(ratios=(0.3, 0.2, 0.1)))
    again = Recipe.model_validate_json(recipe.canonical_json())
    images = seeded_images(shape)
    assert torch.equal(compress(model, recipe, saliency)(images), compress(model, again, saliency)(images))
