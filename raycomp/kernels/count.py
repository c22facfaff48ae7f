# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices per image; runs of pixels of one matrix cell are added at once.

Legend: B images, K classes, H W pixels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 1024


def confusions(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count labels (B, H, W) on a CUDA device by true and predicted class: (B, K, K) int32.

    In a run of equal pixels, in row-major order, only the ends add: the last adds its place plus one, the first
    subtracts its place. Labels of `classes` or more are ignored.
    """
    B, pixels = len(truth), truth[0].numel()
    counts = torch.zeros(B, classes, classes, dtype=torch.int32, device=truth.device)
    grid = (triton.cdiv(pixels, _PIXELS), B)
    _count[grid](truth.contiguous(), predicted.contiguous(), counts, pixels, classes, _PIXELS)
    return counts


@triton.jit(do_not_specialize=["pixels", "classes"])
def _count(
    truth: tl.tensor, predicted: tl.tensor, counts: tl.tensor, pixels: int, classes: int, PIXELS: tl.constexpr
) -> None:
    image = tl.program_id(1).to(tl.int64)
    truth += image * pixels
    predicted += image * pixels
    place = tl.arange(0, PIXELS)
    start = tl.program_id(0) * PIXELS
    count = tl.minimum(pixels - start, PIXELS)
    cell = _cell(truth + start, predicted + start, place, count, classes)
    begins = (place == 0) | (cell != _cell(truth + start, predicted + start, place - 1, count, classes))
    ends = (place == count - 1) | (cell != _cell(truth + start, predicted + start, place + 1, count, classes))
    more = tl.where(ends, place + 1, 0) - tl.where(begins, place, 0)
    tl.atomic_add(counts + image * classes * classes + cell, more, (cell >= 0) & (more != 0), sem="relaxed")


@triton.jit
def _cell(truth: tl.tensor, predicted: tl.tensor, place: tl.tensor, count: tl.tensor, classes: int) -> tl.tensor:
    """Return each pixel's matrix cell as one index; -1 outside the image and for unlabelled pixels."""
    inside = (place >= 0) & (place < count)
    true = tl.load(truth + place, inside, 255).to(tl.int32)
    guess = tl.load(predicted + place, inside, 0).to(tl.int32)
    return tl.where(inside & (true < classes), true * classes + guess, -1)
