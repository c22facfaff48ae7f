# SPDX-License-Identifier: Apache-2.0
"""Turn class scores into the most likely class of every pixel, with bounded memory.

Legend: B images, n windows of each, K classes, h w grid of patches, H W pixels.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp import kernels
from raycomp.models.pixels import Form
from raycomp.shape import Size

Place = tuple[slice, slice]
"""Rows and columns that a window covers."""
_CLASSES_AT_ONCE = 16
_SMALLEST_TILE = 4  # pixels along each side
_AT_ONCE, _AT_ONCE_ON_CPU = 2**28, 2**24  # upsampled scores: 1 GiB and 64 MiB


def most_likely(scores: Tensor, form: Form, size: Size) -> Tensor:
    """Return the most likely class of each pixel (B, height, width) int64, from a head's scores (B, K, h, w).

    Equals the argmax of `Segmenter`'s logits, except that half-precision scores are upsampled in float32, which avoids
    ties by rounding. On a CUDA device one kernel does both without writing logits, if a score is a whole number of
    pixels from the next, at least 4.

    Args:
        form: that of the head, which describes the scores.
    """
    if kernels.usable(scores) and (stride := _tile(scores, form, size)) is not None:
        from raycomp.kernels import upsample

        return upsample.labels(scores, stride, size).long()
    each = _images_at_once(scores, form.planes(scores) * size[0] * size[1])
    return torch.cat([form.logits(part.float(), size).argmax(1) for part in scores.split(each)])


def labels_of_windows(
    scores: Tensor, form: Form, window: Size, places: Sequence[Place], input_size: Size, size: Size
) -> Tensor:
    """Return the most likely class of each pixel (B, height, width) of images processed window by window.

    On a CUDA device, if `size` is `input_size` and scores lie on whole pixels, one kernel sums, upsamples and compares.

    Args:
        scores: (B, n, K, h, w), the head's scores of every window.
        form: that of the head, which describes the scores.
        window: height and width of each window, pixels.
        places: of the n windows.
        input_size: size of the images that the windows were cut from.
        size: size of the labels.

    Returns:
        uint8 from the kernel, otherwise int64.
    """
    n = scores.shape[1]
    stride = _tile(scores, form, window)
    if size == input_size and kernels.usable(scores) and stride is not None:
        from raycomp.kernels import upsample

        corners = tuple((rows.start, columns.start) for rows, columns in places)
        return upsample.labels_of_windows(scores, stride, window, corners, input_size)
    if n == 1 and size == window:
        return most_likely(scores[:, 0], form, size)
    each = _images_at_once(scores, form.planes(scores) * max(input_size[0] * input_size[1], size[0] * size[1]))
    labels = []
    for part in scores.float().split(each):
        logits = (form.logits(part[:, index], window) for index in range(n))
        full = averaged(zip(places, logits, strict=True), input_size) if n > 1 else next(logits)
        labels.append(labels_at(full, size))
    return torch.cat(labels)


def averaged(logits: Iterable[tuple[Place, Tensor]], size: Size) -> Tensor:
    """Average window logits into (B, K, height, width) float32; the windows must cover all of `size`."""
    total: Tensor | None = None
    for place, part in logits:
        if total is None:
            last = part.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            shape = (*part.shape[:2], *size)
            total = torch.empty(shape, dtype=torch.float32, device=part.device, memory_format=layout).zero_()
            count = total.new_zeros(size)
        total[(..., *place)] += part
        count[place] += 1
    assert total is not None  # at least one window covers the image
    return total.div_(count)


def labels_at(logits: Tensor, size: Size) -> Tensor:
    """Return the most likely class of each pixel (B, height, width) int64, from logits (B, K, H, W) resized to `size`.

    A few classes are resized at a time: all 150 classes of a large photograph would take gigabytes.
    """
    if logits.shape[-2:] == size:
        return logits.argmax(1)
    best = labels = torch.empty(0)
    for first in range(0, logits.shape[1], _CLASSES_AT_ONCE):
        some = logits[:, first : first + _CLASSES_AT_ONCE].float()  # half precision would shift borders
        part = F.interpolate(some, size, mode="bilinear")
        highest, which = part.max(1)
        which += first
        if first:
            better = highest > best
            highest, which = torch.where(better, highest, best), torch.where(better, which, labels)
        best, labels = highest, which
    return labels


def _tile(scores: Tensor, form: Form, size: Size) -> int | None:
    """Return the side of the kernel's tiles, one score each; None if they would be tiny, or unequal."""
    stride = form.stride(scores, size)
    return stride if stride is not None and stride >= _SMALLEST_TILE else None


def _images_at_once(scores: Tensor, each: int) -> int:
    """Return how many images with `each` upsampled scores fit within the bound; at least one."""
    return max(1, (_AT_ONCE_ON_CPU if scores.device.type == "cpu" else _AT_ONCE) // each)
