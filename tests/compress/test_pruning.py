# SPDX-License-Identifier: Apache-2.0
"""Sliced models against masked ones, and slices against the units they must hold."""

import pytest
import torch
import torch.nn.functional as F

from raycomp.compress.layout import axes
from raycomp.compress.nvit import surviving
from raycomp.compress.pruning import kept_units, prune
from raycomp.errors import UserError
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.shape import ModelShape
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency


def test_dense_recipe_is_the_dense_model(model, saliency, shape):
    images = seeded_images(shape)
    assert torch.equal(prune(model, dense(shape), saliency)(images), model(images))


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
def test_pruned_heads_qk_v_and_mlp_equal_masked_ones(change):
    """Zeroing a unit's weights removes its contribution: the sliced model must give the same."""
    shape = TINY.model_copy(update=change)
    model = seeded_model(shape).double()
    saliency = seeded_saliency(seeded_model(shape))
    blocks = tuple(
        BlockWidths(heads=h, qk=qk, v=v, mlp=m) for h, qk, v, m in ((3, 5, 8, 100), (4, 8, 3, 24), (1, 2, 7, 128))
    )
    recipe = Recipe(embed=shape.width, blocks=blocks)
    pruned = prune(model, recipe, saliency)
    masked = seeded_model(shape).double()
    masked.load_state_dict(model.state_dict())
    kept = kept_units(shape, recipe, saliency)
    with torch.no_grad():
        for _, parameter, names in axes(masked):
            for axis, name in enumerate(names):
                if name is not None:
                    mask = torch.zeros(parameter.shape[axis], dtype=torch.bool)
                    mask[kept[name]] = True
                    dims = [-1 if d == axis else 1 for d in range(parameter.ndim)]
                    parameter.mul_(mask.view(dims))
    images = seeded_images(shape).double()
    torch.testing.assert_close(pruned(images), masked(images), rtol=1e-9, atol=1e-9)


def test_pruned_embedding_normalises_over_the_channels_that_stay(model, saliency, shape):
    recipe = dense(shape).model_copy(update={"embed": 24})
    pruned, kept = prune(model, recipe, saliency), kept_units(shape, recipe, saliency)["embed"]
    x = torch.randn(2, 5, 32)
    expected = F.layer_norm(x[..., kept], (24,), model.encoder.norm.weight[kept], model.encoder.norm.bias[kept], 1e-6)
    torch.testing.assert_close(pruned.encoder.norm(x[..., kept]), expected)
    assert pruned.decoder.proj_dec.weight.shape == (24, 24)


def test_pruning_is_physical(model, saliency, shape):
    block = BlockWidths(heads=2, qk=8, v=8, mlp=32)
    pruned = prune(model, Recipe(embed=16, blocks=(block,) * 3), saliency)
    shapes = {name: tuple(p.shape) for name, p in pruned.named_parameters()}
    assert shapes["encoder.blocks.1.attn.qkv.weight"] == (2 * 3 * 8, 16)
    assert shapes["encoder.blocks.1.attn.proj.weight"] == (16, 2 * 8)
    assert shapes["encoder.blocks.1.mlp.fc2.weight"] == (16, 32)
    assert shapes["decoder.cls_emb"] == (1, 5, 16)


def test_attention_scale_stays_the_dense_one(model, saliency, shape):
    narrow = BlockWidths(heads=4, qk=2, v=8, mlp=128)
    pruned = prune(model, Recipe(embed=32, blocks=(narrow,) * 3), saliency)
    assert pruned.encoder.blocks[0].attn.scale == shape.head_dim**-0.5


def test_the_most_salient_units_stay(model, saliency, shape):
    recipe = dense(shape).model_copy(update={"embed": 8})
    best = saliency["embed"].topk(8).indices.sort().values
    assert torch.equal(kept_units(shape, recipe, saliency)["embed"], best)


def test_a_pruned_model_can_be_pruned_again(model, saliency, shape):
    """Twice by the same scores is once: QK and V sections of unequal widths are found."""
    first = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=5, v=7, mlp=100),) * 3)
    second = Recipe(embed=16, blocks=(BlockWidths(heads=2, qk=3, v=6, mlp=40),) * 3)
    left = surviving(saliency, shape, first)
    twice = prune(prune(model, first, saliency), second, left)
    once = prune(model, second, saliency)
    for name, weight in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed": 40}, "field 'embed' is 40; the model has 32"),
        ({"blocks": (BlockWidths(heads=5, qk=8, v=8, mlp=128),) * 3}, "'blocks.0.heads' is 5; the model has 4"),
        ({"blocks": (BlockWidths(heads=4, qk=8, v=8, mlp=128),) * 2}, "'blocks' has 2 entries, the model 3"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(model, saliency, shape, change, words):
    with pytest.raises(UserError, match=words):
        prune(model, dense(shape).model_copy(update=change), saliency)


def test_layout_knows_every_parameter():
    for change in ({}, {"prefix": 1}, {"decoder": "linear"}):
        model = seeded_model(ModelShape.model_validate(TINY.model_dump() | change))
        for name, parameter, names in axes(model):
            assert len(names) == parameter.ndim, name
