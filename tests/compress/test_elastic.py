"""Elastic models: order changes nothing, prefixes are what saliency keeps, and gradients stay in the prefix."""

import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.elastic import Nested, ordered, prefix_saliency
from raycomp.recipe import BlockWidths, Recipe, ToMe, dense
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency

BLOCKS = tuple(BlockWidths(heads=h, qk=q, v=v, mlp=m) for h, q, v, m in ((3, 5, 8, 100), (4, 8, 3, 24), (1, 2, 7, 128)))
NARROW = Recipe(embed=24, blocks=BLOCKS)


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
@pytest.mark.parametrize("recipe", [dense(TINY), NARROW], ids=["full", "narrow"])
def test_the_prefix_of_an_ordered_model_is_what_saliency_keeps(change, recipe):
    shape = TINY.model_copy(update=change)
    model, images = seeded_model(shape).double(), seeded_images(shape).double()
    saliency = seeded_saliency(seeded_model(shape))
    elastic = ordered(model, saliency).double()
    pruned, prefix = compress(model, recipe, saliency), compress(elastic, recipe, prefix_saliency(shape))
    torch.testing.assert_close(prefix(images), pruned(images), rtol=1e-9, atol=1e-9)


def test_scores_of_prefixes_are_named_and_shaped_like_saliency(saliency):
    assert {name: s.shape for name, s in prefix_saliency(TINY).items()} == {n: s.shape for n, s in saliency.items()}


def test_a_nested_model_is_the_sliced_one_and_trains_its_units_alone(model, saliency):
    recipe = NARROW.model_copy(update={"merge": ToMe(ratios=(0.2, 0.0, 0.3))})
    elastic, prefixes, images = ordered(model, saliency), prefix_saliency(TINY), seeded_images(TINY)
    scores = Nested(elastic, recipe, prefixes)(images)
    assert torch.equal(scores, compress(elastic, recipe, prefixes).patch_scores(images))
    scores.square().mean().backward()
    block = elastic.encoder.blocks[1]
    assert block.mlp.fc1.weight.grad[:24, :24].abs().min() > 0
    assert block.mlp.fc1.weight.grad[24:].abs().max() == 0
    assert block.mlp.fc1.weight.grad[:, 24:].abs().max() == 0
    rows = block.attn.proj.weight.grad[:24].view(24, 4, 8)  # (E, heads, V)
    assert rows[..., :3].abs().min() > 0
    assert rows[..., 3:].abs().max() == 0
