"""Labels of pixels from class scores of patches: upsampled and compared in one kernel, without logits in memory.

Legend: B batch, K classes, h w grid of patches, H W pixels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from raycomp.shape import Size


def labels(scores: Tensor, patch: int, size: Size) -> Tensor:
    """`raycomp.kernels.labels.fused_labels` on a CUDA device.

    The pixels between four neighbouring patch centres share these four scores: one program takes them.
    """
    B, K, rows, columns = scores.shape
    height, width = size
    found = torch.empty(B, height, width, dtype=torch.uint8, device=scores.device)
    side = triton.next_power_of_2(patch)
    grid = ((rows + 1) * (columns + 1), B)
    _labels[grid](
        scores, found, *scores.stride(), K, rows, columns, height, width, patch, 1 / patch, side,
        num_warps=min(8, max(1, side * side // 256)),
    )  # fmt: skip
    return found


@triton.jit(do_not_specialize=["classes", "rows", "columns", "height", "width", "patch", "scale"])
def _labels(
    scores: tl.tensor,
    labels: tl.tensor,
    image_stride: int,
    class_stride: int,
    row_stride: int,
    column_stride: int,
    classes: int,
    rows: int,
    columns: int,
    height: int,
    width: int,
    patch: int,
    scale: float,
    SIDE: tl.constexpr,
) -> None:
    """Label the pixels below and right of the centre of one patch, up to the next centres; or those at the border."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) // (columns + 1) - 1  # of the patches above, -1 at the border
    column = tl.program_id(0) % (columns + 1) - 1
    step = tl.arange(0, SIDE)
    y, x = row * patch + patch // 2 + step, column * patch + patch // 2 + step
    # half-pixel centres, clamped at the first patch, as in F.interpolate
    top, left = tl.maximum(row, 0), tl.maximum(column, 0)
    down = tl.maximum((y.to(tl.float32) + 0.5) * scale - 0.5, 0.0) - top.to(tl.float32)
    right = tl.maximum((x.to(tl.float32) + 0.5) * scale - 0.5, 0.0) - left.to(tl.float32)
    up, back = 1.0 - down, 1.0 - right
    bottom, far = tl.minimum(row + 1, rows - 1), tl.minimum(column + 1, columns - 1)
    scores += image * image_stride
    top_left, top_right = top * row_stride + left * column_stride, top * row_stride + far * column_stride
    bottom_left, bottom_right = bottom * row_stride + left * column_stride, bottom * row_stride + far * column_stride
    highest = tl.full((SIDE, SIDE), float("-inf"), tl.float32)
    label = tl.zeros((SIDE, SIDE), tl.int32)
    for k in range(classes):
        a = tl.load(scores + top_left).to(tl.float32)
        b = tl.load(scores + top_right).to(tl.float32)
        c = tl.load(scores + bottom_left).to(tl.float32)
        d = tl.load(scores + bottom_right).to(tl.float32)
        above, below = back * a + right * b, back * c + right * d  # (SIDE,)
        logit = up[:, None] * above[None, :] + down[:, None] * below[None, :]
        better = logit > highest
        highest, label = tl.where(better, logit, highest), tl.where(better, k, label)
        scores += class_stride
    inside = ((step < patch) & (y >= 0) & (y < height))[:, None] & ((step < patch) & (x >= 0) & (x < width))[None, :]
    labels += image * height * width
    tl.store(labels + y[:, None] * width + x[None, :], label.to(tl.uint8), inside)
