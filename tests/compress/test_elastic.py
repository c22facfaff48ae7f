# SPDX-License-Identifier: Apache-2.0
"""Elastic models: order changes nothing, prefixes are what saliency keeps, and gradients stay in the prefix."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from raycomp.compress.apply import compress
from raycomp.compress.elastic import Nested, ordered
from raycomp.compress.pruning import kept_units, sliced
from raycomp.merging import ToMe
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.copies import Copies
from tests.helpers.recipes import falling

BLOCKS = tuple(BlockWidths(heads=h, qk=q, v=v, mlp=m) for h, q, v, m in ((3, 5, 8, 100), (4, 8, 3, 24), (1, 2, 7, 128)))
NARROW = Recipe(embed=24, blocks=BLOCKS)


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
@pytest.mark.parametrize("recipe", [dense(TINY), NARROW], ids=["full", "narrow"])
def test_the_prefix_of_an_ordered_model_is_what_saliency_keeps(change, recipe):
    shape = TINY.model_copy(update=change)
    model, images = seeded_model(shape).double(), seeded_images(shape).double()
    saliency = seeded_saliency(seeded_model(shape))
    elastic = ordered(model, saliency).double()
    pruned, prefix = compress(model, recipe, saliency), compress(elastic, recipe, None)
    torch.testing.assert_close(prefix(images), pruned(images), rtol=1e-9, atol=1e-9)


def test_a_nested_model_is_the_sliced_one_and_trains_its_units_alone(model, saliency):
    recipe = NARROW.model_copy(update={"merge": ToMe(ratios=(0.2, 0.0, 0.3))})
    elastic, images = ordered(model, saliency), seeded_images(TINY)
    scores = Nested(elastic, recipe)(images)
    assert torch.equal(scores, compress(elastic, recipe, None).patch_scores(images))
    scores.square().mean().backward()
    block = elastic.encoder.blocks[1]
    assert block.mlp.fc1.weight.grad[:24, :24].abs().min() > 0
    assert block.mlp.fc1.weight.grad[24:].abs().max() == 0
    assert block.mlp.fc1.weight.grad[:, 24:].abs().max() == 0
    rows = block.attn.proj.weight.grad[:24].view(24, 4, 8)  # (E, heads, V)
    assert rows[..., :3].abs().min() > 0
    assert rows[..., 3:].abs().max() == 0


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
def test_a_nested_model_trains_like_one_whose_units_are_gathered_by_index(change):
    """To the bit, over recipes whose gradients add up."""
    shape = TINY.model_copy(update=change)
    model, images = seeded_model(shape), seeded_images(shape)
    scores = falling(seeded_saliency(model))
    recipes = [dense(shape), NARROW, NARROW.model_copy(update={"embed": 16, "merge": ToMe(ratios=(0.2, 0.0, 0.3))})]
    expected = {name: torch.zeros(()) for name, _ in model.named_parameters()}
    for recipe in recipes:
        kept = kept_units(shape, recipe, scores)
        weights = {f"of.{name}": weight for name, weight in sliced(model, model.state_dict(), kept).items()}
        out = functional_call(PatchScores(compress(model, recipe, scores)), weights, images)
        found = torch.autograd.grad(out.square().mean(), list(model.parameters()))
        expected = {name: expected[name] + gradient for name, gradient in zip(expected, found, strict=True)}
    for recipe in recipes:
        Nested(model, recipe)(images).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name
    there, shown = model.to("meta"), images.to("meta")
    with Copies() as counted:
        Nested(there, NARROW)(shown)
    assert counted.between_devices == 0


class PatchScores(nn.Module):
    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.of = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.of.patch_scores(images)
