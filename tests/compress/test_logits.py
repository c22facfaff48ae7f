# SPDX-License-Identifier: Apache-2.0
"""Low-rank logits against numpy's SVD of the logits and every selection of units, in float64."""

from copy import deepcopy
from itertools import combinations
from typing import cast

import numpy as np
import pytest
import torch

from raycomp.compress.logits import low_rank, refit_logits
from raycomp.compress.pruning import kept_units, prune
from raycomp.compress.reconstruct import reconstruct
from raycomp.models.block import Attention, BlockTraits
from raycomp.recipe import BlockWidths, Recipe, dense
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.traits import with_traits

HEADS, WIDTH, TOKENS = 3, 6, 40


def correlated(seed: int) -> torch.Tensor:
    """Units (H, n, d) of different sizes that depend on one another."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(HEADS, WIDTH, WIDTH)) * np.geomspace(1, 0.1, WIDTH)
    return torch.from_numpy(rng.normal(size=(HEADS, TOKENS, WIDTH)) @ mixing)


@pytest.mark.parametrize("rank", range(1, WIDTH + 1))
def test_no_matrix_of_the_same_rank_and_no_selection_of_units_is_nearer_to_the_logits(rank):
    queries, keys = correlated(0), correlated(1)
    for kept in combinations(range(WIDTH), rank):
        index = torch.tensor([kept] * HEADS)
        maps = low_rank(queries.mT @ queries, keys.mT @ keys, index)
        for head in range(HEADS):
            q, k = queries[head].numpy(), keys[head].numpy()
            logits = q @ k.T
            left, sizes, right = np.linalg.svd(logits)
            best = (left[:, :rank] * sizes[:rank]) @ right[:rank]
            mixed = (q @ maps[0][head].numpy()) @ (k @ maps[1][head].numpy()).T
            np.testing.assert_allclose(mixed, best, atol=1e-9 * sizes[0])
            selected = q[:, kept] @ k[:, kept].T
            allowed = np.linalg.norm(selected - logits) + 1e-9 * sizes[0]
            assert np.linalg.norm(mixed - logits) <= allowed


def test_keys_that_calibration_does_not_cover_and_units_without_use_change_no_logits():
    """Keys of rank 2, and queries of rank 1: rank 3 is more than the logits have."""
    queries, keys = correlated(0), correlated(1)
    queries[..., 1:], keys[..., 2:] = queries[..., :1], keys[..., 1:2]
    maps = low_rank(queries.mT @ queries, keys.mT @ keys, torch.tensor([[0, 1, 2]] * HEADS))
    torch.testing.assert_close((queries @ maps[0]) @ (keys @ maps[1]).mT, queries @ keys.mT, rtol=0, atol=1e-6)


def test_the_basis_is_that_of_the_kept_units_where_these_are_best():
    """Where all logits come from two units, keeping them changes neither queries nor keys."""
    queries, keys = correlated(0), correlated(1)
    keys[..., [0, 2, 3, 5]] = 0
    kept = torch.tensor([[1, 4]] * HEADS)
    chosen = torch.eye(WIDTH, dtype=torch.float64)[:, [1, 4]].expand(HEADS, -1, -1)
    maps = low_rank(queries.mT @ queries, keys.mT @ keys, kept)
    torch.testing.assert_close(keys @ maps[1], keys @ chosen, rtol=0, atol=1e-9)
    torch.testing.assert_close((queries @ maps[0]) @ (keys @ maps[1]).mT, queries @ keys.mT, rtol=0, atol=1e-9)


def pair_of_attentions(embed: int, qk: int, kept: torch.Tensor) -> tuple[Attention, Attention]:
    """Return a dense attention in float64, and one cut to its first channels and to the rows `kept` of queries."""
    traits = BlockTraits(scale=0.4, eps=1e-6)
    full, small = Attention(16, 4, 4, 4, traits).double(), Attention(embed, 2, qk, 4, traits).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in full.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    rows = torch.cat([kept, kept + 16])
    with torch.no_grad():
        small.qkv.weight[: len(rows)] = full.qkv.weight[rows, :embed]
        small.qkv.bias[: len(rows)] = full.qkv.bias[rows]
    return full, small


def centred_logits(attention: Attention, x: torch.Tensor, head: int) -> torch.Tensor:
    """Return a head's logits over all pairs of tokens (n, n), for keys centred in each image."""
    width = attention.qk
    rows = attention.qkv(x)[..., : 2 * attention.heads * width].unflatten(-1, (2, attention.heads, width))
    queries, keys = rows[..., 0, head, :], rows[..., 1, head, :]
    return queries.flatten(0, 1) @ (keys - keys.mean(1, keepdim=True)).flatten(0, 1).T


