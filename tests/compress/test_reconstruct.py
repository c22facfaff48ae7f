# SPDX-License-Identifier: Apache-2.0
"""Least squares against numpy's, and reconstruction against what it must restore."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from raycomp.compress.least_squares import RIDGE, refit
from raycomp.compress.pruning import prune
from raycomp.compress.reconstruct import reconstruct
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency


def test_refit_is_ridge_regression_towards_the_present_weights():
    """As ordinary least squares with one more row a weight, which pulls it to where it is (numpy)."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(1, 2, (2, 30, 5)), rng.normal(size=(2, 30, 3))
    layer = nn.Linear(5, 3).double()
    before = layer.weight.detach().numpy().copy()
    inputs = torch.from_numpy(x)
    with torch.no_grad():
        refit(layer, lambda: layer(inputs), torch.from_numpy(target))
    flat, wanted = x.reshape(60, 5), target.reshape(60, 3)
    flat_0, wanted_0 = flat - flat.mean(0), wanted - wanted.mean(0)
    ridge = RIDGE * np.mean(np.sum(flat_0**2, axis=0))
    rows = np.vstack([flat_0, np.sqrt(ridge) * np.eye(5)])
    values = np.vstack([wanted_0, np.sqrt(ridge) * before.T])
    weight = np.linalg.lstsq(rows, values, rcond=None)[0]
    np.testing.assert_allclose(layer.weight.detach().numpy(), weight.T, rtol=1e-9)
    np.testing.assert_allclose(layer.bias.detach().numpy(), wanted.mean(0) - flat.mean(0) @ weight, rtol=1e-9)


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
def test_nothing_changes_where_nothing_was_cut(change):
    shape = TINY.model_copy(update=change)
    model, images = seeded_model(shape), seeded_images(shape)
    same = deepcopy(prune(model, dense(shape), seeded_saliency(model)))
    reconstruct(same, model, seeded_saliency(model), images)
    torch.testing.assert_close(same(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{}, {"decoder": "linear"}, {"prefix": 1, "decoder_depth": 2}])
def test_the_scores_of_a_pruned_model_come_nearer_to_the_dense_ones_on_other_images(change):
    shape = TINY.model_copy(update=change)
    model = seeded_model(shape)
    saliency = seeded_saliency(model)
    recipe = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=8, v=8, mlp=64),) * 3)
    pruned = deepcopy(prune(model, recipe, saliency))
    others = seeded_images(shape, 8, seed=5)

    def error() -> float:
        with torch.no_grad():
            return float((pruned.patch_scores(others) - model.patch_scores(others)).square().mean())

    before = error()
    reconstruct(pruned, model, saliency, seeded_images(shape, 16, seed=6))
    assert error() < before


@pytest.mark.parametrize("size", [(64, 48), (50, 71)])
def test_images_may_be_of_another_size_than_the_model_was_made_for(size):
    model = seeded_model(TINY)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    same = deepcopy(prune(model, dense(TINY), seeded_saliency(model)))
    reconstruct(same, model, seeded_saliency(model), images)
    torch.testing.assert_close(same(images), model(images), rtol=1e-4, atol=1e-4)


def test_twin_units_are_made_up_for():
    """Where every MLP unit has a twin, half of them are enough, once the other half weighs double."""
    model = seeded_model(TINY)
    with torch.no_grad():
        for block in model.encoder.blocks:
            for part in (block.mlp.fc1.weight, block.mlp.fc1.bias, block.mlp.fc2.weight.T):
                part[64:] = part[:64]
    saliency = seeded_saliency(model)
    for index in range(TINY.depth):
        saliency[f"block.{index}.mlp"] = -torch.arange(128.0)
    recipe = Recipe(embed=32, blocks=(BlockWidths(heads=4, qk=8, v=8, mlp=64),) * 3)
    pruned, images = deepcopy(prune(model, recipe, saliency)), seeded_images(TINY, 16)
    before = (pruned(images) - model(images)).square().mean()
    reconstruct(pruned, model, saliency, images)
    assert (pruned(images) - model(images)).square().mean() < 0.05 * before
