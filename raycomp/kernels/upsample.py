# SPDX-License-Identifier: Apache-2.0
"""Label pixels from class scores of windows: upsample, add and compare in one kernel, without writing logits.

Legend: B batch, n windows of an image, K classes, h w grid of patches, H W pixels.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from raycomp.shape import Size

Corner = tuple[int, int]
"""Top row and left column of a window."""


def labels(scores: Tensor, patch: int, size: Size) -> Tensor:
    """Return the most likely class of every pixel, from scores (B, K, h, w) of one window; see `labels_of_windows`."""
    return labels_of_windows(scores[:, None], patch, size, ((0, 0),), size)


def labels_of_windows(scores: Tensor, patch: int, window: Size, corners: tuple[Corner, ...], size: Size) -> Tensor:
    """Return the most likely class of every pixel, from the sum of all windows' logits; ties go to the lower class.

    Windows are added in order, in float32. The sum is not divided by the number of windows, which is equal for all
    classes of a pixel. Tiles are one patch in size, and launched by the number of windows that cover them.

    Args:
        scores: (B, n, K, h, w), on a CUDA device; at most 255 classes.
        patch: side of a patch, pixels; half-pixel centres as in F.interpolate, clamped at window borders.
        window: height and width of a window, pixels; at most h * patch and w * patch.
        corners: of the n windows, which must cover all of `size`.
        size: height and width (H, W) of the image.

    Returns:
        (B, H, W) uint8.
    """
    B, _, K, rows, columns = scores.shape
    result = torch.empty(B, *size, dtype=torch.uint8, device=scores.device)
    # patch scores that a tile may need along each side: 2 if the patches of all windows lie on one grid
    down, across = (2 if all(corner[axis] % patch == 0 for corner in corners) else 3 for axis in (0, 1))
    side = triton.next_power_of_2(patch)
    for number, tiles in _tiles(patch, window, corners, size, scores.device):
        _labels[(len(tiles), B)](
            scores, tiles, result, *scores.stride(), K, rows, columns, *window, *size, patch, 1 / patch,
            number, down, across, side, num_warps=min(8, max(1, side * side // 256)),
        )  # fmt: skip
    return result


@lru_cache(maxsize=1024)  # image sizes; 50 KB each where two windows overlap
def _tiles(
    patch: int, window: Size, corners: tuple[Corner, ...], size: Size, device: torch.device
) -> list[tuple[int, Tensor]]:
    """Group tiles by the number of windows that cover them, as tables (tiles, 2 + 3 * number) int32.

    A row holds the corner of the tile, then the index and corner of each window. Tiles reach from one patch centre of a
    window at (0, 0) to the next, or to the border of the image.
    """
    starts, meets = [], []
    for axis in (0, 1):
        start = torch.arange(patch // 2 - patch, size[axis], patch)
        first = torch.tensor([corner[axis] for corner in corners])[:, None]
        starts.append(start)
        end = (start + patch).clamp(min=1)  # above 0 even if a patch is one pixel
        meets.append((first < end) & (first + window[axis] > start.clamp(min=0)))  # (n, tiles of a side)
    meet = (meets[0][:, :, None] & meets[1][:, None, :]).flatten(1).T  # (tiles, n)
    tiles, places = torch.cartesian_prod(*starts), torch.tensor(corners)
    counts = meet.sum(1)
    groups = []
    for number in counts.unique().tolist():
        chosen = counts == number
        which = meet[chosen].nonzero()[:, 1].view(-1, number, 1)
        table = torch.cat([tiles[chosen], torch.cat([which, places[which[..., 0]]], dim=2).flatten(1)], dim=1)
        groups.append((number, table.int().to(device)))
    return groups


@triton.jit(
    do_not_specialize=["classes", "rows", "columns", "window_height", "window_width", "height", "width", "patch"]
)
def _labels(
    scores: tl.tensor, tiles: tl.tensor, labels: tl.tensor,
    image_stride: int, window_stride: int, class_stride: int, row_stride: int, column_stride: int,
    classes: int, rows: int, columns: int,
    window_height: int, window_width: int, height: int, width: int,
    patch: int, scale: float,
    WINDOWS: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr, SIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Label one tile. Patch weights do not depend on the class, and are computed before the loop over classes."""
    image = tl.program_id(1).to(tl.int64)
    tiles += tl.program_id(0) * (2 + 3 * WINDOWS)
    scores += image * image_stride
    step = tl.arange(0, SIDE)
    top, left = tl.load(tiles), tl.load(tiles + 1)
    patches, vertical, horizontal = (), (), ()  # offsets and weights of the patches of each window
    for i in tl.static_range(WINDOWS):
        y, x = top - tl.load(tiles + 3 + 3 * i), left - tl.load(tiles + 4 + 3 * i)  # position of the tile in the window
        row, column = _first(y, patch), _first(x, patch)
        window = tl.load(tiles + 2 + 3 * i) * window_stride
        for a in tl.static_range(DOWN):
            vertical += (_weight(y + step, row + a, window_height, rows, scale),)  # type: ignore[assignment]
            for b in tl.static_range(ACROSS):
                at = tl.minimum(row + a, rows - 1) * row_stride + tl.minimum(column + b, columns - 1) * column_stride
                patches += (window + at,)  # type: ignore[assignment]
        for b in tl.static_range(ACROSS):
            horizontal += (_weight(x + step, column + b, window_width, columns, scale),)  # type: ignore[assignment]
    highest = tl.full((SIDE, SIDE), float("-inf"), tl.float32)
    label = tl.zeros((SIDE, SIDE), tl.int32)
    for k in range(classes):
        logit = tl.zeros((SIDE, SIDE), tl.float32)
        for i in tl.static_range(WINDOWS):
            part = tl.zeros((SIDE, SIDE), tl.float32)
            for a in tl.static_range(DOWN):
                line = tl.zeros((SIDE,), tl.float32)
                for b in tl.static_range(ACROSS):
                    score = tl.load(scores + patches[(i * DOWN + a) * ACROSS + b]).to(tl.float32)
                    line += horizontal[i * ACROSS + b] * score
                part += vertical[i * DOWN + a][:, None] * line[None, :]
            logit += part
        better = logit > highest
        highest, label = tl.where(better, logit, highest), tl.where(better, k, label)
        scores += class_stride
    y, x = top + step, left + step
    inside = ((step < patch) & (y >= 0) & (y < height))[:, None] & ((step < patch) & (x >= 0) & (x < width))[None, :]
    labels += image * height * width
    tl.store(labels + y[:, None] * width + x[None, :], label.to(tl.uint8), inside)


@triton.jit
def _first(start: tl.tensor, patch: int) -> tl.tensor:
    """Return the first patch that pixels from `start` on may need; integer arithmetic avoids rounding past it."""
    return tl.maximum(2 * start + 1 - patch, 0) // (2 * patch)


@triton.jit
def _weight(pixel: tl.tensor, index: tl.tensor, length: int, count: tl.tensor, scale: float) -> tl.tensor:
    """Return a patch's weights along one side of a window: 1 at its centre, 0 at neighbouring centres and outside."""
    where = tl.maximum((pixel.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    off = tl.abs(tl.minimum(where, (count - 1).to(tl.float32)) - index.to(tl.float32))
    return tl.where((pixel >= 0) & (pixel < length), tl.maximum(1.0 - off, 0.0), 0.0)
