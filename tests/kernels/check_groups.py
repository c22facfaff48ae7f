# SPDX-License-Identifier: Apache-2.0
"""Size-weighted means by the kernels; `test_kernels` runs this file."""

import numpy as np
import pytest
import torch

from raycomp.kernels import groups
from raycomp.merging.tokens import merge as by_torch
from tests.kernels.conftest import DEVICE


def positions(rng: np.random.Generator, images: int, tokens: int, count: int) -> torch.Tensor:
    """Any positions (B, N) of which each occurs."""
    rows = [rng.permutation([*range(count), *rng.integers(0, count, tokens - count)]) for _ in range(images)]
    return torch.from_numpy(np.stack(rows))


def brute_force(x: torch.Tensor, size: torch.Tensor, index: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    values, sizes = x.double().numpy(), size.double().numpy()
    merged, totals = np.zeros((len(x), count, x.shape[2])), np.zeros((len(x), count))
    for image in range(len(x)):
        for token, position in enumerate(index[image].tolist()):
            merged[image, position] += sizes[image, token] * values[image, token]
            totals[image, position] += sizes[image, token]
    return merged / totals[..., None], totals


CASES = [(9, 5, 6), (65, 33, 40), (130, 66, 24), (130, 130, 300), (200, 3, 17), (258, 163, 64)]


@pytest.mark.parametrize(("tokens", "count", "width"), CASES)
def test_means_equal_float64_brute_force(tokens, count, width, rng):
    x = torch.from_numpy(rng.standard_normal((2, tokens, width))).float()
    size = torch.from_numpy(rng.integers(1, 9, (2, tokens))).float()
    index = positions(rng, 2, tokens, count)
    merged, sizes = groups.merge(x.to(DEVICE), size.to(DEVICE), index.to(DEVICE), count)
    means, totals = brute_force(x, size, index, count)
    np.testing.assert_allclose(merged.cpu(), means, rtol=1e-6, atol=1e-6)
    assert sizes.tolist() == totals.tolist()
    wanted, whole = by_torch(x, size, index, count)
    torch.testing.assert_close(merged.cpu(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(sizes.cpu(), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_one_unit_of_the_exact_mean(dtype, rng):
    x = torch.from_numpy(rng.standard_normal((2, 130, 40))).to(dtype)
    size = torch.from_numpy(rng.integers(1, 9, (2, 130))).float()
    index = positions(rng, 2, 130, 40)
    merged, _ = groups.merge(x.to(DEVICE), size.to(DEVICE), index.to(DEVICE), 40)
    assert merged.dtype == dtype
    means, _ = brute_force(x, size, index, 40)
    np.testing.assert_allclose(merged.float().cpu(), means, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_token_alone_is_copied_bit_for_bit(rng):
    x = torch.from_numpy(rng.standard_normal((1, 33, 24))).float()
    index = torch.from_numpy(rng.permutation(33))[None]
    merged, sizes = groups.merge(x.to(DEVICE), torch.full((1, 33), 7.0).to(DEVICE), index.to(DEVICE), 33)
    assert torch.equal(merged.cpu()[0, index[0]], x[0])
    assert sizes.eq(7).all()


def test_inputs_that_are_not_contiguous(rng):
    x = torch.from_numpy(rng.standard_normal((20, 2, 48))).float().transpose(0, 1)[..., ::2]
    size = torch.arange(1.0, 3).repeat(20, 1).T
    index = positions(rng, 2, 20, 11)
    expanded = index[:1].expand(2, -1)
    merged, sizes = groups.merge(x.to(DEVICE), size.to(DEVICE), expanded.to(DEVICE), 11)
    means, totals = brute_force(x, size, expanded, 11)
    np.testing.assert_allclose(merged.cpu(), means, rtol=1e-6, atol=1e-6)
    assert sizes.tolist() == totals.tolist()


def test_the_same_bits_every_time(rng):
    x = torch.from_numpy(rng.standard_normal((1, 130, 40))).float().to(DEVICE)
    size, index = torch.ones(1, 130, device=DEVICE), positions(rng, 1, 130, 5).to(DEVICE)
    first, again = groups.merge(x, size, index, 5)[0], groups.merge(x, size, index, 5)[0]
    assert torch.equal(first, again)
