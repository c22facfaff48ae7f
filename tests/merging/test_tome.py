# SPDX-License-Identifier: Apache-2.0
"""ToMe in a model; `test_merge` has the matching itself."""

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.merging import ToMe
from raycomp.merging.tokens import Tokens, match, with_places
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import seeded_images
from tests.helpers.matching import brute_force_places


def test_sizes_add_up_to_the_patches_and_special_tokens_stay_alone(model, saliency, shape):
    recipe = dense(shape).model_copy(update={"merge": ToMe(ratios=(0.5, 0.4, 0.3))})
    _, tokens = compress(model, recipe, saliency).encoder(seeded_images(shape))
    assert tokens.size.sum(1).tolist() == [48 + 2, 48 + 2]
    assert tokens.size[:, :2].eq(1).all()
    assert tokens.source.min() >= 2


@pytest.mark.parametrize("metric", ["mean_keys", "keys", "near_keys"])
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


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("grid", [(2, 6), (4, 4), (6, 2)])
def test_places_equal_brute_force(grid, prefix, rng):
    """Six patches are two tokens, the others are alone."""
    patches = grid[0] * grid[1]
    source = np.concatenate([[0, 0, 1, 1, 1, 0], np.arange(2, patches - 4)]) + prefix
    groups = [[p] for p in range(prefix)]
    groups += [(np.flatnonzero(source == token) + prefix).tolist() for token in range(prefix, prefix + patches - 4)]
    metric = rng.standard_normal((1, 3, len(groups), 5))
    size = torch.tensor([[len(group) for group in groups]], dtype=torch.float32)
    tokens = Tokens(size=size, source=torch.from_numpy(source)[None])
    found = with_places(torch.from_numpy(metric), tokens, grid, prefix, 0.1)
    np.testing.assert_allclose(
        found[0], brute_force_places(metric[0].mean(0), groups, grid, prefix), rtol=1e-6, atol=1e-7
    )
    alone = rng.standard_normal((1, prefix + patches, 5))
    each = [[token] for token in range(prefix + patches)]
    found = with_places(torch.from_numpy(alone), None, grid, prefix, 0.1)
    np.testing.assert_allclose(found[0], brute_force_places(alone[0], each, grid, prefix), rtol=1e-6, atol=1e-7)


def test_of_equal_keys_the_nearest_merge_first(rng):
    """On a row of patches, each source joins a neighbour, though all keys are alike."""
    keys = torch.ones(1, 2, 12, 4)
    index = match(with_places(keys, None, (1, 12), 0, 0.1), 6, 0)[0]
    partners = [(index == index[source]).nonzero().flatten().tolist() for source in range(0, 12, 2)]
    assert all(max(group) - min(group) <= 2 for group in partners)
