# SPDX-License-Identifier: Apache-2.0
"""Matching, windows and merging against loops in float64."""

import numpy as np
import pytest
import torch

from raycomp.merging.tokens import Tokens, best_windows, match, merge, window_positions, windows
from raycomp.models.pixels import restore
from tests.helpers.matching import brute_force_match


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


GRIDS = [(2, 2), (4, 6), (6, 4), (2, 8)]


def brute_force_window_positions(together: np.ndarray, grid: tuple[int, int], prefix: int) -> list[int]:
    """Walk the patches in raster order; a chosen window is one token, where its first patch stands."""
    rows, columns = grid
    token_of: dict[tuple[str, int], int] = {}
    positions = list(range(prefix))
    for row in range(rows):
        for column in range(columns):
            window = row // 2 * (columns // 2) + column // 2
            name = ("window", window) if together[window] else ("patch", row * columns + column)
            positions.append(token_of.setdefault(name, prefix + len(token_of)))
    return positions


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_window_positions_equal_brute_force(grid, prefix, rng):
    together = rng.random((5, grid[0] * grid[1] // 4)) < 0.5
    positions = window_positions(torch.from_numpy(together), grid, prefix)
    assert positions.tolist() == [brute_force_window_positions(image, grid, prefix) for image in together]


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_hold_neighbours(grid):
    rows, columns = grid
    patches = torch.arange(rows * columns)[None, :, None]
    seen = windows(patches, grid)[0, :, :, 0].tolist()
    corners = [(r, c) for r in range(0, rows, 2) for c in range(0, columns, 2)]
    assert seen == [
        [r * columns + c, r * columns + c + 1, (r + 1) * columns + c, (r + 1) * columns + c + 1] for r, c in corners
    ]


@pytest.mark.parametrize("grid", GRIDS)
def test_patch_indices_come_back_in_order_after_windows_merge(grid):
    """Every window whose patches carry the same number merges, and every number is where it was."""
    rows, columns = grid
    numbers = (torch.arange(rows)[:, None] // 2 * columns + torch.arange(columns) // 2).flatten().double()
    together = torch.ones(1, rows * columns // 4, dtype=torch.bool)
    together[0, 0] = False
    index = window_positions(together, grid, 1)
    x = torch.cat([torch.tensor([-1.0]).double(), numbers])[None, :, None]
    count = int(index.max()) + 1
    merged, sizes = merge(x, torch.ones(1, x.shape[1], dtype=torch.float64), index, count)
    full = restore(merged[:, 1:], Tokens(sizes, index[:, 1:]), prefix=1)
    assert full.flatten().tolist() == numbers.tolist()
    assert count == 1 + rows * columns - 3 * (rows * columns // 4 - 1)


def test_best_windows_takes_the_highest_and_the_first_of_equals():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9], [0.5, 0.5, 0.5, 0.5]])
    assert best_windows(scores, 2).tolist() == [[False, True, False, True], [True, True, False, False]]


def test_matching_under_autocast_is_as_exact_as_without():
    metric = torch.randn(1, 65, 16, generator=torch.Generator().manual_seed(0)) + 4  # cosines close to each other
    plain = match(metric, 20, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(match(metric, 20, 1), plain)
