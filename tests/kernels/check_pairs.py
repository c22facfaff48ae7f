# SPDX-License-Identifier: Apache-2.0
"""Partners and positions by the kernels; `test_kernels` runs this file."""

import numpy as np
import pytest
import torch

from raycomp.kernels import pairs
from raycomp.merging import tokens as plain
from tests.helpers.matching import brute_force_match
from tests.kernels.conftest import DEVICE

SIZES = [(9, 4, 1), (9, 3, 2), (10, 0, 1), (10, 4, 2), (67, 33, 1), (66, 20, 2), (131, 40, 1), (258, 128, 2)]


@pytest.mark.parametrize(("tokens", "r", "prefix"), SIZES)
@pytest.mark.parametrize("channels", [6, 40, 72])
@pytest.mark.parametrize("programs", [1, 132])
def test_pairs_equal_float64_brute_force(tokens, r, prefix, channels, programs, rng, monkeypatch):
    monkeypatch.setattr(pairs, "_PROGRAMS", programs)  # tiles are large where they are enough for every multiprocessor
    metric = rng.standard_normal((2, tokens, channels)).astype(np.float32)
    best, partner = pairs.best_partners(torch.from_numpy(metric).to(DEVICE), prefix)
    index = pairs.pair_positions(best, partner, r, tokens, prefix)
    assert index.tolist() == [brute_force_match(image.astype(np.float64), r, prefix) for image in metric]


@pytest.mark.parametrize(("tokens", "_r", "prefix"), SIZES)
def test_scores_equal_those_of_torch(tokens, _r, prefix, rng):
    metric = torch.from_numpy(rng.standard_normal((2, tokens, 72))).float()
    best, partner = pairs.best_partners(metric.to(DEVICE), prefix)
    wanted, whose = plain.best_partners(metric, prefix)
    torch.testing.assert_close(best.cpu(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(partner.cpu(), whose)
    assert partner.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 20, 8), (1, 5, 33, 24), (2, 1, 17, 5)])
def test_heads_are_averaged_and_rounded_as_by_torch(dtype, shape, rng):
    B, H, N, C = shape
    keys = torch.from_numpy(rng.standard_normal((B, N, H, 2 * C))).to(dtype).transpose(1, 2)[..., :C]  # part of a qkv
    best, partner = pairs.best_partners(keys.to(DEVICE), 1)
    wanted, whose = plain.best_partners(keys, 1)
    if dtype == torch.float32:
        torch.testing.assert_close(best.cpu(), wanted, rtol=0, atol=1e-6)
        assert torch.equal(partner.cpu(), whose)
    else:  # a sum in another order may round a mean to its neighbour
        torch.testing.assert_close(best.cpu(), wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_equal_scores_go_to_the_first_destination_and_merge_the_first_sources():
    """Cosines of one-hot vectors are exactly 0 or 1: many tie, within a tile of the kernel and across tiles."""
    hot = torch.arange(301) % 3
    metric = torch.nn.functional.one_hot(torch.stack([hot, (hot * hot) % 3]), 4).float()
    for prefix, r in ((1, 0), (1, 50), (2, 149), (1, 150)):
        best, partner = pairs.best_partners(metric.to(DEVICE), prefix)
        wanted, whose = plain.best_partners(metric, prefix)
        assert torch.equal(best.cpu(), wanted)
        assert torch.equal(partner.cpu(), whose)
        index = pairs.pair_positions(best, partner, r, 301, prefix)
        assert torch.equal(index.cpu(), plain.pair_positions(wanted, whose, r, 301, prefix))


@pytest.mark.parametrize("r", [0, 1, 5, 9, 16])
def test_positions_of_any_scores_equal_those_of_torch(r):
    best = torch.tensor(
        [
            [-torch.inf, 0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 1.0, 0.5, 0.5, -0.5, 0.5, 1e-40, -1e-40, 0.5, 2.0, -3.0],
            [-torch.inf, *(0.25,) * 16],
        ]
    )
    partner = torch.tensor([[0, *range(1, 17)], [0, *reversed(range(1, 17))]])
    index = pairs.pair_positions(best.to(DEVICE), partner.to(DEVICE), r, 34, 2)
    assert torch.equal(index.cpu(), plain.pair_positions(best, partner, r, 34, 2))


def test_zero_vectors_have_cosine_zero():
    metric = torch.zeros(1, 12, 4)
    metric[0, 3:6] = torch.eye(3, 4)
    best, partner = pairs.best_partners(metric.to(DEVICE), 1)
    wanted, whose = plain.best_partners(metric, 1)
    assert torch.equal(best.cpu(), wanted)
    assert torch.equal(partner.cpu(), whose)
