# SPDX-License-Identifier: Apache-2.0
"""Resize images and logits bilinearly in numpy, with the pixels that OpenCV and torch give.

Legend: C channels or classes, H W pixels.
"""

import numpy as np

Size = tuple[int, ...]  # height, width


def scaled(size: Size, short_side: int | None, long_side: int | None) -> Size:
    """Return the size of an image that is resized to a short side, and to at most a long side."""
    ratio = 1.0 if short_side is None else short_side / min(size)
    ratio = ratio if long_side is None else min(ratio, long_side / max(size))
    return tuple(max(1, int(side * ratio + 0.5)) for side in size)


def enlarged(size: Size, rows: int, columns: int) -> Size:
    """Return the size of an image that is enlarged until a window fits."""
    height, width = size
    if height >= rows and width >= columns:
        return size
    if rows * width <= columns * height:
        return max(rows, int(height / width * columns)), columns
    return rows, max(columns, int(width / height * rows))


def resized(planes: np.ndarray, size: Size) -> np.ndarray:
    """Resize planes (C, H, W): uint8 as OpenCV does, in integers; float32 as torch does, to within rounding."""
    if planes.shape[1:] == size:
        return planes
    integers = planes.dtype == np.uint8
    if integers and planes.shape[1:] == (2 * size[0], 2 * size[1]):  # OpenCV averages
        return (planes.reshape(-1, size[0], 2, size[1], 2).sum((2, 4)) + 2 >> 2).astype(np.uint8)
    sides = zip(planes.shape[1:], size, strict=True)
    (top, bottom, v), (left, right, u) = (_neighbours(*side, integers) for side in sides)
    if integers:
        u, v = np.rint(2048 * u).astype(int), np.rint(2048 * v).astype(int)[:, None]
        rows = planes[:, :, left] * (2048 - u) + planes[:, :, right] * u >> 4
        return ((rows[:, top] * (2048 - v) >> 16) + (rows[:, bottom] * v >> 16) + 2 >> 2).astype(np.uint8)
    rows, v = planes[:, :, left] * (1 - u) + planes[:, :, right] * u, v[:, None]
    return rows[:, top] * (1 - v) + rows[:, bottom] * v


def _neighbours(before: int, after: int, integers: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two pixels that each new pixel along one side lies between, and the weight of the second."""
    ratio = before / after if integers else float(np.float32(before / after))
    at = np.float32((np.arange(after) + 0.5) * ratio - 0.5)
    first = np.floor(at)
    low, high = (np.clip(first + step, 0, before - 1).astype(int) for step in (0, 1))
    return low, high, at - first