@torch.no_grad()
@pytest.mark.parametrize("qk", [1, 2, 3])
def test_the_logits_of_kept_heads_are_the_nearest_of_their_rank(qk):
    """Heads 1 and 3 of 4 stay, on inputs that are not cut; numpy's SVD of their logits gives the smallest error."""
    units = torch.tensor([[3, 1, 0], [0, 2, 1]])[:, :qk].sort(dim=1).values
    kept = (torch.tensor([[4], [12]]) + units).flatten()
    full, small = pair_of_attentions(16, qk, kept)
    x = torch.randn(3, 9, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    selected = [centred_logits(small, x, head) for head in (0, 1)]
    refit_logits(small, full, (x, x), torch.arange(16), kept)
    for head, of_dense in enumerate((1, 3)):
        wanted = centred_logits(full, x, of_dense)
        error = float((centred_logits(small, x, head) - wanted).norm())
        assert error == pytest.approx(float(torch.linalg.svdvals(wanted)[qk:].norm()), rel=1e-8)
        assert error < float((selected[head] - wanted).norm())


@torch.no_grad()
@pytest.mark.parametrize("ridge", [1e-2, 0.0])
def test_inputs_that_were_cut_are_made_up_for(ridge, monkeypatch):
    """Without a ridge, full-width queries and keys are ordinary least squares with an intercept (numpy)."""
    monkeypatch.setattr("raycomp.compress.least_squares.RIDGE", ridge)
    kept = torch.cat([torch.arange(4, 8), torch.arange(12, 16)])
    full, small = pair_of_attentions(12, 4, kept)
    x = torch.randn(3, 30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x[..., 12:] += x[..., :4]  # what is cut shows in what is not
    ours = x[..., :12]
    before = sum(float((centred_logits(small, ours, h) - centred_logits(full, x, 2 * h + 1)).norm()) for h in (0, 1))
    refit_logits(small, full, (ours, x), torch.arange(12), kept)
    after = sum(float((centred_logits(small, ours, h) - centred_logits(full, x, 2 * h + 1)).norm()) for h in (0, 1))
    assert after < 0.8 * before
    if not ridge:
        inputs = np.hstack([ours.flatten(0, 1).numpy(), np.ones((90, 1))])
        target = full.qkv(x)[..., kept].flatten(0, 1).numpy()
        fitted = np.linalg.lstsq(inputs, target, rcond=None)[0]
        np.testing.assert_allclose(small.qkv.weight[:8].numpy(), fitted[:-1].T, atol=1e-9)
        np.testing.assert_allclose(small.qkv.bias[:8].numpy(), fitted[-1], atol=1e-9)


@pytest.mark.parametrize("bias", [0.0, 5.0])
def test_keys_of_lower_rank_lose_nothing_when_they_are_cut_to_it(bias):
    """A key bias outside their span shifts all logits of a query alike, which the softmax ignores."""
    model, generator = seeded_model(TINY), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for block in model.encoder.blocks:
            keys = block.attn.qkv.weight[32:64].view(4, 8, 32)
            keys[:, 4:] = torch.randn(4, 4, 4, generator=generator) @ keys[:, :4]
            block.attn.qkv.bias[32:64] = bias * torch.randn(32, generator=generator)
    recipe = dense(TINY).model_copy(update={"blocks": (BlockWidths(heads=4, qk=4, v=8, mlp=128),) * 3})
    saliency, images = seeded_saliency(model), seeded_images(TINY, 16)
    cut = prune(model, recipe, saliency)
    refitted = deepcopy(cut)
    reconstruct(refitted, model, saliency, images)
    others = seeded_images(TINY, 4, seed=5)
    with torch.no_grad():
        lost, left = ((one(others) - model(others)).abs().max() for one in (cut, refitted))
    assert left < 1e-3 < 0.01 < lost


@pytest.mark.parametrize("name", ["rotary", "normed queries"])
def test_where_units_cannot_be_mixed_the_selected_ones_stay(name):
    shape = with_traits(name)
    model = seeded_model(shape)
    saliency = seeded_saliency(model)
    recipe = Recipe(embed=24, blocks=(BlockWidths(heads=3, qk=4, v=8, mlp=64),) * 3)
    models = deepcopy(prune(model, recipe, saliency)), model
    small, full = (cast("Attention", one.encoder.blocks[0].attn) for one in models)
    kept, x = kept_units(shape, recipe, saliency), torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(4))
    before = small.qkv.weight.clone()
    with torch.no_grad():
        refit_logits(small, full, (x[..., kept["embed"]], x), kept["embed"], kept["block.0.qk"])
    assert torch.equal(small.qkv.weight, before)
