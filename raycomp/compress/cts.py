"""CTS: a policy network finds superpatches of one class, whose four patches enter as one token.

Lu, de Geus & Dubbelman, "Content-Aware Token Sharing for Efficient Semantic Segmentation with Vision
Transformers", CVPR 2023 (REFERENCE 6). Only the tokens that remain are embedded.

Legend: B batch, N tokens, E embedding width, h w grid, p patch side.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.compress.merge import best_windows, window_positions, windows
from raycomp.models.segmenter import Tokens, patch_pixels
from raycomp.recipe import Cts, even_grid, shared_superpatches
from raycomp.shape import Grid


class Sharing(nn.Module):
    """Embeds images with shared tokens; see `raycomp.models.segmenter.Sharer`."""

    def __init__(self, settings: Cts, policy: nn.Module, prefix: int) -> None:
        super().__init__()
        self.settings, self.policy, self.prefix = settings, policy, prefix

    def train(self, mode: bool = True) -> Self:
        """Nothing: the policy is trained on its own, and its batch statistics stay as they are."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor, projection: nn.Conv2d, position: Tensor, grid: Grid) -> tuple[Tensor, Tokens]:
        """Embed images (B, 3, h*p, w*p) with position (1, h*w, E): tokens (B, N, E) and their record."""
        count = shared_superpatches(self.settings.share, grid[0] * grid[1])
        with torch.no_grad():
            logits = self.policy(images)  # (B, 2, h/2, w/2)
            one_class = (logits[:, 1] - logits[:, 0]).flatten(1)
            shared = best_windows(one_class, count)
        return share(images, shared, count, projection, position, even_grid(grid, "CTS"), self.prefix)


def share(
    images: Tensor, shared: Tensor, count: int, projection: nn.Conv2d, position: Tensor, grid: Grid, prefix: int
) -> tuple[Tensor, Tokens]:
    """Embed images, the shared superpatches halved in size to one patch, their position embeddings pooled alike.

    Args:
        images: (B, 3, h*p, w*p).
        shared: (B, h/2 * w/2) bool, `count` of each image true.
        projection: the patch embedding, stride p.
        position: (1, h*w, E).

    Returns:
        Tokens (B, h*w - 3 * count, E) in raster order, and where each patch went, special tokens counted in.
    """
    B, (rows, columns), side = images.shape[0], grid, projection.stride[0]
    index = window_positions(shared, grid, prefix)
    first = index[:, prefix:]
    pixels = patch_pixels(images, side)  # (B, h*w, 3*p*p)
    # Bilinear at factor 1/2 (half-pixel centres) is the mean of 2x2 pixels; of 2x2 positions likewise.
    halved = patch_pixels(F.avg_pool2d(images, 2), side)  # (B, h/2 * w/2, 3*p*p)
    pooled = windows(position, grid).mean(2)  # (1, h/2 * w/2, E)
    window = _window_of_patch(grid, images.device)
    inside = shared.gather(1, window.expand(B, -1))[..., None]
    kept = _first_of_each(first - prefix, rows * columns - 3 * count)  # (B, N): patches that stand for a token
    chosen = window[kept]  # (B, N): their windows
    inside = inside.gather(1, kept[..., None])
    pixels = torch.where(inside, _rows(halved, chosen), _rows(pixels, kept))
    places = torch.where(inside, _rows(pooled.expand(B, -1, -1), chosen), _rows(position.expand(B, -1, -1), kept))
    x = F.linear(pixels, projection.weight.flatten(1), projection.bias) + places
    size = torch.ones(B, prefix + x.shape[1], device=x.device)
    size[:, prefix:] += 3 * inside[..., 0]
    return x, Tokens(size=size, source=first)


def _window_of_patch(grid: Grid, device: torch.device) -> Tensor:
    """(h*w,): the 2x2 window of each patch."""
    row, column = torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    return (row[:, None] // 2 * (grid[1] // 2) + column // 2).flatten()


def _first_of_each(positions: Tensor, count: int) -> Tensor:
    """The patch that comes first among those of a position, for each of `count` positions from 0: (B, count)."""
    patches = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    none = positions.new_full((positions.shape[0], count), positions.shape[1])
    return none.scatter_reduce(1, positions, patches, "amin")


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, M, C) at index (B, N): (B, N, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
