# SPDX-License-Identifier: Apache-2.0
"""Restore features to the patch grid, and upsample the scores of a head to logits.

Legend: B batch, N tokens, P special tokens, Q queries, K classes, C channels, h w grid, H W pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.merging.tokens import Tokens
from raycomp.shape import Grid, Size

_UPSAMPLED_AT_ONCE = 2**31 - 1  # CUDA's channels-last kernel refuses more outputs


@dataclass(frozen=True, slots=True)
class Bilinear:
    """Class scores (B, K, h, w) on any grid that covers the patches, upsampled to logits."""

    patch: int
    """Side, pixels."""

    def logits(self, scores: Tensor, size: Size) -> Tensor:
        """Return logits (B, K, height, width) at the pixels of images of `size`."""
        return upsampled(scores, self.patch, size)

    def log_probabilities(self, scores: Tensor, size: Size) -> Tensor:
        """Return the logarithms of class probabilities (B, K, h, w) at the grid of the scores."""
        del size
        return scores.log_softmax(1)

    def planes(self, scores: Tensor) -> int:
        """Return the number of values per pixel while scores (..., K, h, w) are upsampled."""
        return scores.shape[-3]

    def stride(self, scores: Tensor, size: Size) -> int | None:
        """Return the pixels between scores (..., K, h, w); None unless an integer and equal along both axes."""
        (rows, columns), (height, width) = scores.shape[-2:], _padded_size(self.patch, size)
        return height // rows if height % rows == 0 and columns * (height // rows) == width else None


@dataclass(frozen=True, slots=True)
class QueryMasks:
    """Masks and classes of queries in one tensor (B, Q, h*w + K + 1), as EoMT and Mask2Former predict them.

    Each query has a mask logit at each cell of a grid finer than the patches, then its class logits, the last of which
    is "no object". The logit of a class at a pixel is the sum over the queries of its probability times the
    sigmoid of the upsampled mask (Cheng et al., "Masked-attention Mask Transformer for Universal Image
    Segmentation", CVPR 2022).
    """

    patch: int
    """Side, pixels."""
    factor: int
    """Mask cells along each side of a patch."""
    classes: int

    def packed(self, masks: Tensor, classes: Tensor) -> Tensor:
        """Join masks (B, Q, h, w) and classes (B, Q, K + 1)."""
        return torch.cat([masks.flatten(2), classes], dim=2)

    def unpacked(self, scores: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return masks (B, Q, h, w) and classes (B, Q, K + 1) of images of `size`."""
        grid = tuple(side // self.patch * self.factor for side in _padded_size(self.patch, size))
        masks, classes = scores.split([scores.shape[2] - self.classes - 1, self.classes + 1], dim=2)
        return masks.unflatten(2, grid), classes

    def logits(self, scores: Tensor, size: Size) -> Tensor:
        """Return nonnegative class scores (B, K, height, width) at the pixels of images of `size`, channels last."""
        masks, classes = self.unpacked(scores, size)
        return _combined(upsampled(masks, self.patch, size), classes)

    def log_probabilities(self, scores: Tensor, size: Size) -> Tensor:
        """Return the logarithms of class scores (B, K, h, w) at the grid of the masks, normalised to sum to 1."""
        scores = _combined(*self.unpacked(scores, size))
        return (scores / scores.sum(1, keepdim=True).clamp(min=1e-9)).clamp(min=1e-9).log()

    def planes(self, scores: Tensor) -> int:
        """Return the number of values per pixel while scores (..., Q, h*w + K + 1) are upsampled."""
        return scores.shape[-2] + self.classes

    def stride(self, scores: Tensor, size: Size) -> int | None:
        """Return None: these scores have no grid."""
        del scores, size
        return None


Form = Bilinear | QueryMasks
"""How the scores of a head become logits."""


def _combined(masks: Tensor, classes: Tensor) -> Tensor:
    """Sum class probabilities times mask probabilities over the queries, without "no object"."""
    probabilities = classes.softmax(-1)[..., :-1]  # (B, Q, K)
    by_cell = masks.sigmoid().flatten(2).transpose(1, 2) @ probabilities  # (B, h*w, K)
    return by_cell.transpose(1, 2).unflatten(2, masks.shape[-2:])


def _padded_size(patch: int, size: Size) -> tuple[int, int]:
    """Return height and width of the patches that cover images of a size."""
    height, width = (int(side) for side in size)  # integers also while a graph is traced
    return -(-height // patch) * patch, -(-width // patch) * patch


def upsampled(scores: Tensor, patch: int, size: Size) -> Tensor:
    """Upsample scores (B, C, h, w) that cover the patches of an image to its pixels (B, C, height, width).

    The result is channels last.
    """
    height, width = size
    rows, columns = (int(side) for side in scores.shape[-2:])
    covered = _padded_size(patch, size)
    # Argmax is several times faster in channels-last layout. At batch 1 a view can pass for channels last and still be
    # upsampled slowly in the other layout; a copy cannot.
    scores = scores.clone(memory_format=torch.channels_last)
    if covered == (rows, columns):
        return scores[..., :height, :width]

    def up(part: Tensor) -> Tensor:
        if covered[0] * columns == covered[1] * rows:
            full = F.interpolate(part, scale_factor=covered[0] / rows, mode="bilinear")
        else:  # a head that rounds odd grids up
            full = F.interpolate(part, covered, mode="bilinear")
        return full[..., :height, :width]

    per_image = scores.shape[1] * covered[0] * covered[1]
    if (
        torch.compiler.is_compiling() or len(scores) * per_image <= _UPSAMPLED_AT_ONCE
    ):  # a traced graph serves any batch
        return up(scores)
    shape = (*scores.shape[:2], height, width)
    logits = torch.empty(shape, dtype=scores.dtype, device=scores.device, memory_format=torch.channels_last)
    batch = max(1, _UPSAMPLED_AT_ONCE // per_image)
    for start in range(0, len(scores), batch):
        logits[start : start + batch] = up(scores[start : start + batch])
    return logits


def restore(values: Tensor, tokens: Tokens | None, prefix: int) -> Tensor:
    """Expand one value per token (B, N, C), special tokens excluded, to every patch (B, h*w, C)."""
    if tokens is None:
        return values
    index = (tokens.source - prefix)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def on_grid(values: Tensor, grid: Grid) -> Tensor:
    """Arrange values of patches (B, h*w, C) as (B, C, h, w)."""
    return values.transpose(1, 2).unflatten(2, grid)
