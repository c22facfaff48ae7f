# SPDX-License-Identifier: Apache-2.0
"""First units by strided copies against the same units by index, values and gradients to the bit."""

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.layout import axes
from raycomp.compress.nvit import surviving
from raycomp.compress.pruning import cut_along, kept_units, prune, sliced
from raycomp.compress.slices import first_units
from raycomp.devices import moved
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import TINY, seeded_model, seeded_saliency
from tests.helpers.copies import Copies
from tests.helpers.recipes import falling, random_recipe

SHAPES = [TINY.model_copy(update=c) for c in ({}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2})]


def by_index(model: Segmenter, kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The straight algorithm: one gather for every axis."""
    weights = {}
    for name, weight, units in axes(model):
        part: torch.Tensor = weight
        for axis, unit in enumerate(units):
            if unit is not None:
                part = part.index_select(axis, kept[unit])
        weights[name] = part
    return weights


def gradients(model: Segmenter, weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of a function with another slope at every place; incoming gradients are transposed as a linear map's are."""
    generator = torch.Generator().manual_seed(0)
    slopes = {
        name: torch.randn(w.mT.shape if w.ndim > 1 else w.shape, generator=generator) for name, w in weights.items()
    }
    total = torch.stack([((w.mT if w.ndim > 1 else w) * slopes[name]).sum() for name, w in weights.items()]).sum()
    return list(torch.autograd.grad(total, list(model.parameters())))


def check(model: Segmenter, recipe: Recipe, scores: dict[str, torch.Tensor]) -> None:
    expected = by_index(model, kept_units(model.shape, recipe, scores))
    found = cut_along(model, model.state_dict(), first_units(model, recipe))
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
        assert found[name].is_contiguous()
    for ours, theirs in zip(gradients(model, found), gradients(model, expected), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_first_units_are_those_of_falling_scores(shape, seed):
    model = seeded_model(shape)
    check(model, random_recipe(shape, np.random.default_rng(seed), "none"), falling(seeded_saliency(model)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_units_of_a_model_that_was_pruned_before(shape):
    """QK and V sections of unequal widths."""
    model = seeded_model(shape)
    scores = falling(seeded_saliency(model))
    first = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=5, v=7, mlp=100),) * 3)
    second = Recipe(embed=16, blocks=(BlockWidths(heads=2, qk=3, v=6, mlp=40),) * 3)
    check(prune(model, first, None), second, surviving(scores, shape, first))


def test_what_is_cut_is_a_copy_and_what_is_not_is_shared(model):
    block = BlockWidths(heads=4, qk=8, v=8, mlp=64)
    for scores in (None, falling(seeded_saliency(seeded_model(TINY)))):
        cut = prune(model, Recipe(embed=32, blocks=(block, *dense(TINY).blocks[1:])), scores)
        for name, weight in cut.named_parameters():
            whole = model.get_parameter(name)
            shares = weight.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
            assert shares == (weight.shape == whole.shape), name
            assert weight.is_contiguous()


@pytest.mark.parametrize(("ordered", "copies"), [(True, 0), (False, 1)])
def test_cutting_on_a_device_copies_at_most_once_to_it(saliency, ordered, copies):
    """The device has no memory here, as none is at hand; what it is asked for is the same."""
    there = seeded_model(TINY).to("meta")
    recipe = random_recipe(TINY, np.random.default_rng(0))
    with Copies() as counted:
        made = compress(there, recipe, None if ordered else saliency)
    assert counted.between_devices == copies
    assert all(p.is_meta for p in made.parameters())


def test_units_that_nothing_drops_are_not_copied_to_the_device(saliency):
    there = seeded_model(TINY).to("meta")
    with Copies() as counted:
        weights = sliced(there, there.state_dict(), kept_units(TINY, dense(TINY), saliency))
    assert counted.between_devices == 0
    assert all(weights[name] is weight for name, weight in there.named_parameters())


def test_tensors_move_by_one_copy_and_keep_their_shapes():
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.arange(4), "c": torch.tensor(7)}
    with Copies() as counted:
        there = moved(tensors, torch.device("meta"))
    assert counted.between_devices == 1
    assert {name: (t.shape, t.dtype, t.device.type) for name, t in there.items()} == {
        name: (t.shape, torch.int64, "meta") for name, t in tensors.items()
    }
    assert all(moved(tensors, torch.device("cpu"))[name] is tensor for name, tensor in tensors.items())
