# SPDX-License-Identifier: Apache-2.0
"""Tensor operations shared by the merge methods: bipartite pairs, 2x2 windows, size-weighted means. Needs torch.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (REFERENCE 4) for pairs; Norouzi et al.,
"ALGM", CVPR 2024 (REFERENCE 5) for windows.

On CUDA devices, `raycomp.kernels` computes the same results up to rounding in a few launches.

Legend: B batch, N tokens, P special tokens, E embedding width, H heads, W windows of 2x2 patches.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp import kernels
from raycomp.merging.base import MergeMethod
from raycomp.shape import Grid


@dataclass(slots=True)
class Tokens:
    """Record of merging: the size of each token, and the token of each patch."""

    size: Tensor
    """(B, N) float32, number of patches in each token."""
    source: Tensor
    """(B, patches) int64, index of the token that represents each original patch."""


class TokenSharing(nn.Module):
    """A policy network, and the method that embeds images with fewer tokens by its output."""

    def __init__(self, method: MergeMethod, policy: nn.Module, prefix: int) -> None:
        super().__init__()
        self.method, self.policy, self.prefix = method, policy, prefix

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the policy is trained separately, and its batch statistics are fixed."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor, projection: nn.Conv2d, position: Tensor, grid: Grid) -> tuple[Tensor, Tokens]:
        """Embed images (B, 3, h*p, w*p) and position (1, h*w, E) as tokens (B, N, E) and their record."""
        with torch.no_grad():
            logits = self.policy(images)  # (B, 2, h/2, w/2)
        return self.method.embed(images, logits, projection, position, grid, self.prefix)


def patch_pixels(images: Tensor, side: int) -> Tensor:
    """Flatten images (B, 3, h*p, w*p) into patches (B, h*w, 3*p*p), in the order of a projection's weights."""
    B, channels, height, width = images.shape
    x = images.view(B, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, height // side * (width // side), channels * side * side)


def patch_places(grid: Grid, device: torch.device) -> Tensor:
    """Return the centre of every patch, y and x from -1 to 1: (h*w, 2) float32, in raster order."""
    y, x = (2 * (torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n - 1 for n in grid)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


def token_places(places: Tensor, tokens: Tokens) -> Tensor:
    """Average the places (h*w, 2) of the patches of each token: (B, N, 2); (0, 0) for special tokens."""
    B, N = tokens.size.shape
    index = tokens.source[..., None].expand(-1, -1, 2)
    sums = places.new_zeros(B, N, 2).scatter_add_(1, index, places.expand(B, -1, -1))
    return sums / tokens.size[..., None]


@torch.no_grad()
def with_places(metric: Tensor, tokens: Tokens | None, grid: Grid, prefix: int, weight: float) -> Tensor:
    """Append the places of tokens to their metric, so that its cosine ranks near pairs above distant ones.

    The cosine of two results is (cos(a, b) + weight * (cos dy + cos dx)) / (1 + 2 * weight); dy and dx are angles
    between the mean positions of the patches of a and b, and pi is the longer side of the image.

    Args:
        metric: (B, N, C), or (B, H, N, C), averaged over heads first.
        tokens: record of earlier merges, or None.

    Returns:
        (B, N, C + 4), float32 or float64.
    """
    metric = metric.mean(1) if metric.dim() == 4 else metric
    metric = metric if metric.dtype == torch.float64 else metric.float()
    sides = torch.tensor(grid, dtype=torch.float32, device=metric.device) / max(grid)
    places = patch_places(grid, metric.device) * sides
    if tokens is None:
        places = F.pad(places, (0, 0, prefix, 0)).expand(metric.shape[0], -1, -1)
    else:
        places = token_places(places, tokens)
    angles = torch.pi / 2 * places.to(metric.dtype)
    return torch.cat([unit(metric), weight**0.5 * angles.cos(), weight**0.5 * angles.sin()], dim=-1)


@torch.no_grad()
def best_partners(metric: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Find the most similar destination (odd position) of each source (even position).

    Args:
        metric: (B, N, C), compared by cosine; or (B, H, N, C), averaged over heads first.
        prefix: number of special tokens in front, which do not merge.

    Returns:
        The best cosine of each source (B, ceil(N/2)), -inf for special tokens, and the index of its
        partner among the destinations.
    """
    if kernels.usable(metric):
        from raycomp.kernels import pairs

        return pairs.best_partners(metric, prefix)
    sources, others = (prefix + 1) // 2, prefix // 2  # special tokens among sources and destinations
    best, partner = _cosines(metric)[:, sources:, others:].max(dim=-1)
    return F.pad(best, (sources, 0), value=-torch.inf), F.pad(partner + others, (sources, 0))


def _cosines(metric: Tensor) -> Tensor:
    """Compare the sources of a metric, as in `best_partners`, with its destinations: (B, ceil(N/2), floor(N/2))."""
    if metric.dim() == 4:
        metric = metric.mean(1)
    with torch.autocast(metric.device.type, enabled=False):  # in bfloat16 many scores would tie
        metric = unit(metric if metric.dtype == torch.float64 else metric.float())
        return metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)


@torch.no_grad()
def pair_positions(best: Tensor, partner: Tensor, r: int, tokens: int, prefix: int) -> Tensor:
    """Return the token positions after merging the r best pairs of `best_partners`.

    Args:
        r: number of merges, at most half of tokens - prefix.

    Returns:
        (B, N) int64, the position of each token after merging: special tokens, then unmerged
        sources in order, then destinations.
    """
    if kernels.usable(best):
        from raycomp.kernels import pairs

        return pairs.pair_positions(best, partner, r, tokens, prefix)
    sources, others = (prefix + 1) // 2, prefix // 2
    merged = _highest(best[:, sources:], r)
    return _positions(merged, partner[:, sources:].gather(1, merged) - others, tokens, prefix)


@torch.no_grad()
def match(metric: Tensor, r: int, prefix: int) -> Tensor:
    """Return positions (B, N) after merging the r most similar pairs; see `best_partners`, `pair_positions`."""
    tokens = metric.shape[-2]
    if kernels.usable(metric) or 4 * r > tokens:
        return pair_positions(*best_partners(metric, prefix), r, tokens, prefix)
    # A maximum alone is several times as fast as one with its index, which only the r sources that merge need.
    sources, others = (prefix + 1) // 2, prefix // 2
    scores = _cosines(metric)
    B, rows, columns = scores.shape
    merged = _highest(scores[:, sources:, others:].amax(-1), r)
    chosen = merged + sources + rows * torch.arange(B, device=scores.device)[:, None]
    partner = scores.view(B * rows, columns).index_select(0, chosen.flatten())[:, others:].argmax(-1).view(B, r)
    return _positions(merged, partner, tokens, prefix)


def _highest(best: Tensor, r: int) -> Tensor:
    """Return the indices of the r highest of values (B, n), best first; ties go to the lower index."""
    return best.argsort(dim=-1, descending=True, stable=True)[:, :r]


def _positions(merged: Tensor, partner: Tensor, tokens: int, prefix: int) -> Tensor:
    """Return what `pair_positions` does, from the sources (B, r) that merge and their partners, special ones apart."""
    others = prefix // 2
    sources, destinations = (tokens + 1) // 2 - (prefix + 1) // 2, tokens // 2 - others
    kept = sources - merged.shape[1]
    stays = merged.new_ones(merged.shape[0], sources).scatter_(1, merged, 0)
    moved = (prefix - 1 + stays.cumsum(1)).scatter_(1, merged, prefix + kept + partner)
    special = torch.arange(prefix, device=merged.device).expand(merged.shape[0], -1)
    last = torch.arange(prefix + kept, prefix + kept + destinations, device=merged.device).expand(merged.shape[0], -1)
    first, second = (last, moved) if prefix % 2 else (moved, last)  # the first token after the special ones, the second
    pairs = torch.stack([first[:, : second.shape[1]], second], dim=2).flatten(1)
    return torch.cat([special, pairs, first[:, second.shape[1] :]], dim=1)


def unit(x: Tensor) -> Tensor:
    """Divide vectors (..., C) by their length, like `F.normalize`, which expands the lengths to x's shape first."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def windows(x: Tensor, grid: Grid) -> Tensor:
    """Group patches (B, h*w, E) into 2x2 windows (B, h/2 * w/2, 4, E), each in raster order."""
    B, _, E = x.shape
    rows, columns = grid
    x = x.view(B, rows // 2, 2, columns // 2, 2, E).transpose(2, 3)
    return x.reshape(B, rows // 2 * (columns // 2), 4, E)


def window_of_patch(grid: Grid, device: torch.device) -> Tensor:
    """Return the 2x2 window of each patch (h*w,)."""
    row, column = torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    return (row[:, None] // 2 * (grid[1] // 2) + column // 2).flatten()


@torch.no_grad()
def window_scores(patches: Tensor, grid: Grid) -> Tensor:
    """Return the mean cosine of the six pairs in each 2x2 window: patches (B, h*w, E) to (B, h/2 * w/2)."""
    directions = unit(windows(patches if patches.dtype == torch.float64 else patches.float(), grid))
    # |u1 + u2 + u3 + u4|^2 = 4 + 2 * (sum of the six cosines)
    return (directions.sum(2).square().sum(-1) - 4) / 12


def window_positions(together: Tensor, grid: Grid, prefix: int) -> Tensor:
    """Give the four patches of each chosen window the position of its first patch.

    Args:
        together: (B, h/2 * w/2) bool, the windows that become one token.

    Returns:
        (B, P + h*w) int64, the position of each token, in raster order.
    """
    B, (rows, columns) = together.shape[0], grid
    device = together.device
    chosen = together.view(B, rows // 2, 1, columns // 2, 1).expand(B, rows // 2, 2, columns // 2, 2)
    chosen = chosen.reshape(B, rows * columns)
    row = torch.arange(rows, device=device)[:, None]
    column = torch.arange(columns, device=device)
    patch = row * columns + column
    top_left = (row // 2 * 2 * columns + column // 2 * 2).flatten()
    stands = ~chosen | (patch.flatten() == top_left)  # patches that represent themselves or a window
    place = prefix + stands.cumsum(1) - 1
    index = place.gather(1, torch.where(chosen, top_left, patch.flatten()))
    return torch.cat([torch.arange(prefix, device=device).expand(B, -1), index], dim=1)


def best_windows(scores: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` highest scores (B, W); ties go to the lower index."""
    return _ranks(scores) < count


def best_windows_first(scores: Tensor, count: int, grid: Grid, prefix: int) -> Tensor:
    """Return the token positions after merging the `count` best windows and moving them to the front.

    Args:
        scores: (B, h/2 * w/2); ties go to the lower index.

    Returns:
        (B, P + h*w) int64, the position of each token after merging: special tokens, then merged windows by
        descending score, then the other patches in raster order.
    """
    B, (rows, columns) = scores.shape[0], grid
    device = scores.device
    rank = _ranks(scores).view(B, rows // 2, 1, columns // 2, 1)
    rank = rank.expand(B, rows // 2, 2, columns // 2, 2).reshape(B, rows * columns)  # of each patch's window
    merges = rank < count
    others = count + (~merges).cumsum(1) - 1
    index = prefix + torch.where(merges, rank, others)
    return torch.cat([torch.arange(prefix, device=device).expand(B, -1), index], dim=1)


def first_of_each(positions: Tensor, count: int) -> Tensor:
    """Return the first patch at each of the positions 0 to count - 1: (B, count)."""
    patches = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    none = positions.new_full((positions.shape[0], count), positions.shape[1])
    return none.scatter_reduce(1, positions, patches, "amin")


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each of scores (B, W) in descending order, from 0; ties go to the lower index."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def merge(x: Tensor, size: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average the tokens that share a position, weighted by size; sizes are added.

    Args:
        x: (B, N, E).
        size: (B, N), number of patches in each token.
        index: (B, N), positions after merging; each from 0 to count - 1 occurs.
        count: number of tokens after merging.

    Returns:
        Tokens (B, count, E) in the dtype of x, and their sizes (B, count).
    """
    if kernels.usable(x, size):
        from raycomp.kernels import groups

        return groups.merge(x, size, index, count)
    B, N, E = x.shape
    here = torch.arange(N, device=x.device).expand(B, -1)
    sizes = size.new_zeros(B, count).scatter_add_(1, index, size)
    weight = (size / sizes.gather(1, index)).to(x.dtype)
    # Most tokens do not merge: copy one token per position, and add only the rest.
    first = index.new_zeros(B, count).scatter_reduce_(1, index, here, "amax")  # (B, count)
    left = torch.where(first.gather(1, index) == here, N, here).topk(N - count, dim=1, largest=False).values
    x, rows = x.reshape(B * N, E), torch.arange(B, device=x.device)[:, None]

    def weighted(chosen: Tensor) -> Tensor:  # (B, n) -> (B * n, E)
        return x.index_select(0, (chosen + N * rows).flatten()).mul_(weight.gather(1, chosen).flatten()[:, None])

    into = index.gather(1, left) + count * rows
    return weighted(first).index_add_(0, into.flatten(), weighted(left)).view(B, count, E), sizes


def merge_tokens(x: Tensor, tokens: Tokens | None, index: Tensor, count: int, prefix: int) -> tuple[Tensor, Tokens]:
    """Apply `merge` to tokens and their record, which is created if nothing merged before."""
    B, N, _ = x.shape
    if tokens is None:
        patches = torch.arange(prefix, N, device=x.device).expand(B, -1)
        tokens = Tokens(size=torch.ones(B, N, device=x.device), source=patches)
    x, size = merge(x, tokens.size, index, count)
    return x, Tokens(size=size, source=index.gather(1, tokens.source))
